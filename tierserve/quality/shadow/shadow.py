"""Draws answers of the small tier, has the large one answer the same, compares them. No caller waits for any of it.

    shadow = Shadow(config, admission, tiers, router.embed, record_comparison)
    pipeline = Pipeline(..., draw=shadow.draws)     # who is drawn keeps what is sent
    shadow.record(outcome)                          # when it has ended
    async with shadow.running(): ...

One comparison at a time: the large tier's answer, then the verdicts. Each is asked for on a slot that admission lends
while no caller needs it, in the background of the engine's own queue, and broken off when a caller does need it. What
that costs is the sample.
"""

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final

from numpy import float32
from numpy.typing import NDArray

from tierserve.core import Call, Outcome, Role
from tierserve.errors import TierserveError
from tierserve.quality.shadow.budget import HourBudget
from tierserve.quality.shadow.judge import Ask, Judged, Unreadable, judge, read_answer
from tierserve.quality.shadow.sample import Sample, can_be_drawn, large_call, request_text, was_answered
from tierserve.telemetry.decisions.answers import text_of
from tierserve.telemetry.decisions.rows import Comparison, Verdict
from tierserve.tiers.admission import Admission, Loan
from tierserve.tiers.base import Reply, TierState
from tierserve.tiers.pair import TierPair
from tierserve.tiers.remote import RemoteTier

if TYPE_CHECKING:
    from tierserve.config import ShadowConfig

log = logging.getLogger(__name__)

Embed = Callable[[str], Awaitable[NDArray[float32]]]

# How often it is looked whether there is room now, while a sample waits for it.
_ROOM_S: Final = 0.1
# How often an engine at work is asked whether callers' requests wait in it, for want of KV cache.
_PRESSED_S: Final = 0.05


class _GaveWay(Exception):
    """A caller needs the slot."""


class _Dropped(Exception):
    """There is nothing to compare."""


class Shadow:
    """`counts` has what became of the samples, by the metrics' RESULTS. `record` and `draws` neither wait nor raise."""

    def __init__(
        self,
        config: "ShadowConfig",
        admission: Admission,
        tiers: TierPair,
        embed: Embed,
        judge: RemoteTier | None = None,
        record: Callable[[Comparison], None] = lambda comparison: None,
        observe: Callable[[float], None] = lambda seconds: None,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        """`judge` is not started yet; without one the large tier judges. `record` takes each comparison, `observe` its
        seconds."""
        self.counts: Counter[str] = Counter()
        self._config = config
        self._admission, self._tiers, self._large = admission, tiers, tiers[Role.LARGE]
        self._embed, self._judge = embed, judge
        self._record, self.observe = record, observe
        self._clock, self._rng = clock, rng or random.Random()
        self._budget = HourBudget(config.per_hour)
        self._waiting: asyncio.Queue[Sample] = asyncio.Queue()
        self._runs = False
        self._complained = False

    def renew(self, config: "ShadowConfig") -> None:
        """Other numbers from now on; the judge stays."""
        self._config = config
        self._budget.renew(config.per_hour)

    def draws(self, outcome: Outcome) -> bool:
        """Whether an answer that begins now is to be compared, should it end well."""
        return (
            self._runs
            and self._rng.random() < self._config.share
            and can_be_drawn(outcome, self._config.max_prompt_chars)
            and self._large.state is TierState.READY
            and self._budget.is_left(self._clock())
        )

    def record(self, outcome: Outcome) -> None:
        if not (outcome.drawn and self._runs) or not was_answered(outcome, self._config.max_tokens):
            return
        request = request_text(outcome.call)
        assert request is not None  # or it would not have been drawn
        if self._waiting.qsize() < self._config.queue:
            self._waiting.put_nowait(Sample(outcome, request))
        else:
            self.counts["dropped"] += 1

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Compares for as long as the block runs; what is not done at its end is given up."""
        task = asyncio.create_task(self._run(), name="shadow")
        self._runs = True
        try:
            yield
        finally:
            self._runs = False
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            self.counts["dropped"] += self._waiting.qsize()
            if self._judge is not None:
                await self._judge.stop()

    async def _run(self) -> None:
        while True:
            sample = await self._waiting.get()
            result = "aborted"  # what it is when the node ends
            try:
                result = await self._result(sample)
            finally:
                self.counts[result] += 1

    async def _result(self, sample: Sample) -> str:
        started = self._clock()
        try:
            comparison = await self._compared(sample)
        except _GaveWay:
            return "aborted"
        except _Dropped:
            return "dropped"
        except (TierserveError, Unreadable) as error:
            self._complain(error)
            return "failed"
        except Exception:
            log.exception("a comparison of the tiers' answers failed")
            return "failed"
        self._complained = False
        self.observe(self._clock() - started)
        self._record(comparison)
        return comparison.verdict

    async def _compared(self, sample: Sample) -> Comparison:
        """Raises _GaveWay, _Dropped, Unreadable, and what Tier.generate raises."""
        if not self._budget.spend(self._clock()):
            raise _Dropped
        outcome, small = sample.outcome, _text_of(sample.outcome)
        large = await self._large_answer(outcome.call)
        similarity = await self._similarity(small, large)
        began, judged = self._clock(), None
        if small.strip() != large.strip():  # of the same there is nothing to judge
            judged = await judge(self._ask_judge, f"judge-{outcome.call.id}", sample.request, small, large)
        return Comparison(
            request_id=outcome.call.id,
            key=outcome.call.caller.key,
            small_tier=self._tiers[Role.SMALL].name,
            large_tier=self._large.name,
            similarity=similarity,
            confidence=outcome.judgement.confidence if outcome.judgement is not None else None,
            score=outcome.decision.score if outcome.decision is not None else None,
            judge_ms=1000 * (self._clock() - began) if judged is not None else None,
            small_answer=small,
            large_answer=large,
            **_verdicts(judged),
        )

    async def _large_answer(self, call: Call) -> str:
        asked, limited = large_call(call, self._config.max_tokens)
        answer, cut_off = read_answer((await self._ask_large(asked)).body)
        if cut_off and limited:
            raise _Dropped  # half an answer against a whole one
        return answer

    async def _similarity(self, small: str, large: str) -> float:
        """One after the other: a prompt that comes meanwhile waits for one text at most."""
        first, second = await self._embed(small), await self._embed(large)
        return float(first @ second)

    async def _ask_large(self, call: Call) -> Reply:
        """On a slot that is lent. Raises _GaveWay where it is recalled, or callers' requests wait in the engine."""
        recalled = asyncio.Event()
        loan = await self._room(recalled.set)
        asking = asyncio.create_task(self._large.generate(call))
        giving_way = asyncio.create_task(recalled.wait())
        try:
            while not asking.done():
                await asyncio.wait({asking, giving_way}, timeout=_PRESSED_S, return_when=asyncio.FIRST_COMPLETED)
                if not asking.done() and (recalled.is_set() or self._large.queue.waiting):
                    raise _GaveWay
            return asking.result()
        finally:
            giving_way.cancel()
            asking.cancel()
            await asyncio.wait({asking})
            loan.give_back()
            if not asking.cancelled():
                asking.exception()

    async def _room(self, recall: Callable[[], None]) -> Loan:
        while True:
            loan = self._admission.lend(Role.LARGE, recall)
            if loan is not None:
                return loan
            await asyncio.sleep(_ROOM_S)

    @property
    def _ask_judge(self) -> Ask:
        return self._ask_large if self._judge is None else self._ask_remote

    async def _ask_remote(self, call: Call) -> Reply:
        """The judge elsewhere, which is looked for when it is first needed, and anew after it failed."""
        assert self._judge is not None
        try:
            if self._judge.state is not TierState.READY:
                await self._judge.stop()
                await self._judge.start()
            return await self._judge.generate(call)
        except TierserveError:
            await self._judge.stop()
            raise

    def _complain(self, error: Exception) -> None:
        """Once, until one succeeds again: what is wrong with a judge is wrong with each of its verdicts."""
        level = logging.DEBUG if self._complained else logging.WARNING
        what = "the judge gave no verdict" if isinstance(error, Unreadable) else str(error)
        log.log(level, "the tiers' answers could not be compared: %s", what)
        self._complained = True


def build_shadow(
    config: "ShadowConfig | None",
    admission: Admission,
    tiers: TierPair,
    embed: Embed,
    record: Callable[[Comparison], None] | None,
) -> Shadow | None:
    """None where nothing is compared. Raises ConfigError."""
    if config is None:
        return None
    remote = RemoteTier("judge", config.judge, "shadow.judge") if config.judge is not None else None
    return Shadow(config, admission, tiers, embed, remote, record or (lambda comparison: None))


def _text_of(outcome: Outcome) -> str:
    assert outcome.sent is not None
    return text_of(outcome.sent, outcome.call.stream)


def _verdicts(judged: Judged | None) -> dict[str, Verdict]:
    if judged is None:
        return {"verdict": "tie"}
    return {"verdict": judged.verdict, "first_order": judged.first_order, "second_order": judged.second_order}
