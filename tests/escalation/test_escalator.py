"""What surrounds a judged answer: conversations, callers who insist, contexts, and prompts read in advance."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from tests.test_pipeline import HARD, SIMPLE, read, word_router
from tierserve.config import EscalationConfig
from tierserve.core import Call, Cause, Decision, Doubt, Kind, Outcome, Prewarm, Prompt, Role, Status
from tierserve.errors import ContextOverflow, RequestError, TierUnavailable
from tierserve.escalation.escalator import Escalator
from tierserve.pipeline import Answer, Pipeline
from tierserve.router.rules.conversations import identify
from tierserve.tiers.base import Listener, Reply, TierState
from tierserve.tiers.pair import TierPair
from tierserve.tiers.scripted import ScriptedTier

SURE, UNSURE = [("yes", 0.9)], [("maybe", 0.1)]


class Room:
    """A pipeline with an escalator over scripted tiers. The options are the escalation's."""

    def __init__(self, **options: Any) -> None:
        self.small, self.large = ScriptedTier("s", UNSURE), ScriptedTier("l")
        self.config = EscalationConfig(**options)
        self.outcomes: list[Outcome] = []
        self.router = word_router()

    async def answer(
        self, text: str = SIMPLE, stream: bool = False, forced: Any = None, session: str | None = None, **body: Any
    ) -> Answer:
        escalator = Escalator(self.config, self.small, self.large, lambda: self.router.threshold)
        pipeline = Pipeline(self.router, TierPair(self.small, self.large), self.outcomes.append, escalator)
        conversation = identify([("user", text)], session)
        body = {"messages": [{"role": "user", "content": text}]} | body
        call = Call("id", Kind.CHAT, body, (Prompt(text),), stream, forced, conversation=conversation)
        return await pipeline.answer(call)

    @property
    def judgement(self) -> Any:
        return self.outcomes[-1].judgement


@pytest.fixture
async def room(request: pytest.FixtureRequest) -> AsyncIterator[Room]:
    room = Room(**getattr(request, "param", {}))
    await room.router.start()
    for tier in (room.small, room.large):
        await tier.start()
    yield room
    await room.router.close()
    assert room.small.running == room.large.running == 0, "a slot was not freed"


async def spin() -> None:
    for _ in range(30):
        await asyncio.sleep(0)


async def test_a_conversation_whose_answer_was_doubted_stays_up(room: Room) -> None:
    first = await room.answer(session="a")
    assert (first.tier, first.decision) == ("l", Decision(Role.LARGE, Cause.ESCALATION, 3.0))
    room.small.script = SURE
    assert (await room.answer(session="a")).decision == Decision(Role.LARGE, Cause.FOLLOW_UP)
    later = await room.answer("simple_but_too_long_for_a_follow_up", session="a")
    assert later.decision == Decision(Role.LARGE, Cause.CONVERSATION)
    assert later.judgement is None, "the large tier's answers are not judged"
    assert (await room.answer(session="b")).tier == "s"


async def test_one_whose_doubted_answer_stood_does_not(room: Room) -> None:
    room.large.script = [TierUnavailable("gone")]
    assert (await room.answer(session="a")).decision.cause is Cause.FAILOVER
    room.small.script = SURE
    assert (await room.answer(session="a")).decision == Decision(Role.SMALL, Cause.FOLLOW_UP)
    assert room.judgement.confidence == pytest.approx(0.9), "a follow-up is judged like any other answer"


@pytest.mark.parametrize("cause", [Cause.MODEL, Cause.HEADER])
async def test_a_caller_who_named_the_small_tier_gets_its_answer_unjudged(room: Room, cause: Cause) -> None:
    answer = await room.answer(forced=(Role.SMALL, cause))
    assert (answer.tier, answer.judgement) == ("s", None)
    assert room.large.calls == []


async def test_what_can_t_be_judged_stands(room: Room) -> None:
    answer = await room.answer(use_beam_search=True)
    assert (answer.tier, answer.decision.cause) == ("s", Cause.SCORE)
    assert room.judgement.confidence is room.judgement.doubt is None


class Tight(ScriptedTier):
    """Holds the plain form of a call, and not the one with instructions."""

    async def generate(self, call: Call, listener: Listener | None = None) -> Reply:
        if call.body["messages"][0]["role"] == "system":
            raise ContextOverflow("the instructions were too much")
        return await super().generate(call, listener)


@pytest.mark.parametrize("room", [{"estimator": "structured"}], indirect=True)
@pytest.mark.parametrize("stream", [False, True])
async def test_what_only_the_judged_form_makes_too_long_is_answered_all_the_same(room: Room, stream: bool) -> None:
    room.small = Tight("s", ["plain"])
    await room.small.start()
    answer = await room.answer(stream=stream)
    assert (answer.tier, answer.decision.cause) == ("l", Cause.CONTEXT)
    for refusal in (TierUnavailable("gone"), ContextOverflow("too long here too"), RequestError("not that")):
        room.large.script = [refusal]
        answer = await room.answer(stream=stream)
        assert (answer.tier, answer.decision.cause) == ("s", Cause.FAILOVER)
        assert b"plain" in (await read(answer) if stream else answer.body)
        assert room.judgement.doubt is Doubt.CONTEXT and not room.judgement.escalated
        assert room.outcomes[-1].status is Status.OK
    if stream:
        return
    room.small.script = [ContextOverflow("far too long")]
    with pytest.raises(RequestError, match="not that"):
        await room.answer()


class Strict(ScriptedTier):
    """Can't take the form, as a grammar compiler can't take some schemas that it takes plainly."""

    async def generate(self, call: Call, listener: Listener | None = None) -> Reply:
        if "structured_outputs" in call.body:
            raise RequestError("no such grammar here")
        return await super().generate(call, listener)


@pytest.mark.parametrize("room", [{"estimator": "structured"}], indirect=True)
@pytest.mark.parametrize("stream", [False, True])
async def test_what_only_the_form_makes_impossible_is_judged_by_its_logprobs(room: Room, stream: bool) -> None:
    room.small = Strict("s", SURE)
    await room.small.start()
    answer = await room.answer(stream=stream)
    assert b"yes" in (await read(answer) if stream else answer.body)
    assert (answer.tier, room.judgement.confidence) == ("s", pytest.approx(0.9))
    room.small.script = UNSURE
    assert (await room.answer(stream=False)).tier == "l"
    with pytest.raises(RequestError):
        await room.answer(structured_outputs={"regex": "("})


PREWARM = {"prewarm": True}


@pytest.mark.parametrize("room", [PREWARM], indirect=True)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_prompt_that_was_read_when_its_answer_is_doubted_is_a_hit(room: Room, stream: bool) -> None:
    gate = asyncio.Event()
    room.small.script = [gate, *UNSURE]
    answering = asyncio.create_task(room.answer(stream=stream))
    await spin()
    assert len(room.large.prewarmed) == 1 and not room.large.calls
    gate.set()
    answer = await answering
    if stream:
        await read(answer)
    assert room.judgement.prewarm is Prewarm.HIT


@pytest.mark.parametrize("room", [PREWARM], indirect=True)
async def test_one_that_was_still_being_read_is_late_and_no_longer_read(room: Room) -> None:
    room.large.prewarm_gate = asyncio.Event()
    assert (await room.answer()).tier == "l"
    assert room.judgement.prewarm is Prewarm.LATE
    room.large.prewarm_gate.set()
    await spin()
    assert room.large.prewarmed == []


@pytest.mark.parametrize("room", [PREWARM], indirect=True)
async def test_one_whose_answer_stands_was_read_for_nothing(room: Room) -> None:
    room.small.script = SURE
    await room.answer()
    assert room.judgement.prewarm is Prewarm.UNUSED


@pytest.mark.parametrize("room", [PREWARM], indirect=True)
async def test_a_caller_who_leaves_ends_the_reading(room: Room) -> None:
    room.small.script = [asyncio.Event()]
    room.large.prewarm_gate = asyncio.Event()
    answering = asyncio.create_task(room.answer())
    await spin()
    answering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await answering
    assert asyncio.all_tasks() == {asyncio.current_task()} | room_tasks(room)
    assert room.judgement.prewarm is Prewarm.UNUSED
    assert room.outcomes[-1].status is Status.CANCELLED


def room_tasks(room: Room) -> set[Any]:
    """Those of the router's encoder."""
    return {task for task in asyncio.all_tasks() if "prewarm" not in repr(task) and "generate" not in repr(task)}


@pytest.mark.parametrize("room", [PREWARM], indirect=True)
async def test_a_reading_that_fails_harms_nothing_and_is_no_hit(
    room: Room, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(call: Call) -> None:
        raise RuntimeError("a fault")

    monkeypatch.setattr(room.large, "prewarm", fails)
    gate = asyncio.Event()
    room.small.script = [gate, *UNSURE]
    answering = asyncio.create_task(room.answer())
    await spin()
    gate.set()
    assert (await answering).tier == "l"
    assert room.judgement.prewarm is not Prewarm.HIT
    assert "reading a prompt in advance failed" in caplog.text


def far(room: Room) -> None:
    room.config = EscalationConfig(prewarm=True, prewarm_band=0.5)


def off(room: Room) -> None:
    room.config = EscalationConfig()


def full(room: Room) -> None:
    room.large.slots = 0


def away(room: Room) -> None:
    room.large.state = TierState.FAILED


@pytest.mark.parametrize("room", [PREWARM], indirect=True)
@pytest.mark.parametrize("spoil", [far, off, full, away])
async def test_where_it_is_not_worth_it_nothing_is_read(room: Room, spoil: Callable[[Room], Awaitable[None]]) -> None:
    spoil(room)
    room.small.script = SURE
    await room.answer()
    await spin()
    assert room.large.prewarmed == []
    assert room.judgement.prewarm is None


@pytest.mark.parametrize("room", [PREWARM], indirect=True)
async def test_nor_for_what_the_large_tier_answers_anyhow_or_the_conversation_decided(room: Room) -> None:
    room.small.script = SURE
    await room.answer(HARD)
    await room.answer(session="a")
    count = len(room.large.prewarmed)
    assert (await room.answer(session="a")).decision.cause is Cause.FOLLOW_UP
    assert len(room.large.prewarmed) == count
