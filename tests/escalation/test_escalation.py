"""The states of an answer, exhaustively: every order of events that two scripted tiers and a caller can come up with,
against a model of what must come of it."""

import asyncio
import json
import math
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import pytest

from tests.test_pipeline import SIMPLE, word_router
from tierserve.config import EscalationConfig
from tierserve.core import Call, Cause, Doubt, Kind, Outcome, Prompt, Status, Usage
from tierserve.errors import TierBusy, TierUnavailable
from tierserve.escalation.escalator import Escalator
from tierserve.pipeline import Pipeline
from tierserve.tiers.pair import TierPair
from tierserve.tiers.scripted import ScriptedTier, Step

LARGE: dict[str, list[Step]] = {
    "answers": ["L1", "L2"],
    "away": [TierUnavailable("gone")],
    "busy": [TierBusy("full")],
    "breaks": ["L1", RuntimeError("died")],
}
ENDS = ("end", "gone", "fault", "pause")


@dataclass(frozen=True)
class Case:
    """What the small tier says, piece by piece, how that ends, and how it is judged: `early` is after how many pieces
    the finding is there, `doubt` what it is, `text` what the caller gets of it."""

    said: tuple[Step, ...]
    end: str
    stream: bool
    large: str
    budget_left: bool
    early: float
    doubt: Doubt | None
    text: str

    @property
    def script(self) -> list[Step]:
        last: dict[str, list[Step]] = {
            "end": [],
            "gone": [TierUnavailable("gone")],
            "fault": [RuntimeError("died")],
            "pause": [asyncio.Event()],
        }
        return [*self.said, *last[self.end]]

    @property
    def raw(self) -> str:
        return "".join(step[0] if isinstance(step, tuple) else str(step) for step in self.said)


@dataclass
class Ending:
    """How a request must have gone, as far as that is known."""

    status: Status
    tier: str | None = None
    text: str = ""
    cause: Cause | None = None
    escalated: bool = False
    doubt: Doubt | None = None
    wasted: int = 0
    tokens: int = 0
    small_calls: int = 1


def expected(case: Case) -> Ending:
    heard, known = len(case.said), len(case.said) >= case.early
    if case.stream:
        if not known and case.end != "end":
            return _before_the_finding(case, heard)
        return _found(case, int(min(case.early, heard)), with_reply=False)
    if case.end == "end":
        return _found(case, heard, with_reply=True)
    if case.end == "pause" and known and case.doubt is not None:
        return _found(case, heard, with_reply=False)
    return _before_the_finding(case, heard)


def _before_the_finding(case: Case, heard: int) -> Ending:
    if case.end == "pause":
        return Ending(Status.CANCELLED)
    if case.end == "fault" and not (case.stream and heard):
        return Ending(Status.ERROR)
    if case.large in ("away", "busy"):
        return Ending(Status.UNAVAILABLE, doubt=Doubt.FAILURE, wasted=heard)
    return _large(case, Ending(Status.OK, cause=Cause.FAILOVER, doubt=Doubt.FAILURE, wasted=heard))


def _found(case: Case, heard: int, with_reply: bool) -> Ending:
    if case.doubt is None:
        return _small(case, Ending(Status.OK, cause=Cause.CACHE), case.text)
    ending = Ending(Status.OK, doubt=case.doubt)
    if not case.budget_left and case.text:
        ending.cause = Cause.BUDGET
        return _small(case, ending, case.text)
    ending.wasted = heard
    if case.large not in ("away", "busy"):
        ending.cause = Cause.ESCALATION
        return _large(case, ending)
    ending.cause = Cause.FAILOVER
    if with_reply and case.text:
        ending.wasted = 0
        return _small(case, ending, case.text)
    ending.small_calls = 2
    return _small(case, ending, case.raw)


def _small(case: Case, ending: Ending, text: str) -> Ending:
    ending.tier, ending.text, ending.tokens = "s", text, len(case.said)
    if case.end == "pause":
        ending.status = Status.CANCELLED
        if not case.stream:
            return Ending(Status.CANCELLED, small_calls=ending.small_calls)
    elif case.end != "end":
        ending.status = Status.ERROR
    return ending


def _large(case: Case, ending: Ending) -> Ending:
    ending.tier, ending.escalated, ending.text, ending.tokens = "l", True, "L1L2", 2
    if case.large == "breaks":
        ending.status, ending.text, ending.tokens = Status.ERROR, "L1", 1
        if not case.stream:
            return Ending(Status.ERROR, doubt=ending.doubt, wasted=ending.wasted)
    return ending


SURE, UNSURE = 1.0, 0.1  # of 5 tokens one unsure one brings the mean to 0.63
HOLD = 2


def by_logprob(statistic: str) -> Iterator[Case]:
    """Up to five deltas, each sure or unsure, and each end. A stream is judged by its first two."""
    for number in range(6):
        for probabilities in product((SURE, UNSURE), repeat=number):
            said = tuple((letter, one) for letter, one in zip("abcde", probabilities, strict=False))
            for end, stream, large, left in product(ENDS, (False, True), LARGE, (True, False)):
                if not said and end == "end":
                    continue
                judged = probabilities[:HOLD] if stream else probabilities
                early = HOLD if stream else math.inf
                if statistic == "minimum" and UNSURE in judged:
                    early = min(early, judged.index(UNSURE) + 1)
                doubt = Doubt.LOW if UNSURE in judged else None
                yield Case(said, end, stream, large, left, early, doubt, "abcde"[:number])


def structured() -> Iterator[Case]:
    """The form, cut off after each piece."""
    for confidence, end, stream, large, left in product((0.9, 0.1), ENDS, (False, True), LARGE, (True, False)):
        pieces = (f'{{"confidence": {confidence:.2f}, "content": "', "a\\", "u00e4b", '"}')
        for number in range(len(pieces) + 1):
            if not number and end == "end":
                continue
            text = ("", "", "a", "aäb", "aäb")[number]
            doubt = Doubt.LOW if confidence < 0.5 else None
            yield Case(pieces[:number], end, stream, large, left, 2, doubt if text else Doubt.EMPTY, text)


def structured_last() -> Iterator[Case]:
    """Judged at the end; what was cut off before its content began can't be read, and what was later states nothing."""
    for confidence, end, stream, large, left in product((0.9, 0.1), ENDS, (False, True), LARGE, (True, False)):
        pieces = ('{"content": "', "a\\", 'u00e4b", "confi', f'dence": {confidence:.2f}', "}")
        for number in range(1, len(pieces) + 1):
            text = ("", "", "a", "aäb", "aäb", "aäb")[number]
            doubt = Doubt.UNSTATED if text else Doubt.UNREADABLE
            if number == len(pieces):
                doubt = Doubt.LOW if confidence < 0.5 else None
            if number == len(pieces) and end != "end":
                continue  # the tier says that it ended with the last piece, or not at all
            yield Case(pieces[:number], end, stream, large, left, math.inf, doubt, text)


@dataclass
class Run:
    """One request, from its arrival until everybody has gone home."""

    case: Case
    config: EscalationConfig
    outcomes: list[Outcome] = field(default_factory=list)
    headers: list[Any] = field(default_factory=list)
    body: bytes = b""
    events: list[bytes] = field(default_factory=list)

    async def go(self, router: Any) -> None:
        self.small = ScriptedTier("s", self.case.script)
        self.large = ScriptedTier("l", LARGE[self.case.large])
        await self.small.start()
        await self.large.start()
        escalator = Escalator(self.config, self.small, self.large, lambda: 4.0)
        for _ in range(0 if self.case.budget_left else 10):
            escalator._budget.count(escalated=True)
        self.pipeline = Pipeline(router, TierPair(self.small, self.large), self.outcomes.append, escalator)
        caller = asyncio.create_task(self._call())
        for _ in range(100):
            if caller.done():
                break
            await asyncio.sleep(0)
        caller.cancel()  # only a pause can have held it up that long
        await asyncio.wait({caller})
        self.error = None if caller.cancelled() else caller.exception()

    async def _call(self) -> None:
        body = {"messages": [{"role": "user", "content": SIMPLE}]}
        answer = await self.pipeline.answer(Call("id", Kind.CHAT, body, (Prompt(SIMPLE),), self.case.stream))
        self.headers.append((answer.tier, answer.decision))
        self.body = answer.body
        if answer.events is not None:
            async with aclosing(answer.events):
                async for event in answer.events:
                    self.events.append(event)

    def got(self) -> tuple[str, set[tuple[str, str]], bool, bool]:
        """Text, ids and models, whether an error came, whether the stream was closed properly."""
        if self.body:
            data = json.loads(self.body)
            return data["choices"][0]["message"]["content"], {(data["id"], data["model"])}, False, True
        told = b"".join(self.events).decode().split("\n\n")  # a piece may be several events
        *events, last = [event.removeprefix("data: ") for event in told if event] or [""]
        done = last == "[DONE]"
        found = [json.loads(event) for event in ([*events] if done else [*events, last]) if event]
        errors = [event for event in found if "error" in event]
        chunks = [event for event in found if "error" not in event]
        text = "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks)
        return text, {(chunk["id"], chunk["model"]) for chunk in chunks}, bool(errors), done

    def check(self) -> None:
        case, ending = self.case, expected(self.case)
        assert self.small.running == self.large.running == 0, "a slot was not freed"
        assert asyncio.all_tasks() == {asyncio.current_task()}, "a task is left"
        (outcome,) = self.outcomes
        assert (outcome.status, outcome.tier) == (ending.status, ending.tier)
        text, names, broke, done = self.got()
        assert text == ending.text
        assert names <= {("id", ending.tier)}
        if case.stream and ending.tier is not None:
            assert broke == (ending.status is Status.ERROR)
            assert done == (ending.status is not Status.CANCELLED)
        assert outcome.usage.completion_tokens == ending.tokens
        assert len(self.small.calls) == ending.small_calls
        judgement = outcome.judgement
        assert judgement is not None
        assert judgement.escalated == ending.escalated
        if ending.tier is None:
            assert not self.headers
            assert self.error is not None or ending.status is Status.CANCELLED
            if ending.status is not Status.UNAVAILABLE:
                return
        else:
            assert outcome.decision is not None
            assert self.headers == [(ending.tier, outcome.decision)]
            assert outcome.decision.cause is ending.cause
        assert judgement.doubt is ending.doubt
        assert judgement.wasted == Usage(1 if ending.wasted else 0, ending.wasted)


@pytest.mark.parametrize(
    ("cases", "options"),
    [
        pytest.param(by_logprob("mean"), {"statistic": "mean"}, id="mean"),
        pytest.param(by_logprob("minimum"), {"statistic": "minimum", "window": 1}, id="minimum"),
        pytest.param(structured(), {"estimator": "structured"}, id="structured-first"),
        pytest.param(structured_last(), {"estimator": "structured", "position": "last"}, id="structured-last"),
    ],
)
async def test_whatever_happens_the_caller_gets_one_tier_s_answer_and_one_outcome_says_how(
    cases: Iterator[Case], options: dict[str, Any]
) -> None:
    router = word_router()
    await router.start()
    await router.decide(Call("first", Kind.CHAT, {}, (Prompt(SIMPLE),)))  # then the score is known
    config, number = EscalationConfig(hold_tokens=HOLD, **options), 0
    for number, case in enumerate(cases, 1):  # noqa: B007
        run = Run(case, config)
        await run.go(router)
        try:
            run.check()
        except (AssertionError, ValueError) as wrong:
            raise AssertionError(f"{case}\n{expected(case)}\n{run.outcomes}\n{run.events or run.body!r}") from wrong
    await router.close()
    assert number > 200
