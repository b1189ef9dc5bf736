"""What went through the node within the last minutes, and since its start. Knows numbers and names, no text.

    window = Window()
    window.record(outcome)     # for each request: a few counts
    window.slots(), window.sums, window.latency(...), window.decisions

Times are counted by their length, on a scale whose steps are 4 % apart: percentiles are exact to 2 %.
"""

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import accumulate
from typing import Any, Final

from tierserve.core import Cause, Outcome, Role, Status

SLOT_S: Final = 5
SLOTS: Final = 60
SCORE_BINS: Final = 20  # of half a point each
_DECISIONS: Final = 50
_SHARES: Final = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
_STEP: Final = math.log(1.04)
_SHORTEST_S: Final = 1e-4


class Measure(StrEnum):
    FIRST_BYTE = "first_byte"
    TOTAL = "total"


Counts = Counter[tuple[Hashable, ...]]


@dataclass(slots=True)
class Slot:
    """`start`: seconds since the epoch."""

    start: float
    counts: Counts = field(default_factory=Counter)


@dataclass(slots=True)
class Totals:
    """Since the node's start. `unpriced`: requests without a cost."""

    requests: int = 0
    unpriced: int = 0
    spent: float = 0.0
    all_large: float = 0.0
    wasted: float = 0.0


class Window:
    """The last `SLOTS` slots of `SLOT_S` seconds. `record` takes outcomes."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._slots: deque[Slot] = deque()
        self._sums: Counts = Counter()
        self.totals = Totals()
        self.decisions: deque[Mapping[str, Any]] = deque(maxlen=_DECISIONS)
        """The last ones, newest first."""

    def record(self, outcome: Outcome) -> None:
        now = self._clock()
        counts = self._slot(now).counts
        for key in _keys(outcome):
            counts[key] += 1
            self._sums[key] += 1
        self._total(outcome)
        if outcome.decision is not None:
            self.decisions.appendleft(_described(outcome, now))

    def slots(self, last: int = SLOTS) -> list[Slot]:
        """The latest ones that anything happened in, oldest first."""
        self._forget(self._clock())
        return list(self._slots)[-last:]

    @property
    def sums(self) -> Mapping[tuple[Hashable, ...], int]:
        """Over the whole window."""
        self._forget(self._clock())
        return self._sums

    def _slot(self, now: float) -> Slot:
        start = now - now % SLOT_S
        if not self._slots or self._slots[-1].start < start:  # a clock that was put back goes on in the last slot
            self._slots.append(Slot(start))
            self._forget(now)
        return self._slots[-1]

    def _forget(self, now: float) -> None:
        while self._slots and self._slots[0].start <= now - SLOTS * SLOT_S:
            self._sums -= self._slots.popleft().counts  # which drops what has come down to zero

    def _total(self, outcome: Outcome) -> None:
        totals, cost = self.totals, outcome.cost
        totals.requests += 1
        if cost is None:
            totals.unpriced += 1
            return
        totals.spent += cost.spent
        totals.all_large += cost.all_large
        totals.wasted += cost.wasted


def percentiles(counts: Mapping[tuple[Hashable, ...], int], measure: Measure, role: Role) -> dict[str, float] | None:
    """Seconds, by name; None where nothing was measured."""
    steps = sorted((key[2], count) for key, count in counts.items() if key[:2] == (measure, role))
    total = sum(count for _, count in steps)
    if not total:
        return None
    return {name: _seconds(_at(steps, share * total)) for name, share in _SHARES.items()}


def _at(steps: list[tuple[Any, int]], rank: float) -> int:
    reached = accumulate(count for _, count in steps)
    return next(int(step) for (step, _), count in zip(steps, reached, strict=True) if count >= rank)


def _seconds(step: int) -> float:
    """The middle of a step of the scale."""
    return _SHORTEST_S * math.exp((step + 0.5) * _STEP)


def _step(seconds: float) -> int:
    return int(math.log(max(seconds, _SHORTEST_S) / _SHORTEST_S) / _STEP)


def _keys(outcome: Outcome) -> Iterator[tuple[Hashable, ...]]:
    """What a request counts as."""
    yield "status", outcome.status
    decision, judgement = outcome.decision, outcome.judgement
    if decision is None:
        return
    yield "cause", decision.cause
    if decision.score is not None:
        yield "score", min(int(decision.score * SCORE_BINS / 10), SCORE_BINS - 1)
    if outcome.tier is None:
        return
    yield "answered", decision.role
    if decision.cause is Cause.BUDGET:
        yield ("stood",)
    if judgement is not None:
        yield ("judged",)
        if judgement.escalated:
            yield "escalated", judgement.doubt
    if outcome.first_byte_s is not None:
        yield Measure.FIRST_BYTE, decision.role, _step(outcome.first_byte_s)
    if outcome.status is Status.OK:
        yield Measure.TOTAL, decision.role, _step(outcome.total_s)


def _described(outcome: Outcome, now: float) -> dict[str, Any]:
    decision, judgement = outcome.decision, outcome.judgement
    assert decision is not None
    return {
        "id": outcome.call.id,
        "at": round(now, 3),
        "key": outcome.call.caller.key,
        "tier": outcome.tier,
        "role": decision.role,
        "score": None if decision.score is None else round(decision.score, 2),
        "cause": decision.cause,
        "doubt": judgement.doubt if judgement else None,
        "confidence": None if judgement is None or judgement.confidence is None else round(judgement.confidence, 3),
        "escalated": bool(judgement and judgement.escalated),
        "status": outcome.status,
        "tokens": outcome.usage.completion_tokens,
        "first_byte_s": None if outcome.first_byte_s is None else round(outcome.first_byte_s, 4),
        "total_s": round(outcome.total_s, 4),
    }
