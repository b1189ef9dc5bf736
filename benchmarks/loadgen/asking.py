"""One request: sent, read to its end, and what is known of it then. Never raises for what a server does wrong."""

import json
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
import yarl

# vLLM and tierserve say usage in an event of its own, OpenAI in the last one, others null in each. Quotes inside
# generated text are escaped, so the mark can't occur there.
_USAGE = re.compile(rb'"usage":\s*\{')
_SPOKEN = ("content", "reasoning", "reasoning_content", "refusal", "tool_calls", "text")


@dataclass(slots=True)
class Sample:
    """A request and its answer; times are time.perf_counter's. `error` names the kind of failure, or is empty."""

    due_s: float  # when it had to be sent: what the caller waits for begins here, however late the client was
    sent_s: float
    end_s: float = 0
    first_s: float | None = None  # the first event that holds something of the answer; None where it was not streamed
    prompt_tokens: int = 0
    output_tokens: int = 0
    model: str = ""
    escalated: bool | None = None  # None: the server does not say
    error: str = ""
    retry_after: str = ""  # the header of a refusal

    @property
    def latency_s(self) -> float:
        return self.end_s - self.due_s

    @property
    def ttft_s(self) -> float | None:
        """Time to first token."""
        return None if self.first_s is None else self.first_s - self.due_s

    @property
    def tpot_s(self) -> float | None:
        """Time per output token after the first one."""
        if self.first_s is None or self.output_tokens < 2:
            return None
        return (self.end_s - self.first_s) / (self.output_tokens - 1)


class EventReader:
    """Server-sent events from bytes, wherever these are cut."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The data of each event that `data` completes."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            line = line.removesuffix(b"\r")
            if line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" "))
            elif not line and self._data:
                event, self._data = b"\n".join(self._data), []
                yield event


class _Failed(Exception):
    """The answer is none; the text is the kind of error."""


async def ask(
    session: aiohttp.ClientSession, address: yarl.URL, body: bytes, headers: Mapping[str, str], due_s: float
) -> Sample:
    """POST a request that is due at `due_s`, or as long ago."""
    sample = Sample(due_s, time.perf_counter())
    try:
        async with session.post(address, data=body, headers=headers) as response:
            if response.status != 200:
                sample.retry_after = response.headers.get("retry-after", "")
                await response.read()  # or the connection could not be kept
                raise _Failed(f"http {response.status}")
            if escalated := response.headers.get("x-tierserve-escalated"):
                sample.escalated = escalated == "true"
            if response.content_type == "text/event-stream":
                await _read_stream(response, sample)
            else:
                _take_whole(await response.read(), sample)
            sample.model = response.headers.get("x-tierserve-tier", sample.model)
    except _Failed as error:
        sample.error = str(error)
    except TimeoutError:
        sample.error = "timeout"
    except aiohttp.ClientConnectorError:
        sample.error = "no connection"
    except (aiohttp.ClientError, ConnectionError):
        sample.error = "cut off"
    sample.end_s = time.perf_counter()
    return sample


async def refusal(session: aiohttp.ClientSession, address: yarl.URL, body: bytes, headers: Mapping[str, str]) -> str:
    """What keeps the server from answering a request, for people; empty if it does."""
    try:
        async with session.post(address, data=body, headers=headers) as response:
            said = await response.text(errors="replace")
            return "" if response.status == 200 else f"{response.status} {response.reason}: {said[:500]}"
    except TimeoutError:
        return "no answer in time"
    except (aiohttp.ClientError, ConnectionError) as error:
        return str(error) or type(error).__name__


async def _read_stream(response: aiohttp.ClientResponse, sample: Sample) -> None:
    reader = EventReader()
    later: list[bytes] = []  # after the first token and without usage: read only where usage never comes
    done = False
    async for data in response.content.iter_any():
        for event in reader.feed(data):
            if event == b"[DONE]":
                done = True
            elif sample.first_s is None or event.startswith(b'{"error"') or _USAGE.search(event):
                _take_event(_parsed(event), sample)
            else:
                later.append(event)
    if not done:
        raise _Failed("cut off")
    if sample.output_tokens == 0 and sample.first_s is not None:
        sample.output_tokens = 1 + sum(_speaks(_parsed(event)) for event in later)


def _take_event(event: dict[str, Any], sample: Sample) -> None:
    if "error" in event:
        raise _Failed("error in the stream")
    if sample.first_s is None and _speaks(event):
        sample.first_s = time.perf_counter()
    _take_common(event, sample)


def _take_whole(body: bytes, sample: Sample) -> None:
    answer = _parsed(body)
    if not answer.get("choices"):
        raise _Failed("no answer in the body")
    _take_common(answer, sample)


def _take_common(answer: dict[str, Any], sample: Sample) -> None:
    sample.model = answer.get("model") or sample.model
    if usage := answer.get("usage"):
        sample.prompt_tokens = usage.get("prompt_tokens") or 0
        sample.output_tokens = usage.get("completion_tokens") or 0


def _speaks(event: dict[str, Any]) -> bool:
    """Whether an event holds something of the answer: the first one often names the role alone."""
    parts = (choice.get("delta") or choice for choice in event.get("choices") or ())
    return any(part.get(name) for part in parts for name in _SPOKEN)


def _parsed(raw: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(raw)
    except ValueError:
        raise _Failed("not JSON") from None
    if not isinstance(parsed, dict):
        raise _Failed("not JSON")
    return parsed


def session(timeout_s: float) -> aiohttp.ClientSession:
    """A client that opens as many connections as are needed and keeps them."""
    # Servers close idle connections, uvicorn after 5 s: what is about to be closed must not get the next request.
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=3)
    return aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=timeout_s))
