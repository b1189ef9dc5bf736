"""From what was measured to rows, the article's table, and targets. Pure: no clock, no socket.

A figure is the median over the rounds; `_least` and `_most` beside it are its spread.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, median, stdev
from typing import Any

from loadgen.asking import Sample
from measurement import Target, percentile

from comparison.limit import cost_ratio, limit
from comparison.ways import LARGE, LENGTH, SMALL, TIERED

Row = dict[str, Any]


@dataclass
class Measured:
    """One way's figures, a value for each round; empty where it was not asked for that."""

    saturated_per_s: list[float] = field(default_factory=list)
    highest_per_s: list[float] = field(default_factory=list)
    common: list[Sequence[Sample]] = field(default_factory=list)  # at the common load
    cpu_s_per_request: list[float] = field(default_factory=list)  # at saturation
    client_late_ms: float = 0  # P99 of the client's own lateness, in the worst trial that counts; it is in the times
    right: Sequence[bool] = ()  # of the questions

    @property
    def answered(self) -> list[Sample]:
        return [sample for samples in self.common for sample in samples if not sample.error]


@dataclass(frozen=True)
class Terms:
    """What holds for all ways: which model is large, the SLO, the common load, what the host does and costs."""

    large: str  # the model's name
    slo_ms: float
    common_per_s: float
    idle_share: float  # of one core: what the node with both tiers takes while nothing is asked
    price_per_hour: float
    cores: int

    def cost(self, cpu_s: float) -> float:
        """The part of the host's CPU time, at the host's price."""
        return cpu_s / self.cores * self.price_per_hour / 3600


def rows(measured: Mapping[str, Measured], terms: Terms) -> list[Row]:
    r = cost_ratio(median(measured[SMALL].saturated_per_s), median(measured[LARGE].saturated_per_s))
    return [_row(name, way, measured[LARGE], terms, r) for name, way in measured.items()]


def _row(name: str, way: Measured, large: Measured, terms: Terms, r: float) -> Row:
    share = {LARGE: 1.0, SMALL: 0.0}.get(name, _share(way.answered, lambda sample: sample.model == terms.large))
    times = [[sample.latency_s * 1000 for sample in samples if not sample.error] for samples in way.common]
    return {
        "way": name,
        "slo_ms": terms.slo_ms,
        "common_per_s": terms.common_per_s,
        "idle_cpu_share": terms.idle_share,
        **_spread("cost_per_1000", [1000 * terms.cost(cpu_s) for cpu_s in way.cpu_s_per_request]),
        **_spread("cpu_ms_per_request", [1000 * cpu_s for cpu_s in way.cpu_s_per_request]),
        **_spread("p50_ms", [percentile(each, 0.5) for each in times if each]),
        **_spread("p99_ms", [percentile(each, 0.99) for each in times if each]),
        **_spread("highest_per_s", way.highest_per_s),
        **_spread("saturated_per_s", way.saturated_per_s),
        **_quality(way.right, large.right),
        "large_share": share,
        "escalated_share": _share(way.answered, lambda sample: sample.escalated is True),
        "r": r,
        "limit": None if share is None else limit(share, r),
        "requests": sum(map(len, way.common)),
        "errors": sum(map(len, way.common)) - len(way.answered),
        "client_late_p99_ms": way.client_late_ms,
    }


def _spread(name: str, values: Sequence[float]) -> Row:
    middle = median(values) if values else None
    return {name: middle, f"{name}_least": min(values, default=None), f"{name}_most": max(values, default=None)}


def _share(samples: Sequence[Sample], is_one: Callable[[Sample], bool]) -> float | None:
    return sum(map(is_one, samples)) / len(samples) if samples else None


def _quality(right: Sequence[bool], large: Sequence[bool]) -> Row:
    """`gap`: to all large, on the same questions, with the half-width of its 95 % interval (normal)."""
    if not right:
        return dict.fromkeys(("quality_pct", "quality_gap_points", "quality_gap_margin_points"))
    gaps = [100.0 * (theirs - own) for own, theirs in zip(right, large, strict=True)]
    return {
        "quality_pct": 100 * fmean(right),
        "quality_gap_points": fmean(gaps),
        "quality_gap_margin_points": 1.96 * stdev(gaps) / math.sqrt(len(gaps)),
    }


def targets(found: Sequence[Row], costly: bool) -> list[Target]:
    """`costly`: whether the models are large enough for their weights to be what costs, as real ones' are."""
    row = {each["way"]: each for each in found}
    large, tiered = row[LARGE], row[TIERED]
    throughput = tiered["highest_per_s"] / large["highest_per_s"]
    listed = [Target("throughput_of_limit", throughput / tiered["limit"], 0.85, "higher")]
    if costly:
        listed.append(Target("throughput_ratio", throughput, 2.5, "higher"))
    listed.append(Target("p99_ratio", tiered["p99_ms"] / large["p99_ms"], 0.58, "lower"))
    # The bound is what is left of the limit's saving where 0.85 of the limit is reached.
    cost = tiered["cost_per_1000"] / large["cost_per_1000"]
    listed.append(Target("cost_ratio", cost, 1 / (0.85 * tiered["limit"]), "lower"))
    listed.append(Target("large_share", tiered["large_share"], 0.2, "lower"))
    if tiered["quality_pct"] is not None:
        listed.append(Target("quality_gap_points", tiered["quality_gap_points"], 0.3, "lower"))
    return listed


# --- for people

# What the article states: before, after.
_STATED = {
    "cost of 1000 requests": "$14,200 -> 3,100 a month, -78%",
    "P99 at the common load, ms": "1400 -> 810, -42%",
    "highest rate within the SLO, 1/s": "120 -> 450, +275%",
    "right, %": "92.1 -> 91.8, -0.3",
    "large share": "15.0%",
}


def table(found: Sequence[Row]) -> list[dict[str, str]]:
    """A line for each figure of the article's table, and for what explains it; a column for each way."""
    row = {each["way"]: each for each in found}
    lines = []
    for label, cell in _LINES.items():
        cells = {name: cell(row[name]) for name in (LARGE, TIERED, LENGTH, SMALL)}
        if any(cells.values()):
            change = _CHANGES.get(label, _nothing)(row[LARGE], row[TIERED])
            shown = {LARGE: cells.pop(LARGE), TIERED: cells.pop(TIERED), "change": change} | cells
            shown = {"": label} | shown | {"the article": _STATED.get(label, "")}
            lines.append({column: text or "-" for column, text in shown.items()})
    return lines


def _with_spread(key: str) -> Callable[[Row], str]:
    def cell(row: Row) -> str:
        if row[key] is None:
            return ""
        least, most = row[f"{key}_least"], row[f"{key}_most"]
        return f"{row[key]:.4g}" + (f" ({least:.4g} to {most:.4g})" if least < most else "")

    return cell


def _plain(key: str, form: str) -> Callable[[Row], str]:
    return lambda row: "" if row[key] is None else form.format(row[key])


def _changed(key: str) -> Callable[[Row, Row], str]:
    return lambda before, after: f"{after[key] / before[key] - 1:+.0%}"


def _points(before: Row, after: Row) -> str:
    return f"{-after['quality_gap_points']:+.2f} (95 %: {after['quality_gap_margin_points']:.2f} to either side)"


def _nothing(before: Row, after: Row) -> str:
    return ""


_LINES: dict[str, Callable[[Row], str]] = {
    "cost of 1000 requests": _with_spread("cost_per_1000"),
    "P99 at the common load, ms": _with_spread("p99_ms"),
    "highest rate within the SLO, 1/s": _with_spread("highest_per_s"),
    "right, %": _plain("quality_pct", "{:.2f}"),
    "large share": _plain("large_share", "{:.1%}"),
    "  of it escalated": _plain("escalated_share", "{:.1%}"),
    "CPU of a request at saturation, ms": _with_spread("cpu_ms_per_request"),
    "median at the common load, ms": _with_spread("p50_ms"),
    "answered at saturation, 1/s": _with_spread("saturated_per_s"),
    "limit of the highest rate, times all large": _plain("limit", "{:.3g}"),
    "errors": lambda row: str(row["errors"] or ""),
    "client late (in the times), P99, ms": _plain("client_late_p99_ms", "{:.1f}"),
}
_CHANGES: dict[str, Callable[[Row, Row], str]] = {
    "cost of 1000 requests": _changed("cost_per_1000"),
    "P99 at the common load, ms": _changed("p99_ms"),
    "highest rate within the SLO, 1/s": _changed("highest_per_s"),
    "right, %": _points,
    "CPU of a request at saturation, ms": _changed("cpu_ms_per_request"),
    "median at the common load, ms": _changed("p50_ms"),
    "answered at saturation, 1/s": _changed("saturated_per_s"),
}


def explanation(found: Sequence[Row]) -> str:
    """The terms on which the table stands, in one sentence."""
    first = found[0]
    return (
        f"SLO: {first['slo_ms']:.0f} ms end to end; common load: {first['common_per_s']:.3g}/s; "
        f"r = {first['r']:.3f}, small's cost / large's, by what each answers at saturation; "
        f"a node that is asked nothing takes {first['idle_cpu_share']:.1%} of a core"
    )
