"""How far two samples lie apart, and how likely chance alone would bring them as far. Pure.

Every p-value here takes each request for a draw of its own. Requests of one conversation or one job are not, so they
come out too small where a few callers ask much: one reason why an alarm needs a size as well.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Name = TypeVar("Name")

_SCORE_BINS = 10
_CONFIDENCE_BINS = 5
# A bin with fewer answers than this in a window says nothing of it that the normal approximation holds for.
_LEAST_IN_BIN = 5


def share_p(count: int, size: int, base_count: int, base_size: int) -> float:
    """That the share count / size differs so much from base_count / base_size, either way, if both are one. The
    chi-square test of a 2 x 2 table with Yates' correction, which keeps small samples from crying out."""
    return math.erfc(max(0.0, _share_z(abs, count, size, base_count, base_size)) / math.sqrt(2))


def fall_p(count: int, size: int, base_count: int, base_size: int) -> float:
    """That the share count / size lies so far below base_count / base_size, if both are one."""
    return 0.5 * math.erfc(_share_z(lambda gap: gap, count, size, base_count, base_size) / math.sqrt(2))


def _share_z(sign: Any, count: int, size: int, base_count: int, base_size: int) -> float:
    pooled = (count + base_count) / (size + base_size)
    each = 1 / size + 1 / base_size
    variance = pooled * (1 - pooled) * each
    if variance == 0:
        return 0.0
    gap: float = sign(base_count / base_size - count / size)
    return (gap - each / 2) / math.sqrt(variance)


def quantile_edges(baseline: Floats, bins: int) -> Floats:
    """Where the baseline's quantiles divide it; a value lies in the bin that ends with the first edge not below it.

    A value so frequent that several quantiles fall on it has a bin of its own. `baseline`: shape (n,), n > 0.
    """
    edges = np.quantile(baseline, np.arange(1, bins) / bins, method="inverted_cdf")
    frequent = edges[1:][edges[1:] == edges[:-1]]
    return np.unique(np.concatenate([edges, np.nextafter(frequent, -np.inf)]))


def population_stability_index(recent: Floats, baseline: Floats) -> float:
    """PSI over the baseline's deciles: 0 for equal distributions; from 0.1 people say shifted, from 0.25 much so.

    Half a value is added to each bin, so that an empty one is finite. Shapes (n,) and (m,), neither empty.
    """
    edges = quantile_edges(baseline, _SCORE_BINS)
    here, before = (_parts(edges, values) for values in (recent, baseline))
    return float(np.sum((here - before) * np.log(here / before)))


def _parts(edges: Floats, values: Floats) -> Floats:
    counts = np.bincount(np.searchsorted(edges, values), minlength=len(edges) + 1) + 0.5
    parts: Floats = counts / counts.sum()
    return parts


def distribution_p(recent: Floats, baseline: Floats) -> float:
    """That two samples lie so far apart if they are of one distribution: Kolmogorov-Smirnov, two-sided."""
    from scipy.stats import ks_2samp

    return float(ks_2samp(recent, baseline, method="asymp").pvalue)


def calibration_p(confidences: Floats, right: Bools, base_confidences: Floats, base_right: Bools) -> float:
    """That what confidences promise and what they keep differ so much between two samples, if in neither differently.

    Within each fifth of the baseline's confidences the mean of confidence - right is compared, and the squares of the
    differences, in standard errors, are added up: chi-square with as many degrees of freedom. 1 where no fifth has
    enough of both. Shapes (n,), (n,), (m,), (m,), neither empty.
    """
    from scipy.stats import chi2

    edges = quantile_edges(base_confidences, _CONFIDENCE_BINS)
    size, mean, squares = _gaps(edges, confidences, right)
    base_size, base_mean, base_squares = _gaps(edges, base_confidences, base_right)
    enough = np.minimum(size, base_size) >= _LEAST_IN_BIN
    size, base_size = np.where(enough, size, 1), np.where(enough, base_size, 1)
    both, each = size + base_size, 1 / size + 1 / base_size
    pooled = (size * mean + base_size * base_mean) / both
    variance = ((size * squares + base_size * base_squares) / both - pooled**2) * each
    enough &= variance > 1e-12
    if not enough.any():
        return 1.0
    gap = np.maximum(0.0, np.abs(mean - base_mean) - each / 2)  # Yates' correction, as for shares
    return float(chi2.sf(np.sum(gap[enough] ** 2 / variance[enough]), int(enough.sum())))


def _gaps(edges: Floats, confidences: Floats, right: Bools) -> tuple[Any, Floats, Floats]:
    """For each bin how many, and the mean and the mean square of confidence - right."""
    where, gaps = np.searchsorted(edges, confidences), confidences - right
    size = np.bincount(where, minlength=len(edges) + 1)
    sums = (np.bincount(where, weights, minlength=len(edges) + 1) for weights in (gaps, gaps**2))
    mean, squares = (total / np.maximum(size, 1) for total in sums)
    return size, mean, squares


def holm(p_values: Mapping[Name, float]) -> dict[Name, float]:
    """Corrected for how many there are (Holm, 1979): the chance that any of those at most alpha is a false alarm is
    alpha at most, however they depend on each other."""
    corrected: dict[Name, float] = {}
    least = 0.0
    for place, (name, p) in enumerate(_ascending(p_values.items())):
        least = max(least, min(1.0, (len(p_values) - place) * p))
        corrected[name] = least
    return corrected


def _ascending(items: Iterable[tuple[Name, float]]) -> list[tuple[Name, float]]:
    return sorted(items, key=lambda item: item[1])
