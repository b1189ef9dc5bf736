"""Small against large, sampled."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from prometheus_client import CollectorRegistry, Histogram

from tierserve.telemetry.families.buckets import ANSWER_S
from tierserve.telemetry.families.watched import Watched

RESULTS: Final = ("small", "large", "tie", "dropped", "failed", "aborted")


class Shadows:
    def __init__(self, registry: CollectorRegistry) -> None:
        self._results = Watched(
            registry,
            "tierserve_shadow",
            "Answers of the small tier that were drawn to be compared with the large one's, by which was better; or: "
            "dropped, for want of room in the queue or in the hour's budget, or as the large answer grew too long; "
            "failed; aborted, to make way for a caller or as the node ended.",
            ["result"],
            [[result] for result in RESULTS],
        )
        self._seconds = Histogram(
            "tierserve_shadow_seconds",
            "From beginning a comparison, before it waits for room, to its verdict.",
            buckets=ANSWER_S,
            registry=registry,
        )

    def watch(self, counts: Mapping[str, int]) -> Callable[[float], None]:
        for result in RESULTS:
            self._results.watch(partial(counts.__getitem__, result), result)
        return self._seconds.observe
