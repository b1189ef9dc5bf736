"""What a listener hears of another server's answers, and that the caller sees nothing of it."""

import json
import math
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from tierserve.config import RemoteConfig
from tierserve.core import Call, Heard, Kind
from tierserve.tiers.base import Reply
from tierserve.tiers.remote import RemoteTier

WORDS = ["Os", "l", "o"]


@dataclass
class Listening:
    alternatives: int | None = 0
    impatient: bool = False
    heard: list[Heard] = field(default_factory=list)

    def hear(self, heard: Heard) -> None:
        self.heard.append(heard)

    def of(self, choice: int) -> tuple[str, int, list[list[float]], bool]:
        mine = [heard for heard in self.heard if heard.choice == choice]
        logprobs = [[round(value, 6) for value in token] for heard in mine for token in heard.logprobs]
        text = "".join(heard.text for heard in mine)
        return text, sum(heard.tokens for heard in mine), logprobs, any(heard.ended for heard in mine)


def logprob(number: int) -> float:
    """An odd one is none of the likeliest."""
    return -20.0 if number % 2 else -(number + 1) / 8


class Server:
    """Answers as vLLM does: each choice says WORDS, with what logprobs it was asked for; of a completion the sampled
    token's stand beside those of the likeliest ones."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.tool_calls = False

    def logprobs(self, body: dict[str, Any], chat: bool, numbers: Iterable[int]) -> Any:
        count = body.get("top_logprobs" if chat else "logprobs") or 0
        if body.get("logprobs") is None or body["logprobs"] is False:
            return None
        if not chat:
            top = [
                {WORDS[n]: logprob(n)} | {f"w{other}": -1.0 - other for other in range(count - 1 + n % 2)}
                for n in numbers
            ]
            own = [logprob(n) for n in numbers]
            return {"tokens": [WORDS[n] for n in numbers], "token_logprobs": own, "top_logprobs": top}
        return {
            "content": [
                {
                    "token": WORDS[n],
                    "logprob": logprob(n),
                    "top_logprobs": [{"token": f"w{other}", "logprob": -1.0 - other} for other in range(count)],
                }
                for n in numbers
            ]
        }

    def choices(self, body: dict[str, Any], chat: bool, numbers: list[int], where: str, last: bool) -> list[Any]:
        text = "".join(WORDS[n] for n in numbers)
        said: dict[str, Any] = {"content": text}
        if self.tool_calls:
            said = {"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": text}}]}
        return [
            {"index": index, "finish_reason": "stop" if last else None}
            | ({where: said} if chat else {"text": text})
            | {"logprobs": self.logprobs(body, chat, numbers)}
            for index in range(body.get("n") or 1)
        ]

    async def models(self, request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "m"}]})

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body, chat = await request.json(), "chat" in request.path
        self.asked.append(body)
        usage = {"usage": {"prompt_tokens": 7, "completion_tokens": len(WORDS) * (body.get("n") or 1)}}
        if not body.get("stream"):
            choices = self.choices(body, chat, [*range(len(WORDS))], "message", True)
            return web.json_response({"id": "x", "choices": choices} | usage)
        response = web.StreamResponse()
        await response.prepare(request)
        for number in range(len(WORDS)):
            choices = self.choices(body, chat, [number], "delta", number == len(WORDS) - 1)
            await response.write(f"data: {json.dumps({'id': 'x', 'choices': choices})}\n\n".encode())
        await response.write(f"data: {json.dumps({'choices': []} | usage)}\n\ndata: [DONE]\n\n".encode())
        return response


@pytest.fixture
async def pair() -> AsyncIterator[tuple[Server, RemoteTier]]:
    server, app = Server(), web.Application()
    app.add_routes([web.get("/v1/models", server.models), web.post("/v1/{path:.*}", server.answer)])
    async with TestServer(app) as running:
        tier = RemoteTier("ours", RemoteConfig(url=str(running.make_url("/v1")), model="m"), "tiers.small.remote")
        await tier.start()
        yield server, tier
        await tier.stop()


def call(kind: Kind, stream: bool, **options: Any) -> Call:
    body = ({"messages": []} if kind is Kind.CHAT else {"prompt": "a"}) | {"stream": stream} | options
    return Call("id", kind, body, (), stream)


async def seen(reply: Reply) -> list[Any]:
    """All choices that the caller gets to see."""
    if reply.events is None:
        return list(json.loads(reply.body)["choices"])
    lines = [line async for line in reply.events]
    events = [json.loads(line.removeprefix(b"data: ")) for line in lines if b"[DONE]" not in line]
    return [choice for event in events for choice in event["choices"]]


KINDS = pytest.mark.parametrize("kind", Kind)
STREAMED = pytest.mark.parametrize("stream", [False, True])
OWN = [[logprob(number)] for number in range(len(WORDS))]


@KINDS
@STREAMED
@pytest.mark.parametrize("n", [1, 2])
async def test_logprobs_are_asked_for_heard_and_not_seen(
    pair: tuple[Server, RemoteTier], kind: Kind, stream: bool, n: int
) -> None:
    server, tier = pair
    listening = Listening()
    choices = await seen(await tier.generate(call(kind, stream, n=n), listening))
    expected = {"logprobs": True, "top_logprobs": 0} if kind is Kind.CHAT else {"logprobs": 0}
    assert expected.items() <= server.asked[0].items()
    assert all(choice["logprobs"] is None for choice in choices)
    for choice in range(n):
        text, tokens, logprobs, ended = listening.of(choice)
        assert (text, tokens, ended) == ("Oslo", len(WORDS), True)
        assert [token[:1] for token in logprobs] == OWN


@KINDS
@STREAMED
@pytest.mark.parametrize("wanted", [0, 2, 8])
@pytest.mark.parametrize("asked", [0, 1, 3])
async def test_a_caller_sees_what_it_asked_for_whatever_the_listener_wants(
    pair: tuple[Server, RemoteTier], kind: Kind, stream: bool, wanted: int, asked: int
) -> None:
    _, tier = pair
    options = {"logprobs": True, "top_logprobs": asked} if kind is Kind.CHAT else {"logprobs": asked}
    alone = await seen(await tier.generate(call(kind, stream, **options)))
    listening = Listening(wanted)
    assert await seen(await tier.generate(call(kind, stream, **options), listening)) == alone
    assert all(len(token) > wanted for token in listening.of(0)[2])


@KINDS
@STREAMED
async def test_who_wants_no_logprobs_hears_the_words_and_asks_for_nothing(
    pair: tuple[Server, RemoteTier], kind: Kind, stream: bool
) -> None:
    server, tier = pair
    listening = Listening(None)
    await seen(await tier.generate(call(kind, stream), listening))
    assert "logprobs" not in server.asked[0]
    assert listening.of(0) == ("Oslo", len(WORDS), [], True)
    assert math.fsum(heard.prompt_tokens for heard in listening.heard) == (0 if stream else 7)


@STREAMED
async def test_a_call_of_a_tool_is_heard_as_words(pair: tuple[Server, RemoteTier], stream: bool) -> None:
    """Or each of them would pass for an empty answer."""
    server, tier = pair
    server.tool_calls = True
    listening = Listening()
    choices = await seen(await tier.generate(call(Kind.CHAT, stream), listening))
    said = [choice["delta" if stream else "message"] for choice in choices]
    assert "".join(one["tool_calls"][0]["function"]["arguments"] for one in said) == "Oslo"
    text, tokens, logprobs, ended = listening.of(0)
    assert "Os" in text and tokens == len(logprobs) == len(WORDS) and ended
