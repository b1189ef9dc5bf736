"""Prometheus metrics of the node, and beside them those of its engines."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import partial

from prometheus_client import (
    GC_COLLECTOR,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from tierserve.core import Cause, Doubt, Judgement, Outcome, Prewarm, Status
from tierserve.telemetry.share import LargeShare

# From a cached route to a long answer of a large model.
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_ROUTE_SECONDS = (0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25)
_ASSESSMENT_SECONDS = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.4, 0.6, 1, 2)
_ASSESSMENTS = {
    "asked": "Prompts on which the assessor was asked.",
    "used": "Of those asked: its rating counted.",
    "late": "Of those asked: it was later than router.assess.deadline_ms.",
    "refused": "Of those asked: too many waited for it.",
    "failed": "Of those asked: it failed.",
}
# Finer where thresholds lie.
_CONFIDENCES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.99, 1)
_DIRECTIONS = ("prompt", "completion")
_NONE = "none"

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series beside each counter, for its birthday


class Metrics:
    """`record` takes outcomes; `render` gives the text exposition. All series exist, at zero, from the start."""

    def __init__(self, tiers: Iterable[str]) -> None:
        self.registry = CollectorRegistry()
        names = list(tiers)
        self._requests = Counter(
            "tierserve_requests",
            "Requests that ended, by the tier that answered, why it was chosen, and how it went.",
            ["tier", "cause", "status"],
            registry=self.registry,
        )
        self._refusals = Counter(
            "tierserve_refusals",
            "Requests answered with an error, on any path, by HTTP status.",
            ["status"],
            registry=self.registry,
        )
        self._tokens = Counter(
            "tierserve_tokens", "Tokens read and written.", ["tier", "direction"], registry=self.registry
        )
        self._route = Histogram(
            "tierserve_route_seconds",
            "From arrival to the decision.",
            ["cause"],
            buckets=_ROUTE_SECONDS,
            registry=self.registry,
        )
        self._score = Histogram(
            "tierserve_score", "Scores of prompts, 0 to 10.", buckets=range(1, 11), registry=self.registry
        )
        self._first_byte = Histogram(
            "tierserve_first_byte_seconds",
            "From arrival to the answer's first byte.",
            ["tier"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._total = Histogram(
            "tierserve_request_seconds",
            "From arrival to the answer's end.",
            ["tier"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._in_flight = Gauge("tierserve_requests_in_flight", "Requests being answered.", registry=self.registry)
        self._ready = Gauge("tierserve_tier_ready", "Whether a tier can answer.", ["tier"], registry=self.registry)
        self._waiting = Gauge("tierserve_tier_waiting", "Requests in a tier's queue.", ["tier"], registry=self.registry)
        self._threshold = Gauge(
            "tierserve_router_threshold", "Scores above it go to the large tier.", registry=self.registry
        )
        self._large_share = Gauge(
            "tierserve_large_share",
            "Of the requests routed within the last hour, the share that ended on the large tier.",
            registry=self.registry,
        )
        self._large_share_high = Gauge(
            "tierserve_large_share_high",
            "Whether that share is beyond router.warn_large_share.",
            registry=self.registry,
        )
        self._assessment = Histogram(
            "tierserve_assessment_seconds",
            "From asking the assessor to its rating, where that was used.",
            buckets=_ASSESSMENT_SECONDS,
            registry=self.registry,
        )
        self._confidence = Histogram(
            "tierserve_confidence",
            "Confidence in the small tier's answers, 0 to 1.",
            buckets=_CONFIDENCES,
            registry=self.registry,
        )
        self._escalations = Counter(
            "tierserve_escalations",
            "Answers of the large tier in place of the small one's, by what was wrong with that.",
            ["doubt"],
            registry=self.registry,
        )
        self._held = Histogram(
            "tierserve_held_seconds",
            "From asking the small tier to its answer's being judged, by whether it was sent then.",
            ["committed"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._wasted = Counter(
            "tierserve_wasted_tokens",
            "Tokens that the small tier read and wrote for answers that were not sent.",
            ["direction"],
            registry=self.registry,
        )
        self._prewarms = Counter(
            "tierserve_prewarms",
            "Prompts that the large tier read in advance: hit and late when it answered, unused when it did not.",
            ["result"],
            registry=self.registry,
        )
        for cause in Cause:
            self._route.labels(cause)
        for doubt in Doubt:
            self._escalations.labels(doubt)
        for prewarm in Prewarm:
            self._prewarms.labels(prewarm)
        for direction in _DIRECTIONS:
            self._wasted.labels(direction)
        for committed in ("true", "false"):
            self._held.labels(committed)
        for tier in names:
            self._first_byte.labels(tier)
            self._total.labels(tier)
            for direction in _DIRECTIONS:
                self._tokens.labels(tier, direction)
            for cause in Cause:
                self._requests.labels(tier, cause, Status.OK)
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self.registry.register(GC_COLLECTOR)

    def in_flight(self) -> AbstractContextManager[object]:
        """Counts a request as being answered, for as long as the block runs."""
        return self._in_flight.track_inprogress()

    def count_refusal(self, status: int) -> None:
        """A request that was answered with an error, by its HTTP status."""
        self._refusals.labels(status).inc()

    def watch_tier(self, tier: str, ready: Callable[[], bool], waiting: Callable[[], int]) -> None:
        """Ask for a tier's state when scraped."""
        self._ready.labels(tier).set_function(lambda: float(ready()))
        self._waiting.labels(tier).set_function(waiting)

    def watch_router(self, threshold: Callable[[], float], hits: Callable[[], int], misses: Callable[[], int]) -> None:
        """Likewise for what the router knows."""
        self._threshold.set_function(threshold)
        self.registry.register(
            _Counted(
                {
                    "tierserve_route_cache_hits": ("Prompts whose score was known.", hits),
                    "tierserve_route_cache_misses": ("Prompts that had to be scored.", misses),
                }
            )
        )

    def watch_assessments(self, counts: Mapping[str, int]) -> Callable[[float], None]:
        """Likewise for what became of second opinions; returns what takes the seconds of each."""
        self.registry.register(
            _Counted(
                {
                    f"tierserve_assessments_{name}": (help, partial(counts.__getitem__, name))
                    for name, help in _ASSESSMENTS.items()
                }
            )
        )
        return self._assessment.observe

    def watch_share(self, share: LargeShare) -> None:
        """Likewise for the large tier's share."""
        self._large_share.set_function(lambda: share.value)
        self._large_share_high.set_function(lambda: float(share.high))

    def record(self, outcome: Outcome) -> None:
        decision, tier = outcome.decision, outcome.tier or _NONE
        cause = decision.cause if decision else _NONE
        self._requests.labels(tier, cause, outcome.status).inc()
        if decision and outcome.route_s is not None:
            self._route.labels(decision.cause).observe(outcome.route_s)
            if decision.score is not None:
                self._score.observe(decision.score)
        if outcome.judgement is not None:
            self._record_judgement(outcome.judgement)
        if outcome.tier is None:
            return
        if outcome.judgement is not None:
            self._held.labels("false" if outcome.judgement.escalated else "true").observe(outcome.judgement.held_s)
        self._total.labels(tier).observe(outcome.total_s)
        if outcome.first_byte_s is not None:
            self._first_byte.labels(tier).observe(outcome.first_byte_s)
        self._tokens.labels(tier, "prompt").inc(outcome.usage.prompt_tokens)
        self._tokens.labels(tier, "completion").inc(outcome.usage.completion_tokens)

    def _record_judgement(self, judgement: Judgement) -> None:
        if judgement.confidence is not None:
            self._confidence.observe(judgement.confidence)
        if judgement.escalated:
            self._escalations.labels(judgement.doubt).inc()
        self._wasted.labels("prompt").inc(judgement.wasted.prompt_tokens)
        self._wasted.labels("completion").inc(judgement.wasted.completion_tokens)
        if judgement.prewarm is not None:
            self._prewarms.labels(judgement.prewarm).inc()

    def render(self, engines: Iterable[Iterator[Metric]]) -> bytes:
        return generate_latest(_Merged([self.registry.collect(), *engines]))


class _Counted(Collector):
    """Counters that others keep, read when scraped."""

    def __init__(self, counters: Mapping[str, tuple[str, Callable[[], int]]]) -> None:
        self._counters = counters

    def collect(self) -> Iterator[Metric]:
        for name, (help, count) in self._counters.items():
            yield CounterMetricFamily(name, help, value=count())


class _Merged(Collector):
    """Several collections as one. The exposition format wants each family once, so samples of one name are joined."""

    def __init__(self, collections: Iterable[Iterable[Metric]]) -> None:
        self._collections = collections

    def collect(self) -> Iterator[Metric]:
        families: dict[str, Metric] = {}
        for collection in self._collections:
            for metric in collection:
                if metric.name in families:
                    families[metric.name].samples.extend(metric.samples)
                else:
                    families[metric.name] = metric
        return iter(families.values())
