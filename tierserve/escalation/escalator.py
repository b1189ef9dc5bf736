"""Asks the small tier, holds its answer back until it is judged, and gives it out or says that it is doubted.

The states of an answer: holding (nothing is sent) -> committed (all is sent, as it was made), or doubted (nothing ever
is, and the tier's slot is free again). There is no way back from either, so nothing that was sent has to be unsaid.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tierserve.confidence.calibration import Calibration
from tierserve.confidence.judge import Calibrate, Judge, LogprobJudge, judge_for
from tierserve.core import Call, Cause, Decision, Doubt, Heard, Judgement, Usage
from tierserve.errors import ContextOverflow, RequestError, TierUnavailable
from tierserve.escalation.budget import Budget
from tierserve.escalation.prewarming import Prewarming
from tierserve.tiers.base import Reply, Tier, TierState, armed

if TYPE_CHECKING:
    from tierserve.config import EscalationConfig
    from tierserve.tiers.pair import TierPair

log = logging.getLogger(__name__)


class Doubted(Exception):
    """The small tier's answer may not do. `reply` is that answer where it is there all the same, as the caller would
    get it; without it the small tier has to be asked again, should nobody else answer."""

    def __init__(self, doubt: Doubt, reply: Reply | None = None) -> None:
        super().__init__(doubt)
        self.doubt = doubt
        self.reply = reply


class Escalator:
    """Holds the small tier's answers; the large tier is asked by others."""

    def __init__(
        self,
        config: "EscalationConfig",
        small: Tier,
        large: Tier,
        threshold: Callable[[], float],
        calibrate: Calibrate | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`threshold` is the router's, in force now."""
        self._config = config
        self._small, self._large = small, large
        self._prewarming = Prewarming(config, large, threshold)
        self._calibrate = calibrate
        self._budget = Budget(config.budget)
        self._clock = clock

    def renew(self, config: "EscalationConfig", calibrate: Calibrate | None) -> None:
        """Judge otherwise from the next answer on; what the budget has counted stays."""
        self._config, self._calibrate = config, calibrate
        self._prewarming.renew(config)
        self._budget.renew(config.budget)

    @property
    def threshold(self) -> float:
        """Below it an answer is doubted."""
        return self._config.threshold

    async def answer(self, call: Call, decision: Decision, judgement: Judgement) -> tuple[Decision, Reply]:
        """The small tier's answer, which stands, and the decision with it. What is found out on the way, whatever comes
        of it, stands in `judgement`.

        Raises Doubted, and what Tier.generate raises.
        """
        for judge in self._judges(call, decision):
            try:
                return await self._judged(call, decision, judgement, judge)
            except ContextOverflow:
                raise
            except RequestError as error:  # perhaps only what the judge asks for is
                log.debug("%s is not to be judged by %s: %s", call.id, type(judge).__name__, error)
        return decision, await self._small.generate(call)

    def _judges(self, call: Call, decision: Decision) -> Iterator[Judge]:
        """The one for the call; then one that asks for less."""
        judge = judge_for(self._config, call, decision.score, self._calibrate)
        if judge is not None:
            yield judge
            if not isinstance(judge, LogprobJudge):
                yield LogprobJudge(self._config, call, decision.score)

    async def _judged(
        self, call: Call, decision: Decision, judgement: Judgement, judge: Judge
    ) -> tuple[Decision, Reply]:
        ear, started = _Ear(judge), self._clock()
        try:
            with self._prewarming.beside(call, decision, judgement):
                return await (self._streamed(decision, ear) if call.stream else self._whole(decision, ear))
        except BaseException as error:
            judgement.doubt = _doubt_of(error)
            judgement.wasted = ear.usage
            raise
        finally:
            judgement.held_s = self._clock() - started
            if judge.finding is not None:
                judgement.confidence = judge.finding.confidence
                judgement.doubt = judgement.doubt or judge.finding.doubt

    async def _streamed(self, decision: Decision, ear: "_Ear") -> tuple[Decision, Reply]:
        judge, held = ear.judge, list[bytes]()
        reply = await self._small.generate(judge.call, ear)
        assert reply.events is not None
        # One task for all that is held, not one for each event: it ends with the first event after the finding.
        holding = asyncio.create_task(self._hold(judge, reply, reply.events, held))
        try:
            # The layer may be silent for long: it hides reasoning, and gathers calls of tools.
            await _either(holding, ear.found)
            if holding.done():
                holding.result()
            decision = self._decided(decision, judge)
        except BaseException:
            await _ended(holding)
            await reply.events.aclose()
            raise
        reply.events = await armed(_committed(judge, held, holding, reply.events))
        return decision, reply

    async def _hold(self, judge: Judge, reply: Reply, events: AsyncGenerator[bytes, None], held: list[bytes]) -> None:
        """Read on until there is a finding. Raises TierUnavailable when the tier breaks off before that."""
        while judge.finding is None:
            event = await anext(events, None)
            if event is not None:
                if reply.broken and judge.finding is None:
                    raise TierUnavailable(f"{self._small.name} broke off")
                held.append(event)
            elif judge.finding is None:
                judge.end()

    async def _whole(self, decision: Decision, ear: "_Ear") -> tuple[Decision, Reply]:
        judge = ear.judge
        answering = asyncio.create_task(self._small.generate(judge.call, ear))
        try:
            await _either(answering, ear.found)
            if not answering.done():  # some are known not to do before they are complete
                decision = self._decided(decision, judge)
                reply = await answering
                return decision, replace(reply, body=judge.body(reply.body))
            reply = await answering
            judge.end()
            stands = judge.content_stands
            reply = replace(reply, body=judge.body(reply.body))
            return self._decided(decision, judge, reply if stands else None), reply
        finally:
            await _ended(answering)

    def _decided(self, decision: Decision, judge: Judge, reply: Reply | None = None) -> Decision:
        """The decision with which the answer stands. Raises Doubted where it does not."""
        assert judge.finding is not None
        doubt = judge.finding.doubt
        stands = reply is not None or judge.content_stands
        nobody_else = stands and self._large.state is not TierState.READY
        escalates = doubt is not None and not nobody_else and (self._budget.allows or not stands)
        self._budget.count(escalates)
        if doubt is None:
            return decision
        if escalates:
            raise Doubted(doubt, reply)
        return replace(decision, cause=Cause.FAILOVER if nobody_else else Cause.BUDGET)


def build_escalator(
    config: "EscalationConfig | None", tiers: "TierPair", threshold: Callable[[], float]
) -> Escalator | None:
    """None where answers are not judged. Raises ConfigError."""
    if config is None:
        return None
    small, large = tiers
    return Escalator(config, small, large, threshold, load_calibration(config))


def load_calibration(config: "EscalationConfig") -> Calibrate | None:
    """What makes a probability of the estimator's number, where one is configured. Raises ConfigError."""
    return Calibration.load(Path(config.calibration), config.judged_by) if config.calibration else None


class _Ear:
    """Listens for a judge, counts, and says when there is a finding."""

    def __init__(self, judge: Judge) -> None:
        self.judge = judge
        self.alternatives = judge.alternatives
        self.impatient = judge.impatient
        self.found: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.usage = Usage()

    def hear(self, heard: Heard) -> None:
        self.usage.prompt_tokens = max(self.usage.prompt_tokens, heard.prompt_tokens)
        self.usage.completion_tokens += heard.tokens
        self.judge.hear(heard)
        if self.judge.finding is not None and not self.found.done():
            self.found.set_result(None)


async def _committed(
    judge: Judge, held: list[bytes], holding: "asyncio.Task[None]", rest: AsyncGenerator[bytes, None]
) -> AsyncGenerator[bytes, None]:
    """What was held goes out in one piece. `holding` may still wait for the event that comes after the finding."""
    async with aclosing(rest):
        try:
            yield b""
            if told := _told(judge, held):
                yield told
            already = len(held)
            await holding
            if told := _told(judge, held[already:]):
                yield told
        finally:
            await _ended(holding)
        async for event in rest:
            if (told_now := judge.event(event)) is not None:
                yield told_now


def _told(judge: Judge, events: list[bytes]) -> bytes:
    return b"".join(told for event in events if (told := judge.event(event)) is not None)


def _doubt_of(error: BaseException) -> Doubt | None:
    match error:
        case Doubted():
            return error.doubt
        case ContextOverflow():
            return Doubt.CONTEXT
        case TierUnavailable():
            return Doubt.FAILURE
    return None


async def _either(*futures: "asyncio.Future[Any]") -> None:
    await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)


async def _ended(*tasks: "asyncio.Task[Any]") -> None:
    """Cancelled where they still run; what they raise is somebody else's to tell."""
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.exception()
