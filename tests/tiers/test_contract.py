"""One contract for every kind of tier: what tiers/base.py promises, each keeps."""

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

import aiohttp
import pytest
from node import Node

from tests.tiers.test_remote_ear import Listening
from tierserve.config import RemoteConfig, TierConfig
from tierserve.core import Call, Kind, Prompt, Queue
from tierserve.errors import ContextOverflow, RequestError, TierUnavailable
from tierserve.tiers.base import Tier, TierState
from tierserve.tiers.remote import RemoteTier
from tierserve.tiers.scripted import ScriptedTier
from tierserve.tiers.vllm_tier import VllmTier

WORD = "word "


@dataclass
class Kit:
    """A tier that is ready, how many requests it is busy with, and a text that is too long for it."""

    tier: Tier
    unfinished: Callable[[], Awaitable[int]]
    too_long: str

    async def until_unfinished(self, count: int) -> None:
        deadline = time.monotonic() + 30
        while await self.unfinished() != count:
            assert time.monotonic() < deadline, f"{await self.unfinished()} requests unfinished, expected {count}"
            await asyncio.sleep(0.02)


async def scripted(request: pytest.FixtureRequest) -> AsyncIterator[Kit]:
    tier = ScriptedTier("scripted", ["Hel", "lo"] * 4 + [asyncio.Event()], max_model_len=50)

    async def unfinished() -> int:
        return tier.running

    await tier.start()
    yield Kit(tier, unfinished, WORD * 51)


async def remote(request: pytest.FixtureRequest) -> AsyncIterator[Kit]:
    """A tier at the running node: vLLM's engine, one HTTP hop away."""
    node: Node = request.getfixturevalue("node")
    tier = RemoteTier("remote", RemoteConfig(url=f"{node.url}/v1", model="lab-small"), "tiers.small.remote")

    async def unfinished() -> int:
        async with aiohttp.ClientSession() as session, session.get(f"{node.url}/metrics") as response:
            lines = (await response.text()).splitlines()
        running = [line for line in lines if line.startswith(("vllm:num_requests_running", "vllm:num_requests_wait"))]
        assert running
        return int(sum(float(line.split()[-1]) for line in running if "lab-small" in line))

    await tier.start()
    yield Kit(tier, unfinished, WORD * 2000)
    await tier.stop()


async def vllm(request: pytest.FixtureRequest) -> AsyncIterator[Kit]:
    """An engine of this very process."""
    lab = request.getfixturevalue("lab")
    tier = VllmTier(TierConfig(**lab["tiers"]["small"]), "tiers.small")
    before = dict(os.environ)
    await tier.find_weights()
    await tier.start()

    async def unfinished() -> int:
        assert tier._engine is not None
        return tier._engine.output_processor.get_num_unfinished_requests()

    yield Kit(tier, unfinished, WORD * 2000)
    await tier.stop()
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(scripted, id="scripted"),
        pytest.param(remote, id="remote", marks=pytest.mark.engine),
        pytest.param(vllm, id="vllm", marks=pytest.mark.engine),
    ],
)
async def kit(request: pytest.FixtureRequest) -> AsyncIterator[Kit]:
    async for kit in request.param(request):
        yield kit


@pytest.fixture(autouse=True)
def answers_end(kit: Kit, request: pytest.FixtureRequest) -> None:
    """The scripted tier answers at once, but for the tests in which it must never come to an end."""
    if isinstance(kit.tier, ScriptedTier):
        endless = "slot" in request.node.name
        kit.tier.script = ["Hel", "lo"] * 4 + ([asyncio.Event()] if endless else [])


def chat(text: str = "hello", stream: bool = False, **options: Any) -> Call:
    body = {"messages": [{"role": "user", "content": text}], "max_tokens": 8, "stream": stream} | options
    return Call(f"id{time.monotonic_ns()}", Kind.CHAT, body, (Prompt(text),), stream)


def completion(text: str = "hello", stream: bool = False, **options: Any) -> Call:
    body = {"prompt": text, "max_tokens": 8, "stream": stream} | options
    return Call(f"id{time.monotonic_ns()}", Kind.COMPLETION, body, (Prompt(text),), stream)


async def read(events: Any) -> list[dict[str, Any]]:
    """The events of a stream, which must end with [DONE]."""
    async with aclosing(events):
        text = b"".join([event async for event in events]).decode()
    payloads = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert payloads[-1] == "[DONE]"
    return [json.loads(payload) for payload in payloads[:-1]]


async def test_it_is_ready_once_started(kit: Kit) -> None:
    assert kit.tier.state is TierState.READY
    assert kit.tier.max_model_len


@pytest.mark.parametrize("make", [chat, completion])
async def test_a_whole_answer_is_openai_s_json_under_the_tier_s_name(kit: Kit, make: Callable[..., Call]) -> None:
    call = make()
    reply = await kit.tier.generate(call)
    assert reply.events is None
    body = json.loads(reply.body)
    assert body["model"] == kit.tier.name
    assert call.id in body["id"]
    (choice,) = body["choices"]
    assert isinstance(choice["message"]["content"] if make is chat else choice["text"], str)
    assert choice["finish_reason"] in ("stop", "length")
    usage = body["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (
        reply.usage.prompt_tokens,
        reply.usage.completion_tokens,
    )
    assert reply.usage.prompt_tokens > 0
    assert 0 < reply.usage.completion_tokens <= 8


@pytest.mark.parametrize("make", [chat, completion])
async def test_a_stream_is_openai_s_events_under_the_tier_s_name(kit: Kit, make: Callable[..., Call]) -> None:
    call = make(stream=True)
    reply = await kit.tier.generate(call)
    events = await read(reply.events)
    assert {event["model"] for event in events} == {kit.tier.name}
    assert all(call.id in event["id"] for event in events)
    assert len({event["id"] for event in events}) == 1
    assert all(event["choices"] for event in events), "usage that nobody asked for"
    assert not reply.broken
    assert reply.usage.prompt_tokens > 0
    assert 0 < reply.usage.completion_tokens <= 8


async def test_a_stream_tells_its_usage_when_asked_to(kit: Kit) -> None:
    if isinstance(kit.tier, ScriptedTier):
        pytest.skip("a script knows no options")
    reply = await kit.tier.generate(chat(stream=True, stream_options={"include_usage": True}))
    *_, last = await read(reply.events)
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == reply.usage.completion_tokens


@pytest.mark.parametrize("events_read", [0, 1])
async def test_closing_a_stream_frees_the_slot(kit: Kit, events_read: int) -> None:
    reply = await kit.tier.generate(chat(stream=True, max_tokens=1500, ignore_eos=True))
    assert reply.events is not None
    for _ in range(events_read):
        await anext(reply.events)
    await kit.until_unfinished(1)
    await reply.events.aclose()
    await kit.until_unfinished(0)


@pytest.mark.parametrize("stream", [False, True])
async def test_cancelling_a_call_frees_the_slot(kit: Kit, stream: bool) -> None:
    """While it waits for the whole answer; of a stream, for its first event: with many tokens to read before that."""
    if isinstance(kit.tier, ScriptedTier):
        kit.tier.script = [asyncio.Event()]
    text = "a b c d " * 200 if stream and not isinstance(kit.tier, ScriptedTier) else "hello"
    call = asyncio.create_task(kit.tier.generate(chat(text, stream=stream, max_tokens=500, ignore_eos=True)))
    if isinstance(kit.tier, ScriptedTier) or not stream:
        await kit.until_unfinished(1)
    else:
        await asyncio.sleep(0.01)  # somewhere between rendering and the first token
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await kit.until_unfinished(0)


async def test_many_at_once_each_get_their_own_answer(kit: Kit) -> None:
    calls = [chat("hello " * (1 + number % 9), stream=bool(number % 2)) for number in range(24)]
    replies = await asyncio.gather(*(kit.tier.generate(call) for call in calls))
    for call, reply in zip(calls, replies, strict=True):
        events = [json.loads(reply.body)] if reply.events is None else await read(reply.events)
        assert all(call.id in event["id"] for event in events)
    await kit.until_unfinished(0)
    assert kit.tier.queue == Queue(waiting=0, has_room=True)


async def test_a_slot_that_is_taken_shows(kit: Kit) -> None:
    reply = await kit.tier.generate(chat(stream=True, max_tokens=1500, ignore_eos=True))
    assert kit.tier.occupancy.unfinished == 1
    assert reply.events is not None
    await reply.events.aclose()
    await kit.until_unfinished(0)
    assert kit.tier.occupancy.unfinished == 0
    assert kit.tier.occupancy.kv_used in (0, None)


@pytest.mark.parametrize("stream", [False, True])
async def test_what_is_too_long_is_said_to_be(kit: Kit, stream: bool) -> None:
    with pytest.raises(ContextOverflow):
        await kit.tier.generate(chat(kit.too_long, stream=stream))


async def test_what_fits_is_known_beforehand_where_the_tokenizer_is_here(kit: Kit) -> None:
    assert await kit.tier.fits(chat())
    if not isinstance(kit.tier, RemoteTier):
        assert not await kit.tier.fits(chat(kit.too_long))


async def test_the_edge_of_the_context_is_exact(kit: Kit) -> None:
    if not isinstance(kit.tier, VllmTier):
        pytest.skip("only an engine here counts tokens")
    assert kit.tier.max_model_len is not None
    used = (await kit.tier.generate(chat(max_tokens=1))).usage.prompt_tokens
    edge = kit.tier.max_model_len - used
    assert await kit.tier.fits(chat(max_tokens=edge))
    assert not await kit.tier.fits(chat(max_tokens=edge + 1))
    with pytest.raises(ContextOverflow, match=f"ask for at most {edge}, or shorten the prompt"):
        await kit.tier.generate(chat(max_tokens=edge + 1))


async def test_what_is_wrong_is_the_caller_s_to_mend(kit: Kit) -> None:
    if isinstance(kit.tier, ScriptedTier):
        pytest.skip("a script knows no options")
    with pytest.raises(RequestError, match="temperature"):
        await kit.tier.generate(chat(temperature=-1))


async def test_metrics_name_the_tier(kit: Kit) -> None:
    for metric in kit.tier.metrics():
        assert metric.name.startswith("vllm:")
        assert all(sample.labels.get("model_name", kit.tier.name) == kit.tier.name for sample in metric.samples)


async def choices(reply: Any) -> list[dict[str, Any]]:
    """What the caller gets to see, piece by piece."""
    answers = [json.loads(reply.body)] if reply.events is None else await read(reply.events)
    return [choice for answer in answers for choice in answer["choices"]]


def text_of(choice: dict[str, Any]) -> str:
    said = choice.get("message") or choice.get("delta")
    return (said.get("content") if said is not None else choice["text"]) or ""


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("make", [chat, completion])
@pytest.mark.parametrize(
    "options", [{}, {"n": 2}, {"prompt": ["hello", "a b c"]}, {"prompt": ["a", "b"], "n": 2}], ids=str
)
async def test_a_listener_hears_all_of_the_text_and_logprobs_of_each_token(
    kit: Kit, make: Callable[..., Call], stream: bool, options: dict[str, Any]
) -> None:
    if make is chat and "prompt" in options:
        pytest.skip("a chat has one prompt")
    listening = Listening()
    reply = await kit.tier.generate(make(stream=stream, **options), listening)
    seen = await choices(reply)
    indices = {choice["index"] for choice in seen}
    if not isinstance(kit.tier, ScriptedTier):
        assert len(indices) == options.get("n", 1) * len(options.get("prompt", "x"))
    assert {heard.choice for heard in listening.heard} == indices
    for index in indices:
        text, tokens, logprobs, ended = listening.of(index)
        assert text == "".join(text_of(choice) for choice in seen if choice["index"] == index)
        assert len(logprobs) == tokens > 0
        assert ended
        assert all(len(token) >= 1 and max(token) <= 0 for token in logprobs)
    assert sum(heard.tokens for heard in listening.heard) == reply.usage.completion_tokens
    assert all(choice.get("logprobs") is None for choice in seen), "logprobs that nobody asked for"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("alternatives", [0, 8])
@pytest.mark.parametrize(
    ("make", "asked"),
    [
        (chat, {"logprobs": True}),
        (chat, {"logprobs": True, "top_logprobs": 2}),
        (completion, {"logprobs": 0}),
        (completion, {"logprobs": 2}),
    ],
)
async def test_the_caller_sees_the_logprobs_that_it_asked_for(
    kit: Kit, make: Callable[..., Call], asked: dict[str, Any], alternatives: int, stream: bool
) -> None:
    if isinstance(kit.tier, ScriptedTier):
        pytest.skip("a script knows no options")
    listening = Listening(alternatives)

    def shown(choice: dict[str, Any]) -> list[tuple[str, list[float]]]:
        """Each token, and how probable the likeliest ones were."""
        given = choice["logprobs"] or {}
        if make is chat:
            return [(token["token"], [top["logprob"] for top in token["top_logprobs"]]) for token in given["content"]]
        return list(zip(given["tokens"], [[*top.values()] for top in given["top_logprobs"]], strict=True))

    # A temperature at which some sampled tokens are none of the likeliest; the seed makes them the same ones twice.
    options = asked | {"temperature": 1.5, "seed": 5}
    alone, heard = [
        [token for choice in await choices(reply) if choice["logprobs"] for token in shown(choice)]
        for reply in (
            await kit.tier.generate(make(**options)),
            await kit.tier.generate(make(stream=stream, **options), listening),
        )
    ]
    assert [token for token, _ in heard] == [token for token, _ in alone] != []
    for (_, tops), (_, expected) in zip(heard, alone, strict=True):
        assert tops[: len(expected)] == pytest.approx(expected, abs=0.2)  # the batch decides on the last digits
        # Of a completion OpenAI promises the sampled token beside so many: one more, where it is none of them.
        assert len(tops) <= (asked.get("top_logprobs", 0) if make is chat else asked["logprobs"] + 1)
    assert all(len(token) > alternatives for token in listening.of(0)[2])


async def test_who_wants_no_logprobs_hears_none(kit: Kit) -> None:
    if isinstance(kit.tier, ScriptedTier):
        pytest.skip("a script gives them to everybody")
    listening = Listening(None)
    reply = await kit.tier.generate(chat(), listening)
    text, tokens, logprobs, ended = listening.of(0)
    assert (text, logprobs, ended) == (text_of((await choices(reply))[0]), [], True)
    assert tokens == reply.usage.completion_tokens


@pytest.mark.parametrize("stream", [False, True])
async def test_what_is_heard_can_be_broken_off_and_frees_the_slot(kit: Kit, stream: bool) -> None:
    listening = Listening()
    call = chat(stream=stream, max_tokens=1500, ignore_eos=True)
    answering = asyncio.create_task(kit.tier.generate(call, listening))
    await kit.until_unfinished(1)
    if stream:
        events = (await answering).events
        assert events is not None
        await events.aclose()
    else:
        answering.cancel()
        await asyncio.wait({answering})
    await kit.until_unfinished(0)
    count = len(listening.heard)
    await asyncio.sleep(0.05)
    assert len(listening.heard) == count, "it was heard after its end"


@pytest.mark.parametrize("make", [chat, completion])
async def test_a_prompt_read_in_advance_is_answered_as_ever_and_leaves_nothing(
    kit: Kit, make: Callable[..., Call]
) -> None:
    text = f"{make.__name__} a b c d e f " * 60 if not isinstance(kit.tier, ScriptedTier) else "hello"
    before = await choices(await kit.tier.generate(make("unlike " * 20, temperature=0)))
    for call in (make(text, temperature=0), make("unlike " * 20), make(kit.too_long), make(temperature=-1)):
        await kit.tier.prewarm(call)
    await kit.until_unfinished(0)
    reading = asyncio.create_task(kit.tier.prewarm(make("b c " * 300)))
    await asyncio.sleep(0)
    reading.cancel()
    await asyncio.wait({reading})
    await kit.until_unfinished(0)
    again = await choices(await kit.tier.generate(make("unlike " * 20, temperature=0)))
    assert [text_of(choice) for choice in again] == [text_of(choice) for choice in before]
    if not isinstance(kit.tier, VllmTier):
        return

    def hits() -> float:
        found = [sample for metric in kit.tier.metrics() for sample in metric.samples]
        return sum(sample.value for sample in found if sample.name == "vllm:prefix_cache_hits_total")

    known = hits()
    prompt = (await kit.tier.generate(make(text, temperature=0, max_tokens=1))).usage.prompt_tokens
    deadline = time.monotonic() + 30
    while hits() - known < prompt / 2:
        assert time.monotonic() < deadline, "the prompt was read again"
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("make", [chat, completion])
async def test_a_call_in_the_background_is_answered_as_ever_and_comes_last(
    kit: Kit, make: Callable[..., Call], monkeypatch: pytest.MonkeyPatch
) -> None:
    priorities = []
    if isinstance(kit.tier, VllmTier):
        assert kit.tier._engine is not None
        generate = kit.tier._engine.generate

        def heard(*args: Any, **options: Any) -> Any:
            priorities.append(options.get("priority", 0))
            return generate(*args, **options)

        monkeypatch.setattr(kit.tier._engine, "generate", heard)
    call = make(temperature=0)
    first, second = [
        text_of((await choices(await kit.tier.generate(each)))[0]) for each in (call, replace(call, background=True))
    ]
    assert first == second
    if isinstance(kit.tier, VllmTier):
        assert priorities[0] == 0 < priorities[1]


async def test_a_tier_that_was_stopped_is_unavailable(kit: Kit) -> None:
    """The last test of a kit."""
    await kit.tier.stop()
    assert kit.tier.state is TierState.STOPPED
    with pytest.raises(TierUnavailable):
        await kit.tier.generate(chat())
    await kit.tier.stop()
