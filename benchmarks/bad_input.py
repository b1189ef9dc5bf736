"""Requests that must be refused: each is answered with a 4xx in OpenAI's form, whatever else goes on."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

CHAT = "/v1/chat/completions"
_JSON = {"content-type": "application/json"}
_HELLO = [{"role": "user", "content": "Hello"}]


@dataclass(frozen=True)
class Bad:
    """One kind of bad request. Bodies and headers go out as they stand."""

    name: str
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=lambda: dict(_JSON))
    path: str = CHAT
    method: str = "POST"


def bad_inputs() -> list[Bad]:
    """Some three dozen kinds."""
    return [*_bodies(), *_fields(), *_around()]


def _bodies() -> Iterator[Bad]:
    yield Bad("empty")
    yield Bad("no JSON", b"hello")
    yield Bad("cut off", b'{"messages": [{"role": "user"')
    yield Bad("a list", b"[]")
    yield Bad("a number", b"1")
    yield Bad("NaN", b'{"messages": [{"role": "user", "content": "x"}], "temperature": NaN}')
    yield Bad("invalid UTF-8", b'{"messages": [{"role": "user", "content": "\xff\xfe"}]}')
    yield Bad("a lone surrogate", b'{"messages": [{"role": "user", "content": "\\ud800"}]}')
    yield Bad("nested deeply", b'{"messages": ' + b"[" * 5000 + b"]" * 5000 + b"}")
    yield Bad("a key twice", b'{"messages": [], "messages": [{"role": "user", "content": "x"}]}')
    yield Bad("too large", b'{"messages": "' + b"x" * (2 << 20) + b'"}')


def _fields() -> Iterator[Bad]:
    def chat(name: str, **fields: Any) -> Bad:
        return Bad(name, json.dumps({"messages": _HELLO} | fields).encode())

    yield chat("no messages", messages=None)
    yield chat("empty messages", messages=[])
    yield chat("messages of texts", messages=["Hello"])
    yield chat("an unknown role", messages=[{"role": "king", "content": "x"}])
    yield chat("nothing said", messages=[{"role": "user", "content": "  "}])
    yield chat("an unknown field of a message", messages=[{"role": "user", "content": "x", "mood": "good"}])
    yield chat("too many messages", messages=_HELLO * 5000)
    yield chat("an unknown field", colour="red")
    yield chat("an unknown model", model="gpt-9")
    yield chat("a model that is no text", model=7)
    yield chat("stream, said yes", stream="yes")
    yield chat("no tokens", max_tokens=-1)
    yield chat("beyond the context", max_tokens=10**7)
    yield chat("temperature, hot", temperature="hot")
    yield chat("n of nothing", n=0)
    yield chat("n of thousands", n=100_000)
    yield chat("too many logprobs", logprobs=True, top_logprobs=1000)
    yield chat("tools of no form", tools=[{"type": "hammer"}])
    yield chat("an answer of no form", response_format={"type": "poem"})


def _around() -> Iterator[Bad]:
    body = json.dumps({"messages": _HELLO, "max_tokens": 2}).encode()
    yield Bad("another media type", body, {"content-type": "text/plain"})
    yield Bad("compressed", body, _JSON | {"content-encoding": "gzip"})
    yield Bad("an unknown tier", body, _JSON | {"x-tierserve-tier": "middle"})
    yield Bad("a request id with spaces", body, _JSON | {"x-request-id": "a b"})
    yield Bad("a session id too long", body, _JSON | {"x-session-id": "x" * 200})
    yield Bad("no such path", body, path="/v1/chats")
    yield Bad("a path trick", body, path="/v1/models/..%2f..%2fetc")
    yield Bad("no such method", method="PUT", body=body)
