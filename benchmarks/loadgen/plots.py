"""Pictures of trials, as PNG. Needs matplotlib."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loadgen.plan import PlanError
from loadgen.runner import Trial


def draw(trials: Sequence[Trial], rows: Sequence[dict[str, Any]], folder: Path) -> list[Path]:
    """latency.png, how many requests took how long; where there were several loads, load.png, what more load does."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise PlanError("plots need matplotlib: pip install matplotlib") from None
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for name, fill in (("latency.png", _latency), ("load.png", _load)):
        if name == "load.png" and len({row["load"] for row in rows}) < 2:
            continue
        figure = Figure(figsize=(11, 4.5), layout="constrained")
        fill(figure.subplots(1, 2), trials, rows)
        figure.savefig(folder / name, dpi=120)
        drawn.append(folder / name)
    return drawn


def _latency(axes: Any, trials: Sequence[Trial], rows: Sequence[dict[str, Any]]) -> None:
    for row in rows:
        samples = [
            sample
            for trial in trials
            if (trial.endpoint.name, str(trial.load)) == (row["target"], row["load"])
            for sample in trial.samples
            if not sample.error
        ]
        label = f"{row['target']}, {row['load']}"
        _shares(axes[0], [each.ttft_s for each in samples if each.ttft_s is not None], label)
        _shares(axes[1], [each.latency_s for each in samples], label)
    _finish(axes[0], "time to first token (streamed), ms", "share of requests")
    _finish(axes[1], "end to end, ms", "share of requests")


def _shares(axis: Any, values_s: Sequence[float], label: str) -> None:
    if values_s:
        shares = [(index + 1) / len(values_s) for index in range(len(values_s))]
        axis.step([value * 1000 for value in sorted(values_s)], shares, where="post", label=label)


def _load(axes: Any, trials: Sequence[Trial], rows: Sequence[dict[str, Any]]) -> None:
    for name in dict.fromkeys(row["target"] for row in rows):
        own = [row for row in rows if row["target"] == name and row["requests_per_s"] is not None]
        per_s = [row["requests_per_s"] for row in own]
        for key, style in (("e2e_p50_ms", "o-"), ("e2e_p99_ms", "o--")):
            values = [math.nan if row[key] is None else row[key] for row in own]
            axes[0].plot(per_s, values, style, label=f"{name}, {key[4:7]}")
        axes[1].plot([row["load"] for row in own], per_s, "o-", label=name)
    _finish(axes[0], "requests/s answered", "end to end, ms")
    _finish(axes[1], "load", "requests/s answered")


def _finish(axis: Any, x: str, y: str) -> None:
    axis.set_xlabel(x)
    axis.set_ylabel(y)
    axis.grid(alpha=0.3)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize="small")
