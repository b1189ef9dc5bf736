"""What the drift report finds, and how often it is mistaken: simulated traffic through the report's own code.

    python benchmarks/drift.py --json --plot benchmarks/results/drift.png > benchmarks/results/drift.json

detected      the chance that one report raises an alarm in win rate or calibration when the small tier's answers, with
              the same confidence as before, do as well as the large one's less often by so many points, from 85 %
false alarms  the share of weeks in which a report has any alarm though nothing has changed: with one report a week, and
              with one each day, as the node itself looks. `even` traffic is drawn alike each day; on `uneven`
              days win rate, scores and escalations wander about the same mean (standard deviations 3 points, 0.2 and
              1.5 points)

Requests are drawn independently of each other. Limits and windows are the defaults of `drift:`; a week has 2,000
requests and so many comparisons, a baseline four times that.
"""

import itertools
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from measurement import Measurement, Target, arguments
from numpy.typing import NDArray
from tqdm import tqdm

from tierserve.config import DriftConfig
from tierserve.core import Measure
from tierserve.quality.answers import wilson
from tierserve.quality.drift.report import COMPARED, Report, Window, compare
from tierserve.quality.drift.windows import limits

_LIMITS = limits(DriftConfig())
_WEEK, _BASELINE, _LOOKS = 7, 28, 7  # days
_REQUESTS = 2000  # a week
_HELD = 0.85  # of comparisons, what the small tier wins or ties
_ESCALATED, _LARGE = 0.10, 0.15
_LOSSES = (5, 10, 15, 20)  # points
_COMPARISONS = (100, 150, 200, 250, 300, 350, 400, 500, 600, 800, 1200)
_WEEKLY_COMPARISONS = (105, 203, 406, 805)  # whole numbers a day
_SURE = 0.9
Row = dict[str, Any]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Traffic:
    """Days of it, one row a day: `confidences` and `held` of comparisons, the rest of requests."""

    confidences: Floats
    held: NDArray[np.bool_]
    scores: Floats
    escalated: NDArray[np.bool_]
    large: NDArray[np.bool_]

    def window(self, start: int, end: int) -> Window:
        held, scores, large = (values[start:end].ravel() for values in (self.held, self.scores, self.large))
        escalated = self.escalated[start:end]
        return Window(
            start=86400.0 * start,
            end=86400.0 * end,
            wins=0,
            ties=int(held.sum()),
            losses=int((~held).sum()),
            confidences=self.confidences[start:end].ravel(),
            held=held,
            scores=scores,
            judged=escalated.size,
            escalated=int(escalated.sum()),
            routed=large.size,
            large=int(large.sum()),
        )

    def report(self, day: int) -> Report:
        """As it would be at the end of a day."""
        start = day - _WEEK
        return compare(self.window(start, day), self.window(start - _BASELINE, start), _LIMITS)


def traffic(rng: np.random.Generator, days: int, comparisons: int, wander: bool = False) -> Traffic:
    """So many comparisons a day, confidences being what they promise."""
    requests = _REQUESTS // _WEEK
    quality, hardness, doubt = rng.normal(0, [[0.03], [0.2], [0.015]], (3, days))[:, :, None] * wander
    confidences = rng.beta(10 * _HELD, 10 * (1 - _HELD), (days, comparisons))
    return Traffic(
        confidences,
        rng.random((days, comparisons)) < confidences + quality,
        10 * rng.beta(1.2, 3, (days, requests)) + hardness,
        rng.random((days, requests)) < _ESCALATED + doubt,
        rng.random((days, requests)) < _LARGE + doubt,
    )


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--repeats", type=int, default=1000, help="weeks, for each kind; a quarter for each detection")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="both, as a figure")
    options = parser.parse_args()
    repeats = 10 if options.quick else options.repeats
    rng = np.random.default_rng(9)
    rows = [*_false_alarms(rng, repeats), *_detections(rng, max(5, repeats // 4))]
    if options.plot:
        _plot(options.plot, rows)
    Measurement("drift", rows, _targets(rows)).show(options)


def _false_alarms(rng: np.random.Generator, weeks: int) -> Iterator[Row]:
    for wander in (False, True):
        for comparisons in _WEEKLY_COMPARISONS:
            label, once, ever = "uneven" if wander else "even", 0, 0
            for _ in tqdm(range(weeks), desc=f"{label}, {comparisons} a week", file=sys.stderr, disable=None):
                days = traffic(rng, _BASELINE + _WEEK + _LOOKS - 1, comparisons // _WEEK, wander)
                alarms = [days.report(_BASELINE + _WEEK + look).alarm for look in range(_LOOKS)]
                once, ever = once + alarms[0], ever + any(alarms)
            yield _row("false alarms", f"{label}, a report a week", comparisons, 0, once, weeks)
            yield _row("false alarms", f"{label}, a report a day", comparisons, 0, ever, weeks)


def _detections(rng: np.random.Generator, repeats: int) -> Iterator[Row]:
    for loss in _LOSSES:
        for comparisons in tqdm(_COMPARISONS, desc=f"{loss} points less", file=sys.stderr, disable=None):
            found = sum(_detects(rng, comparisons, loss / 100) for _ in range(repeats))
            yield _row("detected", "even, a report a week", comparisons, loss, found, repeats)


def _detects(rng: np.random.Generator, comparisons: int, loss: float) -> bool:
    before = traffic(rng, 4, comparisons).window(0, 4)  # four weeks, as rows
    after = traffic(rng, 1, comparisons)
    kept = after.held & (rng.random(after.held.shape) >= loss / _HELD)
    recent = Traffic(after.confidences, kept, after.scores, after.escalated, after.large).window(0, 1)
    report = compare(recent, before, _LIMITS)
    return any(report[measure].alarm for measure in COMPARED)


def _row(measured: str, of: str, comparisons: int, loss: int, found: int, repeats: int) -> Row:
    low, high = wilson(found, repeats)
    return {
        "measured": measured,
        "traffic": of,
        "comparisons_a_week": comparisons,
        "points_lost": loss,
        "repeats": repeats,
        "share": found / repeats,
        "low": low,
        "high": high,
    }


def _targets(rows: list[Row]) -> list[Target]:
    """Of the kinds of traffic the worst counts; what is never found in the range counts as infinitely many."""

    def worst(of: str) -> float:
        return max(row["share"] for row in rows if row["measured"] == "false alarms" and of in row["traffic"])

    def samples(loss: int) -> float:
        points = [row for row in rows if row["points_lost"] == loss]
        enough = itertools.takewhile(lambda row: row["share"] >= _SURE, reversed(points))
        return min((row["comparisons_a_week"] for row in enough), default=float("inf"))

    return [
        Target("false_alarms_per_week", worst("a report a week"), 0.01, "lower"),
        Target("false_alarms_per_week_daily_looks", worst("a report a day"), 0.01, "lower"),
        Target("samples_to_detect_10_points", samples(10), 400, "lower"),
        Target("samples_to_detect_20_points", samples(20), 150, "lower"),
    ]


def _plot(path: Path, rows: list[Row]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    for loss in _LOSSES:
        points = [row for row in rows if row["measured"] == "detected" and row["points_lost"] == loss]
        counts = [row["comparisons_a_week"] for row in points]
        (line,) = left.plot(counts, [100 * row["share"] for row in points], marker=".", label=f"{loss} points")
        low, high = ([100 * row[end] for row in points] for end in ("low", "high"))
        left.fill_between(counts, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
    left.axhline(100 * _SURE, color="grey", linestyle="--", linewidth=0.8)
    left.set(xlabel="comparisons in the week", ylabel="found by the week's report, %", ylim=(0, 102))
    least = 100 * _LIMITS.effect[Measure.WIN_RATE]
    left.set_title(f"The small tier does as well less often by ... (alarms from {least:g})", fontsize=10)
    left.legend(title="from 85 %", loc="lower right")
    kinds = dict.fromkeys(row["traffic"] for row in rows if row["measured"] == "false alarms")
    for place, kind in enumerate(kinds):
        points = [row for row in rows if row["measured"] == "false alarms" and row["traffic"] == kind]
        shares = np.array([[100 * row[name] for name in ("low", "share", "high")] for row in points]).T
        counts = [row["comparisons_a_week"] * (1 + 0.03 * place) for row in points]
        spread = np.abs(shares[[0, 2]] - shares[1])
        right.errorbar(counts, shares[1], spread, marker="o", markersize=4, capsize=2, label=kind)
    right.axhline(1, color="grey", linestyle="--", linewidth=0.8)
    right.set(xlabel="comparisons in a week", ylabel="weeks with a false alarm, %", xscale="log")
    right.set_ylim(bottom=0)
    right.set_xticks(_WEEKLY_COMPARISONS, [str(count) for count in _WEEKLY_COMPARISONS], minor=False)
    right.minorticks_off()
    right.set_title("Nothing has changed (95 % intervals)", fontsize=10)
    right.legend(fontsize=8)
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
