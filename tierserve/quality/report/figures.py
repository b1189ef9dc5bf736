"""The figures of a report, from rows of the decision log. Pure."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

import numpy as np

from tierserve.core import Role, Status
from tierserve.quality.answers import wilson
from tierserve.telemetry.share import NO_CHOICE

# What is read of a row.
COLUMNS: Final = (
    "time, key, tier, role, cause, score, threshold, confidence, escalated, status, prompt_tokens, completion_tokens, "
    "wasted_prompt_tokens, wasted_completion_tokens, first_byte_s, total_s, cost, cost_all_large"
)
# The article's: more on the large tier, and the threshold is too low.
LINE: Final = 0.3
# Below so many requests with a price a normal approximation says nothing.
LEAST_PRICED: Final = 30
PERCENTILES: Final = (50, 90, 99)
BINS: Final = 10
NOBODY: Final = "none"
_Z: Final = 1.96  # 95 %


@dataclass(slots=True)
class Share:
    """Of a count, with its 95 % interval (Wilson)."""

    part: int = 0
    count: int = 0

    def add(self, is_part: object) -> None:
        self.part += bool(is_part)
        self.count += 1

    @property
    def value(self) -> float | None:
        return self.part / self.count if self.count else None

    @property
    def interval(self) -> tuple[float, float] | None:
        return wilson(self.part, self.count) if self.count else None

    def as_json(self) -> dict[str, Any]:
        return {"part": self.part, "count": self.count, "share": self.value, "interval": self.interval}


@dataclass(slots=True)
class Money:
    """What requests cost, and would have cost on the large tier alone: sums, and sums of squares for the interval."""

    priced: int = 0
    spent: float = 0.0
    all_large: float = 0.0
    _spent2: float = 0.0
    _large2: float = 0.0
    _product: float = 0.0

    def add(self, spent: float, all_large: float) -> None:
        self.priced += 1
        self.spent += spent
        self.all_large += all_large
        self._spent2 += spent * spent
        self._large2 += all_large * all_large
        self._product += spent * all_large

    @property
    def saved(self) -> float:
        """Negative where it cost more than the large tier alone would have."""
        return self.all_large - self.spent

    @property
    def saving(self) -> float | None:
        """As a part of what the large tier alone would have cost; None where that is nothing."""
        return self.saved / self.all_large if self.all_large > 0 else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 %, of `saving`: a ratio of two sums over requests, normally approximated (delta method); None where
        that would be a guess."""
        if self.saving is None or self.priced < LEAST_PRICED:
            return None
        ratio, n = self.spent / self.all_large, self.priced
        squares = max(0.0, self._spent2 - 2 * ratio * self._product + ratio * ratio * self._large2)
        half = _Z * math.sqrt(squares * n / (n - 1)) / self.all_large
        return self.saving - half, self.saving + half

    def as_json(self) -> dict[str, Any]:
        return {
            "priced_requests": self.priced,
            "spent": self.spent,
            "all_large": self.all_large,
            "saved": self.saved,
            "saving": self.saving,
            "saving_interval": self.interval,
        }


@dataclass(slots=True)
class Part:
    """Of the requests: all, a key's, or a day's. `large`: of those that the router had a choice in. `escalated`: of
    those whose answer was judged. `failed`: neither answered nor the caller's doing."""

    requests: int = 0
    failed: int = 0
    tokens: int = 0
    large: Share = field(default_factory=Share)
    escalated: Share = field(default_factory=Share)
    money: Money = field(default_factory=Money)

    def add(self, row: Mapping[str, Any]) -> None:
        self.requests += 1
        self.failed += row["status"] in (Status.ERROR, Status.UNAVAILABLE)
        self.tokens += row["prompt_tokens"] + row["completion_tokens"]
        if row["tier"] is not None and row["cause"] not in NO_CHOICE:
            self.large.add(row["role"] == Role.LARGE)
        if row["escalated"] is not None and row["tier"] is not None:
            self.escalated.add(row["escalated"])
        if row["cost"] is not None:
            self.money.add(row["cost"], row["cost_all_large"])

    def as_json(self) -> dict[str, Any]:
        return {
            "requests": self.requests,
            "failed": self.failed,
            "tokens": self.tokens,
            "large_share": self.large.as_json(),
            "escalated": self.escalated.as_json(),
            **self.money.as_json(),
        }


@dataclass(slots=True)
class TierFigures:
    """What a tier answered. Percentiles of seconds since arrival are those of PERCENTILES, of what ended well."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    spent: float = 0.0
    first_byte_s: tuple[float, ...] = ()
    total_s: tuple[float, ...] = ()


@dataclass(slots=True)
class Report:
    """`causes` counts requests by cause and tier, `statuses` by how they ended. `confidences` and `scores` are
    histograms in BINS equal bins from 0 to 1 and 0 to 10; `threshold` is the latest. Days are UTC's."""

    since: float
    until: float
    key: str | None
    first: float | None = None
    last: float | None = None
    all: Part = field(default_factory=Part)
    tiers: dict[str, TierFigures] = field(default_factory=dict)
    causes: dict[str, dict[str, int]] = field(default_factory=dict)
    statuses: Counter[str] = field(default_factory=Counter)
    keys: dict[str, Part] = field(default_factory=dict)
    days: dict[str, Part] = field(default_factory=dict)
    wasted_tokens: int = 0
    confidences: list[int] = field(default_factory=lambda: [0] * BINS)
    scores: list[int] = field(default_factory=lambda: [0] * BINS)
    confidence_sum: float = 0.0
    threshold: float | None = None

    @property
    def mean_confidence(self) -> float | None:
        count = sum(self.confidences)
        return self.confidence_sum / count if count else None

    def as_json(self) -> dict[str, Any]:
        return {
            "since": _iso(self.since),
            "until": _iso(self.until),
            "first": _iso(self.first),
            "last": _iso(self.last),
            "key": self.key,
            **self.all.as_json(),
            "line": LINE,
            "saving_interval_by": "normal approximation of a ratio, 95 %",
            "wasted_tokens": self.wasted_tokens,
            "mean_confidence": self.mean_confidence,
            "confidence_histogram": self.confidences,
            "score_histogram": self.scores,
            "threshold": self.threshold,
            "statuses": dict(self.statuses),
            "causes": self.causes,
            "percentiles": PERCENTILES,
            "tiers": {name: asdict(tier) for name, tier in self.tiers.items()},
            "keys": {name: part.as_json() for name, part in self.keys.items()},
            "days": {day: part.as_json() for day, part in self.days.items()},
        }


def figures(rows: Iterable[Mapping[str, Any]], since: float, until: float, key: str | None = None) -> Report:
    """Of rows in the order of time, which hold at least COLUMNS."""
    report = Report(since, until, key)
    times: dict[str, tuple[list[float], list[float]]] = {}
    for row in rows:
        report.first = row["time"] if report.first is None else report.first
        report.last = row["time"]
        day = datetime.fromtimestamp(row["time"], UTC).strftime("%Y-%m-%d")
        for part in (
            report.all,
            report.keys.setdefault(row["key"], Part()),
            report.days.setdefault(day, Part()),
        ):
            part.add(row)
        _count(report, row)
        if row["tier"] is not None and row["status"] == Status.OK:
            first, total = times.setdefault(row["tier"], ([], []))
            total.append(row["total_s"])
            if row["first_byte_s"] is not None:
                first.append(row["first_byte_s"])
    for name, (first, total) in times.items():
        report.tiers[name].first_byte_s, report.tiers[name].total_s = _percentiles(first), _percentiles(total)
    report.days = _without_gaps(report.days)
    report.tiers = dict(sorted(report.tiers.items(), key=lambda tier: -tier[1].requests))
    report.keys = dict(sorted(report.keys.items(), key=lambda part: -part[1].requests))
    return report


def _without_gaps(days: dict[str, Part]) -> dict[str, Part]:
    """A day on which nothing came is one, too."""
    if not days:
        return days
    first, last = (date.fromisoformat(day) for day in (min(days), max(days)))
    every = (str(first + timedelta(n)) for n in range((last - first).days + 1))
    return {day: days.get(day, Part()) for day in every}


def _count(report: Report, row: Mapping[str, Any]) -> None:
    report.statuses[row["status"]] += 1
    report.wasted_tokens += row["wasted_prompt_tokens"] + row["wasted_completion_tokens"]
    by_tier = report.causes.setdefault(row["cause"] or NOBODY, {})
    by_tier[row["tier"] or NOBODY] = by_tier.get(row["tier"] or NOBODY, 0) + 1
    if row["score"] is not None:
        report.scores[_bin(row["score"] / 10)] += 1
        report.threshold = row["threshold"]
    if row["confidence"] is not None:
        report.confidences[_bin(row["confidence"])] += 1
        report.confidence_sum += row["confidence"]
    if row["tier"] is not None:
        tier = report.tiers.setdefault(row["tier"], TierFigures())
        tier.requests += 1
        tier.prompt_tokens += row["prompt_tokens"]
        tier.completion_tokens += row["completion_tokens"]
        tier.spent += row["cost"] or 0.0


def _bin(share: float) -> int:
    return min(BINS - 1, max(0, int(share * BINS)))


def _percentiles(values: list[float]) -> tuple[float, ...]:
    return tuple(float(value) for value in np.percentile(values, PERCENTILES)) if values else ()


def _iso(time: float | None) -> str | None:
    return datetime.fromtimestamp(time, UTC).isoformat(timespec="seconds") if time is not None else None
