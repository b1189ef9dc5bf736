"""A tier that is another OpenAI-compatible server: a vLLM deployment, another node, a hosted API."""

import json
from collections.abc import AsyncGenerator, Iterator, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import aiohttp
from prometheus_client import Metric

from tierserve.config import secret
from tierserve.core import Call, Kind, Queue
from tierserve.errors import (
    ContextOverflow,
    RequestError,
    TierBusy,
    TierserveError,
    TierStartError,
    TierUnavailable,
)
from tierserve.tiers.base import Listener, Occupancy, Reply, TierState, armed, queue_of
from tierserve.tiers.remote_ear import RemoteEar, usage_of

if TYPE_CHECKING:
    from tierserve.config import RemoteConfig

_PATHS: Mapping[Kind, str] = {Kind.CHAT: "/chat/completions", Kind.COMPLETION: "/completions"}
_CONNECT_S = 5
_CHECK_S = 10
# What comes of reading an answer that is not of OpenAI's form.
_NOT_AS_EXPECTED = (ValueError, TypeError, AttributeError, KeyError)
_DONE = "[DONE]"
# One event of a stream: a token with logprobs and tool calls stays far below it.
_LONGEST_LINE = 1 << 20


class RemoteTier:
    """Answers carry this tier's name and the call's id, as those of an engine here do. `where` is the path of its
    section in the configuration file."""

    def __init__(self, name: str, config: "RemoteConfig", where: str) -> None:
        self.name = name
        self.max_model_len: int | None = None
        self.state = TierState.STOPPED
        self.waiting_for = ""
        self._config = config
        self._url = config.url.rstrip("/")
        self._key = secret(f"{where}.api_key_env", config.api_key_env)
        self._session: aiohttp.ClientSession | None = None
        self._unfinished = 0

    @property
    def slots(self) -> int | None:
        return self._config.max_num_seqs

    @property
    def queue(self) -> Queue:
        """As far as this node knows: what others send there is not counted."""
        return queue_of(self._unfinished, self.slots)

    @property
    def occupancy(self) -> Occupancy:
        """Its requests of ours; its cache is its own affair."""
        return Occupancy(self._unfinished)

    async def find_weights(self) -> None:
        pass

    async def start(self) -> None:
        self.state = TierState.LOADING
        self.waiting_for = f"an answer from {self._url}"
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S, sock_read=self._config.timeout_s)
        headers = {"authorization": f"Bearer {self._key}"} if self._key else {}
        self._session = aiohttp.ClientSession(
            timeout=timeout,
            headers=headers,
            connector=aiohttp.TCPConnector(limit=0),  # how many at once is the node's admission to say
            read_bufsize=_LONGEST_LINE,
        )
        try:
            async with self._session.get(f"{self._url}/models") as response:
                await _raise_for(response, self.name)
                models = (await response.json(content_type=None)).get("data", [])
                known = {model["id"]: model for model in models}
        except (TierserveError, aiohttp.ClientError, *_NOT_AS_EXPECTED, TimeoutError) as error:
            await self.stop()
            self.state = TierState.FAILED
            raise TierStartError(f"{self.name}: {self._url}/models does not answer ({error})") from error
        if self._config.model not in known:
            await self.stop()
            self.state = TierState.FAILED
            raise TierStartError(
                f"{self.name}: {self._url} has no model {self._config.model!r}, but {', '.join(map(str, known))}"
            )
        self.max_model_len = known[self._config.model].get("max_model_len")
        self.state, self.waiting_for = TierState.READY, ""

    async def stop(self) -> None:
        self.state = TierState.STOPPED
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def check(self) -> None:
        """Ask the server whether it is there; the tier is ready again if so. Raises TierUnavailable."""
        if self._session is None:
            raise TierUnavailable(f"{self.name} is {self.state}")
        try:
            limit = aiohttp.ClientTimeout(total=_CHECK_S)
            async with self._session.get(f"{self._url}/models", timeout=limit) as response:
                await _raise_for(response, self.name)
        except (TierserveError, aiohttp.ClientError, TimeoutError) as error:
            raise TierUnavailable(f"{self.name}: {self._url}/models does not answer ({error})") from error
        if self.state is TierState.FAILED:
            self.state = TierState.READY

    async def fits(self, call: Call) -> bool:
        """True: only the server there has the tokenizer, and it refuses what does not fit."""
        return True

    async def generate(self, call: Call, listener: Listener | None = None) -> Reply:
        if self._session is None:
            raise TierUnavailable(f"{self.name} is {self.state}")
        self._unfinished += 1
        streaming = False
        try:
            reply = await self._post(self._session, call, RemoteEar(call, listener))
            streaming = reply.events is not None
            return reply
        finally:
            self._unfinished -= not streaming  # of a stream, `_events` counts the end

    async def prewarm(self, call: Call) -> bool:
        """No: whether that server keeps what it has read is not known, and it may be paid by the token."""
        return False

    def metrics(self) -> Iterator[Metric]:
        return iter(())

    async def _post(self, session: aiohttp.ClientSession, call: Call, ear: RemoteEar) -> Reply:
        body = dict(call.body) | {"model": self._config.model} | ear.asks
        wants_usage = bool((body.get("stream_options") or {}).get("include_usage"))
        if call.stream:
            body["stream_options"] = {**(body.get("stream_options") or {}), "include_usage": True}
        try:
            headers = {"x-request-id": call.id} | (call.trace.headers if call.trace else {})
            response = await session.post(self._url + _PATHS[call.kind], json=body, headers=headers)
        except (aiohttp.ClientError, TimeoutError) as error:
            self.state = TierState.FAILED
            raise TierUnavailable(f"{self.name} can't be reached: {error}") from error
        self.state = TierState.READY
        try:
            await _raise_for(response, self.name)
            if call.stream:
                return await self._opened(call, response, wants_usage, ear)
            return await self._whole(call, response, ear)
        except (aiohttp.ClientError, TimeoutError, *_NOT_AS_EXPECTED) as error:
            response.close()
            raise TierUnavailable(f"{self.name} broke off: {error}") from error
        except BaseException:
            response.close()
            raise

    async def _whole(self, call: Call, response: aiohttp.ClientResponse, ear: RemoteEar) -> Reply:
        answer = self._ours(call, json.loads(await response.read()))
        ear.hear(answer)
        return Reply(json.dumps(answer).encode(), usage=usage_of(answer))

    async def _opened(self, call: Call, response: aiohttp.ClientResponse, wants_usage: bool, ear: RemoteEar) -> Reply:
        events = _data_lines(response)
        first = await anext(events, None)
        if first is None:
            raise TierUnavailable(f"{self.name} sent an empty stream")
        if first != _DONE and "error" in (event := json.loads(first)):
            raise TierUnavailable(f"{self.name}: {event['error']}")
        reply = Reply()
        reply.events = await armed(self._events(call, first, events, response, reply, wants_usage, ear))
        return reply

    async def _events(
        self,
        call: Call,
        first: str,
        rest: AsyncGenerator[str, None],
        response: aiohttp.ClientResponse,
        reply: Reply,
        wants_usage: bool,
        ear: RemoteEar,
    ) -> AsyncGenerator[bytes, None]:
        line: str | None = first
        try:
            yield b""
            while line is not None and line != _DONE:
                event = json.loads(line)
                reply.broken = reply.broken or "error" in event
                if event.get("usage"):
                    reply.usage = usage_of(event)
                ear.hear(event)
                if wants_usage or event.get("choices") or "error" in event:
                    yield f"data: {json.dumps(self._ours(call, event))}\n\n".encode()
                line = await anext(rest, None)
            if line is None:
                raise TierUnavailable("the stream ended before it was done")
        except (aiohttp.ClientError, TimeoutError, TierUnavailable, *_NOT_AS_EXPECTED) as error:
            reply.broken = True
            problem = {"message": f"{self.name} broke off: {error}", "type": "server_error", "code": 502, "param": None}
            yield f"data: {json.dumps({'error': problem})}\n\n".encode()
        finally:
            self._unfinished -= 1
            response.close()
        yield f"data: {_DONE}\n\n".encode()

    def _ours(self, call: Call, answer: dict[str, Any]) -> dict[str, Any]:
        if "error" in answer:
            return answer
        prefix = "chatcmpl" if call.kind is Kind.CHAT else "cmpl"
        return answer | {"id": f"{prefix}-{call.id}", "model": self.name}


async def _data_lines(response: aiohttp.ClientResponse) -> AsyncGenerator[str, None]:
    """The payloads of a stream of server-sent events (WHATWG HTML, section 9.2), of which OpenAI's use one line."""
    async for line in response.content:
        text = line.decode().strip()
        if text.startswith("data:"):
            yield text.removeprefix("data:").strip()


async def _raise_for(response: aiohttp.ClientResponse, name: str) -> None:
    """The server's refusal in our tree. What is wrong with our key or path there is not the caller's fault."""
    if response.status < HTTPStatus.BAD_REQUEST:
        return
    try:
        problem = json.loads(await response.read())["error"]
        message, param, code = str(problem["message"]), problem.get("param"), problem.get("code")
    except (ValueError, KeyError, TypeError, AttributeError):
        message, param, code = f"status {response.status}", None, None
    match response.status:
        case HTTPStatus.TOO_MANY_REQUESTS | HTTPStatus.SERVICE_UNAVAILABLE:
            raise TierBusy(f"{name}: {message}")
        case HTTPStatus.BAD_REQUEST | HTTPStatus.REQUEST_ENTITY_TOO_LARGE | HTTPStatus.UNPROCESSABLE_ENTITY:
            overflow = code == ContextOverflow.code or "maximum context length" in message
            raise (ContextOverflow if overflow else RequestError)(message, param)
        case _:
            raise TierUnavailable(f"{name}: {message} (status {response.status})")
