"""Who waits for room in a tier, how long, and who was turned away."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final

from prometheus_client import CollectorRegistry, Gauge, Histogram

from tierserve.core import Outcome, Refusal
from tierserve.telemetry.families.buckets import ANSWER_S
from tierserve.telemetry.families.watched import Watched

_NO_TIER: Final = "none"


class Admissions:
    def __init__(self, registry: CollectorRegistry, tiers: Sequence[str]) -> None:
        self._waiting = Gauge(
            "tierserve_queue_waiting",
            "Requests that wait in the node's queue for room in a tier.",
            ["tier"],
            registry=registry,
        )
        self._waited = Histogram(
            "tierserve_queue_seconds",
            "How long requests waited for room, by the tier that answered.",
            ["tier"],
            buckets=ANSWER_S,
            registry=registry,
        )
        self._refusals = Watched(
            registry,
            "tierserve_queue_refusals",
            "Requests refused as the queue was too long: at the door, when their tier was known, or displaced from it "
            "by one with a lower priority number.",
            ["how"],
            [[how] for how in Refusal],
        )
        for tier in (*tiers, _NO_TIER):
            self._waited.labels(tier)
        for tier in tiers:
            self._waiting.labels(tier)

    def watch_waiting(self, tier: str, waiting: Callable[[], int]) -> None:
        self._waiting.labels(tier).set_function(waiting)

    def watch_refusals(self, counts: Mapping[str, int]) -> None:
        for how in Refusal:
            self._refusals.watch(partial(counts.__getitem__, how), how)

    def record(self, outcome: Outcome) -> None:
        if outcome.decision is not None:
            self._waited.labels(outcome.tier or _NO_TIER).observe(outcome.queue_s)
