"""Every way a request can go, with scripted tiers: what is asked, in which order, and what is recorded."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

import numpy as np
import pytest

from tierserve.config import RouterConfig
from tierserve.core import Call, Cause, Decision, Kind, Outcome, Prompt, Role, Status
from tierserve.errors import ContextOverflow, RequestError, TierBusy, TierUnavailable
from tierserve.pipeline import Answer, Pipeline
from tierserve.router.router import Router
from tierserve.router.rules.conversations import identify
from tierserve.router.rules.policy import build_policy
from tierserve.tiers.base import TierState
from tierserve.tiers.pair import TierPair
from tierserve.tiers.scripted import ScriptedTier

SIMPLE, HARD = "simple", "a hard one"


class Words:
    """Encoder and scorer: each word counts for 3."""

    own = 1

    def encode(self, texts: Sequence[str]) -> Any:
        return np.array([[len(text.split())] for text in texts], dtype=np.float32)

    def score(self, prompt: Prompt, vector: Any) -> float:
        return min(3 * float(vector[0]), 10.0)


def word_router(**options: Any) -> Router:
    return Router(lambda: (Words(), Words()), build_policy(RouterConfig(**options)))


class Bench:
    def __init__(self, **options: Any) -> None:
        self.small, self.large = ScriptedTier("s"), ScriptedTier("l")
        self.outcomes: list[Outcome] = []
        self.router = word_router(**options)
        self.tiers = TierPair(self.small, self.large)
        ticks = iter(range(1000))
        self.pipeline = Pipeline(self.router, self.tiers, self.outcomes.append, clock=lambda: float(next(ticks)))

    async def answer(
        self, text: str = SIMPLE, stream: bool = False, forced: Any = None, session: str | None = None
    ) -> Answer:
        conversation = identify([("user", text)], session)
        call = Call("id", Kind.CHAT, {}, (Prompt(text),), stream, forced, conversation=conversation)
        return await self.pipeline.answer(call)

    @property
    def outcome(self) -> Outcome:
        (outcome,) = self.outcomes
        return outcome


@pytest.fixture
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    """With a parameter: the router's options."""
    bench = Bench(**getattr(request, "param", {}))
    await bench.router.start()
    for tier in bench.tiers:
        await tier.start()
    yield bench
    await bench.router.close()
    assert bench.small.running == bench.large.running == 0, "a slot was not freed"


async def read(answer: Answer) -> bytes:
    assert answer.events is not None
    async with aclosing(answer.events):
        return b"".join([event async for event in answer.events])


async def test_the_tier_decided_on_answers_and_one_outcome_says_how_it_went(bench: Bench) -> None:
    bench.small.script = ["Hel", "lo"]
    answer = await bench.answer()
    assert (answer.tier, answer.decision) == ("s", Decision(Role.SMALL, Cause.SCORE, 3.0))
    assert b'"content": "Hello"' in answer.body
    assert bench.outcome.status is Status.OK
    assert (bench.outcome.usage.prompt_tokens, bench.outcome.usage.completion_tokens) == (1, 2)
    assert bench.outcome.route_s == 1
    assert bench.outcome.first_byte_s == 2
    assert bench.outcome.total_s == 3
    assert bench.large.calls == []


async def test_a_hard_prompt_goes_large(bench: Bench) -> None:
    answer = await bench.answer(HARD)
    assert (answer.tier, answer.decision.cause) == ("l", Cause.SCORE)
    assert bench.small.calls == []


async def test_a_stream_is_recorded_when_it_ends(bench: Bench) -> None:
    bench.small.script = ["Hel", "lo"]
    answer = await bench.answer(stream=True)
    assert bench.outcomes == []
    text = await read(answer)
    assert text.endswith(b"data: [DONE]\n\n")
    assert text.count(b"chat.completion.chunk") == 2
    assert bench.outcome.status is Status.OK
    assert bench.outcome.usage.completion_tokens == 2
    assert bench.outcome.first_byte_s is not None


async def test_a_forced_tier_is_obeyed(bench: Bench) -> None:
    answer = await bench.answer(HARD, forced=(Role.SMALL, Cause.MODEL))
    assert (answer.tier, answer.decision) == ("s", Decision(Role.SMALL, Cause.MODEL))


async def test_a_prompt_that_the_small_tier_can_t_hold_goes_large(bench: Bench) -> None:
    bench.small.max_model_len = 0
    answer = await bench.answer()
    assert (answer.tier, answer.decision) == ("l", Decision(Role.LARGE, Cause.CONTEXT, 3.0))
    assert bench.small.calls == []


async def test_so_does_one_of_which_only_the_small_tier_itself_knows_that(bench: Bench) -> None:
    bench.small.script = [ContextOverflow("too long")]
    answer = await bench.answer()
    assert (answer.tier, answer.decision.cause) == ("l", Cause.CONTEXT)


async def test_too_long_for_both_is_the_caller_s_to_mend(bench: Bench) -> None:
    bench.small.script, bench.large.script = [ContextOverflow("small: too long")], [ContextOverflow("large: too long")]
    with pytest.raises(ContextOverflow, match="large: too long"):
        await bench.answer()
    assert bench.outcome.status is Status.INVALID


async def test_a_prompt_too_long_for_the_tier_that_was_asked_for_goes_nowhere_else(bench: Bench) -> None:
    bench.small.max_model_len = 0
    with pytest.raises(ContextOverflow):
        await bench.answer(forced=(Role.SMALL, Cause.HEADER))
    assert bench.large.calls == []


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("text", "first", "second"), [(SIMPLE, "small", "large"), (HARD, "large", "small")])
async def test_the_other_tier_answers_for_one_that_can_t(
    bench: Bench, text: str, first: str, second: str, stream: bool
) -> None:
    getattr(bench, first).script = [TierUnavailable("gone")]
    answer = await bench.answer(text, stream)
    assert answer.tier == getattr(bench, second).name
    assert answer.decision.cause is Cause.FAILOVER
    if stream:
        await read(answer)
    assert bench.outcome.status is Status.OK
    assert bench.outcome.decision == answer.decision


async def test_both_tiers_gone_is_unavailable(bench: Bench) -> None:
    bench.small.script = bench.large.script = [TierUnavailable("gone")]
    with pytest.raises(TierUnavailable):
        await bench.answer()
    assert bench.outcome.status is Status.UNAVAILABLE


async def test_a_long_prompt_is_not_called_too_long_when_its_tier_is_away(bench: Bench) -> None:
    bench.large.script, bench.small.max_model_len = [TierUnavailable("gone")], 0
    with pytest.raises(TierUnavailable, match="gone"):
        await bench.answer(HARD)
    with pytest.raises(TierUnavailable, match="gone"):
        await bench.answer(SIMPLE)


async def test_a_caller_who_named_the_tier_is_told_that_it_is_away(bench: Bench) -> None:
    bench.small.script = [TierUnavailable("gone")]
    with pytest.raises(TierUnavailable, match="gone"):
        await bench.answer(forced=(Role.SMALL, Cause.MODEL))
    assert bench.large.calls == []


async def test_a_full_queue_does_not_spill_into_the_other_tier_s(bench: Bench) -> None:
    bench.small.script = [TierBusy("full")]
    with pytest.raises(TierBusy):
        await bench.answer()
    assert bench.large.calls == []
    assert bench.outcome.status is Status.UNAVAILABLE


async def test_a_request_that_is_wrong_is_not_tried_elsewhere(bench: Bench) -> None:
    bench.small.script = [RequestError("wrong")]
    with pytest.raises(RequestError):
        await bench.answer()
    assert bench.large.calls == []
    assert bench.outcome.status is Status.INVALID


async def test_a_stream_that_breaks_off_says_so_and_is_recorded_as_an_error(bench: Bench) -> None:
    bench.small.script = ["Hel", RuntimeError("died")]
    text = await read(await bench.answer(stream=True))
    assert b'"error"' in text
    assert text.endswith(b"data: [DONE]\n\n")
    assert bench.outcome.status is Status.ERROR
    assert bench.outcome.usage.completion_tokens == 1


@pytest.mark.parametrize("events_read", [0, 1, 2])
async def test_a_reader_that_goes_away_frees_the_slot_and_is_recorded(bench: Bench, events_read: int) -> None:
    bench.small.script = ["a", "b", "c", "d"]
    answer = await bench.answer(stream=True)
    assert answer.events is not None
    for _ in range(events_read):
        await anext(answer.events)
    assert bench.small.running == 1
    await answer.events.aclose()
    assert bench.small.running == 0
    assert bench.outcome.status is Status.CANCELLED
    assert bench.outcome.usage.completion_tokens == events_read


@pytest.mark.parametrize("stream", [False, True])
async def test_a_caller_that_goes_away_before_the_first_byte_frees_the_slot(bench: Bench, stream: bool) -> None:
    bench.small.script = [asyncio.Event(), "never"]
    waiting = asyncio.create_task(bench.answer(stream=stream))
    for _ in range(20):
        await asyncio.sleep(0)
    assert bench.small.running == 1
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await asyncio.sleep(0)
    assert bench.small.running == 0
    assert bench.outcome.status is Status.CANCELLED


async def test_a_fault_of_ours_is_recorded_and_raised(bench: Bench) -> None:
    bench.small.script = [ZeroDivisionError()]
    with pytest.raises(ZeroDivisionError):
        await bench.answer()
    assert bench.outcome.status is Status.ERROR


async def test_a_tier_that_still_loads_is_answered_for_by_the_other(bench: Bench) -> None:
    bench.large.state = TierState.LOADING
    answer = await bench.answer(HARD)
    assert (answer.tier, answer.decision.cause) == ("s", Cause.FAILOVER)


async def test_a_conversation_that_outgrew_the_small_tier_is_not_offered_to_it_again(bench: Bench) -> None:
    bench.small.script = [ContextOverflow("too long")]
    assert (await bench.answer(session="a")).decision.cause is Cause.CONTEXT
    bench.small.script = ["Hello"]
    for text, cause in ((SIMPLE, Cause.FOLLOW_UP), ("simple_but_too_long_for_a_follow_up", Cause.CONVERSATION)):
        assert (await bench.answer(text, session="a")).decision == Decision(Role.LARGE, cause)


async def test_a_conversation_returns_to_the_tier_that_had_failed(bench: Bench) -> None:
    bench.small.script = [TierUnavailable("gone")]
    assert (await bench.answer(session="a")).tier == "l"
    bench.small.script = ["Hello"]
    assert (await bench.answer("go on", session="a")).decision == Decision(Role.SMALL, Cause.FOLLOW_UP)


LOAD = {"load": {"large_queue": 1, "small_queue": 1, "band": 2.0}}


@pytest.mark.parametrize("bench", [LOAD], indirect=True)
@pytest.mark.parametrize(("text", "first", "second"), [("a b", "large", "small"), (SIMPLE, "small", "large")])
async def test_what_lies_near_the_threshold_avoids_a_queue(bench: Bench, text: str, first: str, second: str) -> None:
    """One slot and one in the queue are allowed; the next goes elsewhere, until the queue is gone."""
    bench.small.slots = bench.large.slots = 1
    bench.small.script = bench.large.script = ["a", asyncio.Event()]
    streams = [await bench.answer(text, stream=True) for _ in range(3)]
    assert {answer.tier for answer in streams} == {getattr(bench, first).name}
    moved = await bench.answer(text, stream=True)
    assert (moved.tier, moved.decision.cause) == (getattr(bench, second).name, Cause.LOAD)
    for answer in (moved, streams.pop()):
        assert answer.events is not None
        await answer.events.aclose()
    streams.append(await bench.answer(text, stream=True))
    assert streams[-1].tier == getattr(bench, first).name
    for answer in streams:
        assert answer.events is not None
        await answer.events.aclose()


@pytest.mark.parametrize("bench", [LOAD], indirect=True)
async def test_no_prompt_is_moved_to_a_tier_that_is_not_ready(bench: Bench) -> None:
    bench.small.slots = 1
    bench.small.running, bench.large.state = 5, TierState.LOADING
    assert (await bench.answer()).decision.cause is Cause.SCORE
    bench.small.running = 0


@pytest.mark.parametrize("bench", [{"target_large_share": 0.2}], indirect=True)
async def test_the_share_is_held_over_what_is_answered_and_a_look_does_not_count(bench: Bench) -> None:
    ticks = iter(range(10**6))
    pipeline = Pipeline(bench.router, bench.tiers, bench.outcomes.append, clock=lambda: float(next(ticks)))
    for _ in range(600):
        await pipeline.answer(Call("id", Kind.CHAT, {}, (Prompt(HARD),)))
        for _ in range(3):
            await pipeline.decide(Call("id", Kind.CHAT, {}, (Prompt(SIMPLE),)))
    assert [outcome.tier for outcome in bench.outcomes].count("l") == pytest.approx(120, abs=5)
