"""What the two tiers did, how fast, and how they are."""

from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from tierserve.core import Outcome, Status
from tierserve.telemetry.families.buckets import ANSWER_S

# From a small model on a fast GPU, 500 tokens a second, to a large one that is overrun.
_TOKEN_S = (0.002, 0.004, 0.006, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1)


class Tiers:
    def __init__(self, registry: CollectorRegistry, tiers: Sequence[str]) -> None:
        self._tokens = Counter(
            "tierserve_tokens",
            "Tokens read and written for the answers that callers got.",
            ["tier", "direction"],
            registry=registry,
        )
        self._first_byte = Histogram(
            "tierserve_first_byte_seconds",
            "From arrival to the answer's first byte, which of an answer that is not streamed is its last too.",
            ["tier"],
            buckets=ANSWER_S,
            registry=registry,
        )
        self._inter_token = Histogram(
            "tierserve_inter_token_seconds",
            "Of a whole streamed answer: from its first byte to its end, per token after the first.",
            ["tier"],
            buckets=_TOKEN_S,
            registry=registry,
        )
        self._total = Histogram(
            "tierserve_request_seconds",
            "From arrival to the answer's end, by how that came.",
            ["tier", "status"],
            buckets=ANSWER_S,
            registry=registry,
        )
        self._ready = Gauge("tierserve_tier_ready", "Whether a tier can answer.", ["tier"], registry=registry)
        self._waiting = Gauge(
            "tierserve_tier_waiting",
            "Requests that wait for a tier, in the node's queue and in the tier's own.",
            ["tier"],
            registry=registry,
        )
        for tier in tiers:
            self._ready.labels(tier)
            self._waiting.labels(tier)
            self._first_byte.labels(tier)
            self._inter_token.labels(tier)
            for status in Status:
                self._total.labels(tier, status)
            for direction in ("prompt", "completion"):
                self._tokens.labels(tier, direction)

    def watch(self, tier: str, ready: Callable[[], bool], waiting: Callable[[], int]) -> None:
        self._ready.labels(tier).set_function(lambda: float(ready()))
        self._waiting.labels(tier).set_function(waiting)

    def record(self, outcome: Outcome) -> None:
        tier = outcome.tier
        if tier is None:
            return
        self._total.labels(tier, outcome.status).observe(outcome.total_s)
        if outcome.first_byte_s is not None:
            self._first_byte.labels(tier).observe(outcome.first_byte_s)
            if outcome.call.stream and outcome.status is Status.OK and outcome.usage.completion_tokens > 1:
                streaming_s = outcome.total_s - outcome.first_byte_s
                self._inter_token.labels(tier).observe(streaming_s / (outcome.usage.completion_tokens - 1))
        self._tokens.labels(tier, "prompt").inc(outcome.usage.prompt_tokens)
        self._tokens.labels(tier, "completion").inc(outcome.usage.completion_tokens)
