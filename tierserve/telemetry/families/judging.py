"""How the small tier's answers were judged, and what came of that."""

from prometheus_client import CollectorRegistry, Counter, Histogram

from tierserve.core import Doubt, Outcome, Prewarm
from tierserve.telemetry.families.buckets import ANSWER_S

# Finer where thresholds lie.
_CONFIDENCES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.99, 1)


class Judging:
    def __init__(self, registry: CollectorRegistry) -> None:
        self._confidence = Histogram(
            "tierserve_confidence",
            "Confidence in the small tier's answers, 0 to 1.",
            buckets=_CONFIDENCES,
            registry=registry,
        )
        self._escalations = Counter(
            "tierserve_escalations",
            "Answers of the large tier in place of the small one's, by what was wrong with that.",
            ["doubt"],
            registry=registry,
        )
        self._held = Histogram(
            "tierserve_held_seconds",
            "From asking the small tier to its answer's being judged, by whether it was sent then.",
            ["committed"],
            buckets=ANSWER_S,
            registry=registry,
        )
        self._wasted = Counter(
            "tierserve_wasted_tokens",
            "Tokens that the small tier read and wrote for answers that were not sent.",
            ["direction"],
            registry=registry,
        )
        self._prewarms = Counter(
            "tierserve_prewarms",
            "Prompts that the large tier read in advance: hit and late when it answered, unused when it did not.",
            ["result"],
            registry=registry,
        )
        for doubt in Doubt:
            self._escalations.labels(doubt)
        for prewarm in Prewarm:
            self._prewarms.labels(prewarm)
        for direction in ("prompt", "completion"):
            self._wasted.labels(direction)
        for committed in ("true", "false"):
            self._held.labels(committed)

    def record(self, outcome: Outcome) -> None:
        judgement = outcome.judgement
        if judgement is None:
            return
        if judgement.confidence is not None:
            self._confidence.observe(judgement.confidence)
        if judgement.escalated:
            self._escalations.labels(judgement.doubt).inc()
        if outcome.tier is not None:
            self._held.labels("false" if judgement.escalated else "true").observe(judgement.held_s)
        self._wasted.labels("prompt").inc(judgement.wasted.prompt_tokens)
        self._wasted.labels("completion").inc(judgement.wasted.completion_tokens)
        if judgement.prewarm is not None:
            self._prewarms.labels(judgement.prewarm).inc()
