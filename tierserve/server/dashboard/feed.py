"""The figures that the page shows, as one event a second: made while somebody watches, once for all who do."""

import json
import time
from collections.abc import Callable, Hashable, Mapping
from typing import Any, Final

from tierserve.core import Doubt, Role, Status
from tierserve.pipeline import Pipeline
from tierserve.router.router import Router
from tierserve.server.dashboard.window import SCORE_BINS, SLOT_S, SLOTS, Measure, Slot, Window, percentiles
from tierserve.tiers.pair import TierPair

_NEWS: Final = 2  # slots: the one that is filling, and the one before it
_DECISIONS: Final = 12

Drift = Callable[[], Mapping[str, Any] | None]


class Feed:
    """`drift`: what is known of it, None where nothing was compared yet."""

    def __init__(self, window: Window, pipeline: Pipeline, router: Router, tiers: TierPair) -> None:
        self.drift: Drift = _nothing
        self._window = window
        self._pipeline, self._router, self._tiers = pipeline, router, tiers
        self._started = time.time()
        self._made: tuple[int, bytes] = (0, b"")

    def whole(self) -> bytes:
        """The event for who comes new: all that the window holds."""
        return _event(self._figures(SLOTS))

    def news(self) -> bytes:
        """The event for who had one before: what may have changed."""
        second = int(time.time())
        if self._made[0] != second:
            self._made = (second, _event(self._figures(_NEWS)))
        return self._made[1]

    def _figures(self, slots: int) -> dict[str, Any]:
        sums, totals, escalator = self._window.sums, self._window.totals, self._pipeline.escalator
        return {
            "now": round(time.time(), 3),
            "started": round(self._started, 3),
            "slot_s": SLOT_S,
            "window_s": SLOT_S * SLOTS,
            "threshold": self._router.threshold,
            "confidence_threshold": escalator.threshold if escalator else None,
            "tiers": {role: self._tier(role) for role in Role},
            "slots": [_slot(slot) for slot in self._window.slots(slots)],
            "answered": {role: sums.get(("answered", role), 0) for role in Role},
            "latency": {measure: {role: percentiles(sums, measure, role) for role in Role} for measure in Measure},
            "scores": [sums.get(("score", index), 0) for index in range(SCORE_BINS)],
            "statuses": {status: sums.get(("status", status), 0) for status in Status},
            "escalated": {doubt: sums.get(("escalated", doubt), 0) for doubt in Doubt},
            "judged": sums.get(("judged",), 0),
            "stood": sums.get(("stood",), 0),
            "causes": {key[1]: count for key, count in sums.items() if key[0] == "cause"},
            "totals": {
                "requests": totals.requests,
                "unpriced": totals.unpriced,
                "spent": totals.spent,
                "all_large": totals.all_large,
                "wasted": totals.wasted,
            },
            "decisions": list(self._window.decisions)[:_DECISIONS],
            "drift": self.drift(),
        }

    def _tier(self, role: Role) -> dict[str, Any]:
        """`waiting`: in the node's queue for the tier, and in its engine's."""
        tier = self._tiers[role]
        occupancy, in_engine = tier.occupancy, tier.queue.waiting
        return {
            "name": tier.name,
            "state": tier.state,
            "waiting_for": tier.waiting_for,
            "waiting": in_engine + sum(self._pipeline.admission.waiting(role).values()),
            "running": max(0, occupancy.unfinished - in_engine),
            "kv_used": occupancy.kv_used,
        }


def _slot(slot: Slot) -> list[float | None]:
    """Start, answers a second of the small and the large tier, then seconds to the first byte: their p50, their p95."""
    first = [percentiles(slot.counts, Measure.FIRST_BYTE, role) for role in Role]
    return [
        slot.start,
        *(slot.counts[_answered(role)] / SLOT_S for role in Role),
        *(round(each["p50"], 5) if each else None for each in first),
        *(round(each["p95"], 5) if each else None for each in first),
    ]


def _answered(role: Role) -> tuple[Hashable, ...]:
    return "answered", role


def _event(figures: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(figures, separators=(",", ":")).encode() + b"\n\n"


def _nothing() -> None:
    return None
