"""Asks the small tier, holds its answer back until it is judged, and gives it out or says that it is doubted.

The states of an answer: holding (nothing is sent) -> committed (all is sent, as it was made), or doubted (nothing ever
is, and the tier's slot is free again). There is no way back from either, so nothing that was sent has to be unsaid.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tierserve.confidence.calibration import Calibration
from tierserve.confidence.judge import Calibrate, Judge, judge_for
from tierserve.core import Call, Cause, Decision, Doubt, Heard, Judgement, Usage
from tierserve.errors import ContextOverflow, RequestError, TierUnavailable
from tierserve.escalation.budget import Budget
from tierserve.escalation.prewarming import Prewarming
from tierserve.tiers.base import Reply, Tier, armed

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
        prewarming: Prewarming,
        calibrate: Calibrate | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._config = config
        self._small = small
        self._prewarming = prewarming
        self._calibrate = calibrate
        self._budget = Budget(config.budget)
        self._clock = clock

    async def answer(self, call: Call, decision: Decision, judgement: Judgement) -> tuple[Decision, Reply]:
        """The small tier's answer, which stands, and the decision with it. What is found out on the way, whatever comes
        of it, stands in `judgement`.

        Raises Doubted, and what Tier.generate raises.
        """
        judge = judge_for(self._config, call, decision.score, self._calibrate)
        if judge is None:
            return decision, await self._small.generate(call)
        ear, started = _Ear(judge), self._clock()
        try:
            async with self._prewarming.beside(call, decision, judgement):
                return await (self._streamed if call.stream else self._whole)(decision, ear)
        except (Doubted, ContextOverflow, TierUnavailable) as error:
            judgement.doubt = _doubt_of(error)
            judgement.wasted = ear.usage
            raise
        finally:
            judgement.held_s = self._clock() - started
            if judge.finding is not None:
                judgement.confidence = judge.finding.confidence
                judgement.doubt = judgement.doubt or judge.finding.doubt

    async def _streamed(self, decision: Decision, ear: "_Ear") -> tuple[Decision, Reply]:
        judge, held = ear.judge, []
        reply = await self._small.generate(judge.call, ear)
        assert reply.events is not None
        try:
            while judge.finding is None:
                event = await anext(reply.events, None)
                if event is None:
                    judge.end()
                elif reply.broken:
                    raise TierUnavailable(f"{self._small.name} broke off")
                else:
                    held.append(event)
            decision = self._decided(decision, judge)
        except BaseException:
            await reply.events.aclose()
            raise
        reply.events = await armed(_committed(judge, held, reply.events))
        return decision, reply

    async def _whole(self, decision: Decision, ear: "_Ear") -> tuple[Decision, Reply]:
        judge = ear.judge
        answering = asyncio.create_task(self._small.generate(judge.call, ear))
        finding = asyncio.create_task(ear.found.wait())
        try:
            await asyncio.wait({answering, finding}, return_when=asyncio.FIRST_COMPLETED)
            if not answering.done():  # some are known not to do before they are complete
                return self._decided(decision, judge), _told(judge, await answering)
            reply = await answering
            judge.end()
            stands = judge.content_stands
            reply = _told(judge, reply)
            return self._decided(decision, judge, reply if stands else None), reply
        finally:
            await _ended(answering, finding)

    def _decided(self, decision: Decision, judge: Judge, reply: Reply | None = None) -> Decision:
        """The decision with which the answer stands. Raises Doubted where it does not."""
        assert judge.finding is not None
        doubt = judge.finding.doubt
        stands = reply is not None or judge.content_stands
        escalates = doubt is not None and (self._budget.allows or not stands)
        self._budget.count(escalates)
        if doubt is None:
            return decision
        if escalates:
            raise Doubted(doubt, reply)
        return replace(decision, cause=Cause.BUDGET)


def build_escalator(
    config: "EscalationConfig | None", tiers: "TierPair", threshold: Callable[[], float]
) -> Escalator | None:
    """None where answers are not judged. Raises ConfigError."""
    if config is None:
        return None
    calibrate = Calibration.load(Path(config.calibration), config.judged_by) if config.calibration else None
    small, large = tiers
    return Escalator(config, small, Prewarming(config, large, threshold), calibrate)


class _Ear:
    """Listens for a judge, counts, and says when there is a finding."""

    def __init__(self, judge: Judge) -> None:
        self.judge = judge
        self.alternatives = judge.alternatives
        self.found = asyncio.Event()
        self.usage = Usage()

    def hear(self, heard: Heard) -> None:
        self.usage.prompt_tokens = max(self.usage.prompt_tokens, heard.prompt_tokens)
        self.usage.completion_tokens += heard.tokens
        self.judge.hear(heard)
        if self.judge.finding is not None:
            self.found.set()


async def _committed(judge: Judge, held: list[bytes], rest: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(rest):
        yield b""
        for event in held:
            if (told := judge.event(event)) is not None:
                yield told
        async for event in rest:
            if (told := judge.event(event)) is not None:
                yield told


def _told(judge: Judge, reply: Reply) -> Reply:
    return replace(reply, body=judge.body(reply.body))


def _doubt_of(error: Doubted | RequestError | TierUnavailable) -> Doubt:
    match error:
        case Doubted():
            return error.doubt
        case ContextOverflow():
            return Doubt.CONTEXT
        case _:
            return Doubt.FAILURE


async def _ended(*tasks: "asyncio.Task[Any]") -> None:
    """Cancelled where they still run; what they raise is somebody else's to tell."""
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.exception()
