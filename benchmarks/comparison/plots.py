"""A picture of the comparison, as PNG. Needs matplotlib."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from comparison.figures import Measured, Row
from comparison.ways import LARGE, SERVED


def draw(measured: Mapping[str, Measured], found: Sequence[Row], path: Path) -> None:
    """Left: how many requests took how long at the common load. Right: the highest rates, and their limits."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    row = {each["way"]: each for each in found}
    for name in SERVED:
        times = sorted(1000 * sample.latency_s for sample in measured[name].answered)
        left.step(times, [(index + 1) / len(times) for index in range(len(times))], where="post", label=name)
    left.set(xlabel="end to end, ms", ylabel="share of requests", xscale="log")
    left.set_title(f"all at {row[LARGE]['common_per_s']:.3g} requests/s", fontsize="medium")
    _rates(right, [row[name] for name in SERVED])
    for axis in (left, right):
        axis.grid(alpha=0.3)
        axis.legend(fontsize="small")
    figure.savefig(path, dpi=120)


def _rates(axis: Any, shown: Sequence[Row]) -> None:
    middles = [row["highest_per_s"] for row in shown]
    below = [row["highest_per_s"] - row["highest_per_s_least"] for row in shown]
    above = [row["highest_per_s_most"] - row["highest_per_s"] for row in shown]
    axis.bar([row["way"] for row in shown], middles, yerr=[below, above], capsize=4)
    limits = [row["limit"] * shown[0]["highest_per_s"] for row in shown]
    at = range(len(shown))
    axis.hlines(limits, [x - 0.4 for x in at], [x + 0.4 for x in at], colors="black", label="limit 1 / (p + (1 - p) r)")
    axis.set_ylabel(f"highest rate within {shown[0]['slo_ms']:.0f} ms, requests/s")
