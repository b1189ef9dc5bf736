"""`tierserve evaluate`: how well scorers spend the large model's calls, on outcome files.

evaluation = evaluate(scores_of(encoder, head, outcomes), outcomes)     # {"head": {"apgr": Interval, ...}, ...}
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from tierserve.errors import ConfigError
from tierserve.quality.calibrate import encode
from tierserve.quality.measures import Floats, Interval, Recovery, measure
from tierserve.quality.outcomes import Outcomes
from tierserve.router.embedding.encoder import Encoder
from tierserve.router.scoring.head import Head
from tierserve.router.scoring.length import LengthScorer
from tierserve.router.scoring.scorers import Scorer
from tierserve.router.scoring.seeds import SeedScorer

MEASURES = {
    "apgr": "APGR",
    "cpt50": "CPT(50 %)",
    "cpt80": "CPT(80 %)",
    "quality_at_15": "quality at 15 %",
    "quality_at_30": "at 30 %",
}
RANDOM = "random"


def scores_of(encoder: Encoder, head: Head, outcomes: Outcomes) -> dict[str, Floats]:
    """Each scorer's scores, shape (rows,); random's are all equal, which is what chance comes to on the mean."""
    vectors = encode(encoder, outcomes.prompts)
    scorers: dict[str, Scorer] = {"head": head, "seeds": SeedScorer(encoder), "length": LengthScorer()}
    rows = list(zip(outcomes.prompts, vectors, strict=True))
    scores = {name: np.array([scorer.score(*row) for row in rows]) for name, scorer in scorers.items()}
    return scores | {RANDOM: np.zeros(len(rows))}


def evaluate(scores: Mapping[str, Floats], outcomes: Outcomes) -> dict[str, dict[str, Interval]]:
    """Raises ConfigError where the outcomes have no gap to recover."""
    try:
        return {name: measure(values, outcomes.small, outcomes.large) for name, values in scores.items()}
    except ValueError as error:
        raise ConfigError("--data", str(error), "routing can win nothing there") from None


def as_json(data: list[Path], evaluation: Mapping[str, Mapping[str, Interval]]) -> dict[str, Any]:
    return {
        "data": [str(path) for path in data],
        "scorers": {
            name: {measure: asdict(interval) for measure, interval in measured.items()}
            for name, measured in evaluation.items()
        },
    }


def as_table(outcomes: Outcomes, evaluation: Mapping[str, Mapping[str, Interval]]) -> str:
    lines = [f"{'':8}" + "".join(f"{title:>24}" for title in MEASURES.values())]
    for name, measured in evaluation.items():
        cells = [f"{each.value:.3f} ({each.low:.3f} to {each.high:.3f})" for each in measured.values()]
        lines.append(f"{name:8}" + "".join(f"{cell:>24}" for cell in cells))
    ends = f"small model alone {outcomes.small.mean():.3f}, large {outcomes.large.mean():.3f}"
    return "\n".join([*lines, "", f"{len(outcomes)} prompts; {ends}; bootstrap 95 % intervals"])


def plot(path: Path, scores: Mapping[str, Floats], outcomes: Outcomes) -> None:
    """Quality over the large model's share, a curve each. Raises ConfigError."""
    try:
        import matplotlib
    except ImportError:
        raise ConfigError("--plot", "needs matplotlib", "pip install matplotlib") from None
    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    small, large = outcomes.small.mean(), outcomes.large.mean()
    for name, values in scores.items():
        curve = Recovery(values, outcomes.small, outcomes.large).curve
        shares = 100 * np.linspace(0, 1, len(curve))
        style: dict[str, Any] = {"color": "0.6", "linestyle": "--"} if name == RANDOM else {}
        axes.plot(shares, 100 * (small + (large - small) * curve), label=name, **style)
    axes.set(xlabel="share of prompts on the large model, %", ylabel="quality, %", xlim=(0, 100))
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    try:
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        raise ConfigError("--plot", f"{path} can't be written ({error})", "name a .png, .svg or .pdf") from None
    finally:
        pyplot.close(figure)
