"""Figures over answers: the interval of a share, calibration error, how well a number tells right from wrong. Pure."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

_Z = 1.96  # 95 %


def wilson(right: int, count: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson, 1927): it stays inside 0..1 and holds near both ends."""
    if count == 0:
        return 0.0, 1.0
    share, z2 = right / count, _Z**2
    middle = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = _Z / (1 + z2 / count) * math.sqrt(share * (1 - share) / count + z2 / (4 * count**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def calibration_error(confidences: ArrayLike, right: ArrayLike, bins: int = 10) -> float:
    """Expected calibration error: the mean gap between stated and reached, over bins of equal width. 0 of none."""
    stated, reached = np.asarray(confidences, np.float64), np.asarray(right, np.float64)
    inside = np.minimum((stated * bins).astype(np.int64), bins - 1)
    gaps = np.bincount(inside, stated - reached, minlength=bins)
    return float(np.abs(gaps).sum() / max(1, len(stated)))


def auroc(scores: Sequence[float], right: Sequence[bool]) -> float:
    """The chance that a right answer's score is above a wrong one's; ties count half. NaN without both kinds."""
    order = sorted(range(len(scores)), key=scores.__getitem__)
    rank_sum, at = 0.0, 0
    while at < len(order):
        end = at
        while end < len(order) and scores[order[end]] == scores[order[at]]:
            end += 1
        rank = (at + 1 + end) / 2  # ranks start at 1; equal scores share their mean
        rank_sum += rank * sum(right[index] for index in order[at:end])
        at = end
    good = sum(right)
    bad = len(right) - good
    return (rank_sum - good * (good + 1) / 2) / (good * bad) if good and bad else math.nan
