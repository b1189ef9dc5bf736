"""Which tier, why, and what finding that out took."""

from collections.abc import Callable, Mapping
from functools import partial

from prometheus_client import CollectorRegistry, Gauge, Histogram

from tierserve.core import Cause, Outcome
from tierserve.telemetry.families.watched import Watched
from tierserve.telemetry.share import LargeShare

_ROUTE_S = (0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25)
_ASSESSMENT_S = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.4, 0.6, 1, 2)
_ASSESSMENTS = {
    "asked": "Prompts on which the assessor was asked.",
    "used": "Of those asked: its rating counted.",
    "late": "Of those asked: it was later than router.assess.deadline_ms.",
    "refused": "Of those asked: too many waited for it.",
    "failed": "Of those asked: it failed.",
}


class Routing:
    def __init__(self, registry: CollectorRegistry) -> None:
        self._route = Histogram(
            "tierserve_route_seconds",
            "From arrival to the decision.",
            ["cause"],
            buckets=_ROUTE_S,
            registry=registry,
        )
        self._score = Histogram(
            "tierserve_score", "Scores of prompts, 0 to 10.", buckets=range(1, 11), registry=registry
        )
        self._threshold = Gauge(
            "tierserve_router_threshold", "Scores above it go to the large tier.", registry=registry
        )
        self._large_share = Gauge(
            "tierserve_large_share",
            "Of the requests routed within the last hour, the share that ended on the large tier.",
            registry=registry,
        )
        self._large_share_high = Gauge(
            "tierserve_large_share_high",
            "Whether that share is beyond router.warn_large_share.",
            registry=registry,
        )
        self._hits = Watched(registry, "tierserve_route_cache_hits", "Prompts whose score was known.")
        self._misses = Watched(registry, "tierserve_route_cache_misses", "Prompts that had to be scored.")
        self._assessment = Histogram(
            "tierserve_assessment_seconds",
            "From asking the assessor to its rating, where that was used.",
            buckets=_ASSESSMENT_S,
            registry=registry,
        )
        self._assessments = {
            name: Watched(registry, f"tierserve_assessments_{name}", help) for name, help in _ASSESSMENTS.items()
        }
        for cause in Cause:
            self._route.labels(cause)

    def watch_router(self, threshold: Callable[[], float], hits: Callable[[], int], misses: Callable[[], int]) -> None:
        self._threshold.set_function(threshold)
        self._hits.watch(hits)
        self._misses.watch(misses)

    def watch_assessments(self, counts: Mapping[str, int]) -> Callable[[float], None]:
        """`counts` of what became of second opinions; returns what takes the seconds of each."""
        for name, assessments in self._assessments.items():
            assessments.watch(partial(counts.__getitem__, name))
        return self._assessment.observe

    def watch_share(self, share: LargeShare) -> None:
        self._large_share.set_function(lambda: share.value)
        self._large_share_high.set_function(lambda: float(share.high))

    def record(self, outcome: Outcome) -> None:
        decision = outcome.decision
        if decision is None or outcome.route_s is None:
            return
        self._route.labels(decision.cause).observe(outcome.route_s)
        if decision.score is not None:
            self._score.observe(decision.score)
