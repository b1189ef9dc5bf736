"""How well an order of prompts spends the large tier's calls. Pure.

After RouteLLM (Ong et al., 2024, arXiv:2406.18665).
The quality gap is what the large model is better by. A share of calls recovers a part of it (PGR); APGR is that part's
mean over all shares. Random order gives 0.5, a perfect one more than 1 where the small model wins some questions.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_RESAMPLES = 400


@dataclass(frozen=True, slots=True)
class Interval:
    """A value with its bootstrap 95 % interval."""

    value: float
    low: float
    high: float


class Recovery:
    """What is recovered of the gap as ever more prompts, the highest scores first, go to the large model.

    `scores`, `small` and `large`: shape (n,). Of equal scores none goes first: they share what they gain. Raises
    ValueError where the large model is no better on the whole: there is nothing to recover.
    """

    def __init__(self, scores: Floats, small: Floats, large: Floats) -> None:
        _, ties, sizes = np.unique(-scores, return_inverse=True, return_counts=True)
        gain = np.bincount(ties, large - small) / sizes
        self._quality = small.mean() + np.concatenate([[0.0], np.cumsum(np.repeat(gain, sizes))]) / len(small)
        self._least, self._gap = small.mean(), large.mean() - small.mean()
        if self._gap <= 0:
            raise ValueError("the large model is no better than the small one on these prompts")

    @property
    def curve(self) -> Floats:
        """The part recovered at shares 0, 1/n ... 1; shape (n + 1,)."""
        part: Floats = (self._quality - self._least) / self._gap
        return part

    def apgr(self) -> float:
        return float(np.trapezoid(self.curve, dx=1 / (len(self.curve) - 1)))

    def cpt(self, part: float) -> float:
        """Call-performance threshold: the least share of calls that recovers this part, 0..1."""
        return float(np.argmax(self.curve >= part - 1e-9) / (len(self.curve) - 1))

    def quality_at(self, share: float) -> float:
        """Mean score, 0..1, with this share of calls on the large model."""
        return float(np.interp(share, np.linspace(0, 1, len(self._quality)), self._quality))


def measure(scores: Floats, small: Floats, large: Floats, seed: int = 0) -> dict[str, Interval]:
    """APGR, CPT(50 %), CPT(80 %), quality at 15 % and 30 %, with intervals over resampled prompts."""
    values = _values(Recovery(scores, small, large))
    rng = np.random.default_rng(seed)
    resampled: dict[str, list[float]] = {name: [] for name in values}
    for _ in range(_RESAMPLES):
        rows = rng.integers(0, len(scores), len(scores))
        try:
            drawn = _values(Recovery(scores[rows], small[rows], large[rows]))
        except ValueError:  # a draw without a gap says nothing of how it would be recovered
            continue
        for name, value in drawn.items():
            resampled[name].append(value)
    return {
        name: Interval(value, *map(float, np.percentile(resampled[name] or [value], [2.5, 97.5])))
        for name, value in values.items()
    }


def _values(recovery: Recovery) -> dict[str, float]:
    measured: dict[str, Callable[[], float]] = {
        "apgr": recovery.apgr,
        "cpt50": lambda: recovery.cpt(0.5),
        "cpt80": lambda: recovery.cpt(0.8),
        "quality_at_15": lambda: recovery.quality_at(0.15),
        "quality_at_30": lambda: recovery.quality_at(0.30),
    }
    return {name: function() for name, function in measured.items()}
