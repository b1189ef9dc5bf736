"""From samples to numbers. Pure: no clock, no socket.

Rates count what ended within the window of each trial, and are medians over its rounds; times are those of all requests
that were due within it, whenever they ended. A request that failed has no time, and misses the SLO.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import median
from typing import Any

from measurement import percentile

from loadgen.asking import Sample
from loadgen.plan import PlanError
from loadgen.runner import Trial

SHARES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}
# Beyond these the times are the client's as much as the server's.
_BUSY_SHARE = 0.9
_LATE_MS = 20


@dataclass(frozen=True, slots=True)
class Slo:
    """What a caller is promised; None: nothing. A whole answer's first token comes with its last."""

    ttft_ms: float | None = None
    tpot_ms: float | None = None
    e2e_ms: float | None = None

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise PlanError(f"the SLO's {name} must be above 0, not {value:g}")

    def kept(self, sample: Sample) -> bool:
        ttft_s = sample.latency_s if sample.ttft_s is None else sample.ttft_s
        promises = ((self.ttft_ms, ttft_s), (self.tpot_ms, sample.tpot_s or 0), (self.e2e_ms, sample.latency_s))
        return not sample.error and all(limit is None or value * 1000 <= limit for limit, value in promises)


@dataclass(frozen=True, slots=True)
class Price:
    """Of a million tokens of a model: money, or relative to another model's."""

    prompt: float
    output: float

    def of(self, sample: Sample) -> float:
        return (sample.prompt_tokens * self.prompt + sample.output_tokens * self.output) / 1e6


def summarise(
    trials: Iterable[Trial],
    slo: Slo | None = None,
    large: str | None = None,
    prices: Mapping[str, Price] | None = None,
) -> list[dict[str, Any]]:
    """A row for each load and endpoint; None where a number was not measured, or was not asked for.

    `large` is the model whose share is counted. A cost holds the tokens in the answer's own usage: what an escalated
    request spent on the small tier before is not among them.
    """
    groups: dict[tuple[str, str], list[Trial]] = {}
    for trial in trials:
        groups.setdefault((str(trial.load), trial.endpoint.name), []).append(trial)
    return [_row(group, slo, large, prices or {}) for group in groups.values()]


def _row(trials: Sequence[Trial], slo: Slo | None, large: str | None, prices: Mapping[str, Price]) -> dict[str, Any]:
    due = [sample for trial in trials for sample in trial.samples]
    good = [sample for sample in due if not sample.error]
    seconds = sum(_seconds(trial) for trial in trials)
    per_s = [rate for trial in trials if (rate := _rate(trial, lambda _: 1)) is not None]
    tokens_per_s = [rate for trial in trials if (rate := _rate(trial, lambda each: each.output_tokens)) is not None]
    kept = None if slo is None else sum(map(slo.kept, due))
    return {
        "target": trials[0].endpoint.name,
        "load": str(trials[0].load),
        "rounds": len(trials),
        "seconds": seconds,
        "requests": len(due),
        "errors": len(due) - len(good),
        "errors_by_kind": dict(Counter(sample.error for sample in due if sample.error).most_common()),
        "unfinished": sum(trial.unfinished for trial in trials),
        "requests_per_s": median(per_s) if per_s else None,
        "requests_per_s_least": min(per_s, default=None),
        "requests_per_s_most": max(per_s, default=None),
        "output_tokens_per_s": median(tokens_per_s) if tokens_per_s else None,
        **_times("ttft", [each.ttft_s for each in good]),
        **_times("tpot", [each.tpot_s for each in good]),
        **_times("e2e", [each.latency_s for each in good]),
        "goodput_per_s": kept / seconds if kept is not None and seconds else None,
        "within_slo": kept / len(due) if kept is not None and due else None,
        "answered_by": dict(Counter(sample.model for sample in good).most_common()),
        "large_share": _share(good, lambda sample: sample.model == large) if large else None,
        "escalated_share": _share([each for each in good if each.escalated is not None], _escalated),
        **_costs(good, large, prices),
        **_client(trials),
    }


def _seconds(trial: Trial) -> float:
    return max(trial.end_s - trial.start_s, 0)


def _rate(trial: Trial, amount: Callable[[Sample], int]) -> float | None:
    ended = (each for each in chain(trial.warm_up, trial.samples) if trial.start_s <= each.end_s <= trial.end_s)
    seconds = _seconds(trial)
    return sum(amount(each) for each in ended if not each.error) / seconds if seconds else None


def _times(name: str, values_s: Iterable[float | None]) -> dict[str, float | None]:
    known = [value * 1000 for value in values_s if value is not None]
    return {f"{name}_{key}_ms": percentile(known, share) if known else None for key, share in SHARES.items()}


def _share(samples: Sequence[Sample], is_one: Callable[[Sample], bool]) -> float | None:
    return sum(map(is_one, samples)) / len(samples) if samples else None


def _escalated(sample: Sample) -> bool:
    return sample.escalated is True


def _costs(good: Sequence[Sample], large: str | None, prices: Mapping[str, Price]) -> dict[str, float | None]:
    """Of 1000 requests, and relative to the large model's price for the same tokens; None where a price is missing."""
    if not good or any(sample.model not in prices for sample in good):
        return {"cost_per_1000": None, "cost_of_all_large": None}
    cost = sum(prices[sample.model].of(sample) for sample in good)
    at_large = prices.get(large or "")
    all_large = sum(map(at_large.of, good)) if at_large else 0
    return {"cost_per_1000": 1000 * cost / len(good), "cost_of_all_large": cost / all_large if all_large else None}


def _client(trials: Sequence[Trial]) -> dict[str, Any]:
    """The worst of the rounds."""
    busy = max(trial.client.cpu_share for trial in trials)
    late_ms = max(percentile(trial.client.lags_s or [0.0], 0.99) * 1000 for trial in trials)
    return {
        "client_cpu_share": busy,
        "client_late_p99_ms": late_ms,
        "client_saturated": busy > _BUSY_SHARE or late_ms > _LATE_MS,
    }
