"""What a server elsewhere can do to a tier: refuse, break off, answer nonsense, be away."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from tierserve.config import RemoteConfig
from tierserve.core import Call, Kind, Queue
from tierserve.errors import (
    ConfigError,
    ContextOverflow,
    RequestError,
    TierBusy,
    TierStartError,
    TierUnavailable,
)
from tierserve.tiers.base import TierState
from tierserve.tiers.remote import RemoteTier

CHUNK = {"id": "theirs", "model": "m", "choices": [{"index": 0, "delta": {"content": "a"}}]}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Elsewhere:
    """A server whose answer to a chat is what the test says."""

    def __init__(self) -> None:
        self.answer: Handler = self._nothing
        self.requests: list[tuple[dict[str, str], dict[str, Any]]] = []

    async def _nothing(self, request: web.Request) -> web.StreamResponse:
        raise NotImplementedError

    async def models(self, request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "m", "max_model_len": 99}]})

    async def chat(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(({k.lower(): v for k, v in request.headers.items()}, await request.json()))
        return await self.answer(request)


@pytest.fixture
async def elsewhere() -> AsyncIterator[tuple[Elsewhere, RemoteTier]]:
    server = Elsewhere()
    app = web.Application()
    app.add_routes([web.get("/v1/models", server.models), web.post("/v1/chat/completions", server.chat)])
    async with TestServer(app) as running:
        config = RemoteConfig(url=str(running.make_url("/v1")), model="m", timeout_s=1, max_num_seqs=1)
        tier = RemoteTier("ours", config, "tiers.large.remote")
        await tier.start()
        yield server, tier
        assert tier.queue == Queue(waiting=0, has_room=True), "a request that has ended still counts"
        await tier.stop()


def call(stream: bool = False, **options: Any) -> Call:
    return Call("our-id", Kind.CHAT, {"messages": [], "stream": stream} | options, (), stream)


def streamed(*lines: bytes, close: bool = False) -> Handler:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for line in lines:
            await response.write(line)
        if close:
            assert request.transport is not None
            request.transport.close()
        return response

    return answer


def event(data: Any) -> bytes:
    return f"data: {json.dumps(data)}\n\n".encode()


async def test_it_asks_for_its_model_by_the_name_used_there(elsewhere: tuple[Elsewhere, RemoteTier]) -> None:
    server, tier = elsewhere

    async def answer(request: web.Request) -> web.Response:
        return web.json_response({"id": "theirs", "model": "m", "choices": [], "usage": {"prompt_tokens": 3}})

    server.answer = answer
    reply = await tier.generate(call(temperature=0.5))
    headers, body = server.requests[0]
    assert (body["model"], body["temperature"]) == ("m", 0.5)
    assert headers["x-request-id"] == "our-id"
    assert json.loads(reply.body)["model"] == "ours"
    assert json.loads(reply.body)["id"] == "chatcmpl-our-id"
    assert reply.usage.prompt_tokens == 3
    assert tier.max_model_len == 99


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (400, {"error": {"message": "bad", "param": "n"}}, RequestError),
        (400, {"error": {"message": "too long", "code": "context_length_exceeded"}}, ContextOverflow),
        (400, {"error": {"message": "This model's maximum context length is 5 tokens"}}, ContextOverflow),
        (401, {"error": {"message": "no key"}}, TierUnavailable),
        (404, "nothing", TierUnavailable),
        (429, {"error": {"message": "slow down"}}, TierBusy),
        (503, {"error": "busy"}, TierBusy),
        (500, {"error": None}, TierUnavailable),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_refusal_there_becomes_ours(
    elsewhere: tuple[Elsewhere, RemoteTier], status: int, body: Any, expected: type[Exception], stream: bool
) -> None:
    server, tier = elsewhere

    async def answer(request: web.Request) -> web.Response:
        return web.json_response(body, status=status)

    server.answer = answer
    with pytest.raises(expected) as raised:
        await tier.generate(call(stream))
    assert type(raised.value) is expected


@pytest.mark.parametrize("text", ["<html>", "[]", "5", "null", '{"usage": {"prompt_tokens": "x"}}', '{"usage": 5}'])
async def test_an_answer_that_is_not_openai_s_makes_it_unavailable(
    elsewhere: tuple[Elsewhere, RemoteTier], text: str
) -> None:
    server, tier = elsewhere

    async def answer(request: web.Request) -> web.Response:
        return web.Response(text=text)

    server.answer = answer
    with pytest.raises(TierUnavailable):
        await tier.generate(call())


@pytest.mark.parametrize(
    "lines",
    [[], [b": comment\n\n"], [b"data: {not json\n\n"], [b'data: {"error": {}}\n\n']],
    ids=["nothing", "comment", "junk", "error"],
)
async def test_a_stream_with_no_first_event_can_still_be_answered_elsewhere(
    elsewhere: tuple[Elsewhere, RemoteTier], lines: list[bytes]
) -> None:
    server, tier = elsewhere
    server.answer = streamed(*lines)
    with pytest.raises(TierUnavailable):
        await tier.generate(call(stream=True))


@pytest.mark.parametrize("then", [None, b"data: [1]\n\n", b"data: 5\n\n", b"data: {no\n\n"])
@pytest.mark.parametrize("close", [False, True])
async def test_a_stream_that_breaks_off_ends_with_an_error_and_done(
    elsewhere: tuple[Elsewhere, RemoteTier], close: bool, then: bytes | None
) -> None:
    server, tier = elsewhere
    server.answer = streamed(event(CHUNK), *([then] if then else []), close=close)
    reply = await tier.generate(call(stream=True))
    assert reply.events is not None
    text = b"".join([event async for event in reply.events]).decode()
    assert reply.broken
    assert '"content": "a"' in text
    assert '"error"' in text
    assert text.endswith("data: [DONE]\n\n")


async def test_a_server_that_falls_silent_is_given_up(elsewhere: tuple[Elsewhere, RemoteTier]) -> None:
    import asyncio

    server, tier = elsewhere
    release = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        await release.wait()
        return web.Response()

    server.answer = answer
    with pytest.raises(TierUnavailable):
        await tier.generate(call())
    release.set()


async def test_usage_is_always_asked_for_and_shown_only_to_who_asked(
    elsewhere: tuple[Elsewhere, RemoteTier],
) -> None:
    server, tier = elsewhere
    usage = {"choices": [], "usage": {"prompt_tokens": 2, "completion_tokens": 1}}
    server.answer = streamed(event(CHUNK), event(usage), b"data: [DONE]\n\n")
    reply = await tier.generate(call(stream=True))
    assert reply.events is not None
    text = b"".join([event async for event in reply.events])
    assert server.requests[0][1]["stream_options"] == {"include_usage": True}
    assert b"usage" not in text
    assert reply.usage.completion_tokens == 1
    reply = await tier.generate(call(stream=True, stream_options={"include_usage": True}))
    assert reply.events is not None
    assert b"usage" in b"".join([event async for event in reply.events])


async def test_what_it_is_busy_with_is_its_queue(elsewhere: tuple[Elsewhere, RemoteTier]) -> None:
    server, tier = elsewhere
    server.answer = streamed(event(CHUNK), b"data: [DONE]\n\n")
    first, second = [await tier.generate(call(stream=True)) for _ in range(2)]
    assert first.events is not None and second.events is not None
    assert tier.queue == Queue(waiting=1, has_room=False)
    await first.events.aclose()
    assert tier.queue == Queue(waiting=0, has_room=False)
    await second.events.aclose()
    unknown = RemoteTier("ours", RemoteConfig(url=tier._url, model="m"), "tiers.large.remote")
    unknown._unfinished = 1000
    assert unknown.queue == Queue()


async def test_a_model_that_is_not_there_stops_the_start(elsewhere: tuple[Elsewhere, RemoteTier]) -> None:
    _, tier = elsewhere
    other = RemoteTier("ours", RemoteConfig(url=tier._url, model="x"), "tiers.large.remote")
    with pytest.raises(TierStartError, match="has no model 'x', but m"):
        await other.start()
    assert other.state is TierState.FAILED


async def test_a_server_that_is_away_stops_the_start() -> None:
    tier = RemoteTier("ours", RemoteConfig(url="http://127.0.0.1:9/v1", model="m"), "tiers.large.remote")
    with pytest.raises(TierStartError, match="does not answer"):
        await tier.start()


async def test_a_server_that_goes_away_is_unavailable_and_comes_back(
    elsewhere: tuple[Elsewhere, RemoteTier], unused_tcp_port: int
) -> None:
    _, tier = elsewhere
    there, tier._url = tier._url, f"http://127.0.0.1:{unused_tcp_port}/v1"
    with pytest.raises(TierUnavailable, match="can't be reached"):
        await tier.generate(call())
    assert tier.state is TierState.FAILED
    server, tier._url = elsewhere[0], there
    server.answer = streamed(event(CHUNK), b"data: [DONE]\n\n")
    reply = await tier.generate(call(stream=True))
    assert tier.state is TierState.READY
    assert reply.events is not None
    await reply.events.aclose()


async def test_a_server_that_went_away_is_ready_again_once_it_says_so(
    elsewhere: tuple[Elsewhere, RemoteTier], unused_tcp_port: int
) -> None:
    _, tier = elsewhere
    there, tier._url = tier._url, f"http://127.0.0.1:{unused_tcp_port}/v1"
    with pytest.raises(TierUnavailable):
        await tier.generate(call())
    with pytest.raises(TierUnavailable, match="does not answer"):
        await tier.check()
    assert tier.state is TierState.FAILED
    tier._url = there
    await tier.check()
    assert tier.state is TierState.READY


def test_a_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    config = RemoteConfig(url="http://h/v1", model="m", api_key_env="NO_SUCH_KEY")
    with pytest.raises(ConfigError, match="tiers.large.remote.api_key_env: the environment variable NO_SUCH_KEY"):
        RemoteTier("ours", config, "tiers.large.remote")
