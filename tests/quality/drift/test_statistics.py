"""The statistics: against scipy where it has the same, and what must hold of any numbers."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from tierserve.quality.answers import calibration_error, wilson
from tierserve.quality.drift.statistics import (
    calibration_p,
    distribution_p,
    fall_p,
    holm,
    population_stability_index,
    quantile_edges,
    share_p,
)

sizes = st.integers(1, 5000)
scores = arrays(np.float64, st.integers(2, 80), elements=st.floats(0, 10, width=16))


@st.composite
def shares(draw: st.DrawFn) -> tuple[int, int]:
    size = draw(sizes)
    return draw(st.integers(0, size)), size


@st.composite
def judged(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    size = draw(st.integers(1, 80))
    confidences = arrays(np.float64, size, elements=st.floats(0, 1, width=16))
    return draw(confidences), draw(arrays(np.bool_, size))


@given(shares())
def test_wilson_is_scipys_and_holds_the_share(share: tuple[int, int]) -> None:
    low, high = wilson(*share)
    interval = stats.binomtest(*share).proportion_ci(0.95, method="wilson")
    assert (low, high) == pytest.approx((interval.low, interval.high), abs=1e-4)
    assert 0 <= low <= share[0] / share[1] + 1e-12 and share[0] / share[1] - 1e-12 <= high <= 1


@given(shares(), shares())
def test_two_shares_are_compared_as_scipy_does(one: tuple[int, int], other: tuple[int, int]) -> None:
    table = [[count, size - count] for count, size in (one, other)]
    if 0 in np.sum(table, axis=0):
        assert share_p(*one, *other) == 1
    else:
        assert share_p(*one, *other) == pytest.approx(stats.chi2_contingency(table, correction=True).pvalue, abs=1e-9)
    assert share_p(*one, *other) == pytest.approx(share_p(*other, *one))


@given(shares(), shares())
def test_a_fall_is_half_of_a_difference_and_a_rise_is_none(one: tuple[int, int], other: tuple[int, int]) -> None:
    p = fall_p(*one, *other)
    if one[0] / one[1] >= other[0] / other[1]:
        assert p >= 0.5
    elif share_p(*one, *other) < 1:
        assert p == pytest.approx(share_p(*one, *other) / 2)


@given(scores, scores)
def test_psi_is_never_negative_and_nothing_against_itself(one: np.ndarray, other: np.ndarray) -> None:
    assert population_stability_index(one, other) >= 0
    assert population_stability_index(one, one) == 0


@given(scores, scores, st.randoms(use_true_random=False))
def test_psi_and_ks_know_no_order(one: np.ndarray, other: np.ndarray, random: object) -> None:
    shuffled = np.array(sorted(one, key=lambda _: random.random()))  # type: ignore[attr-defined]
    assert population_stability_index(shuffled, other) == population_stability_index(one, other)
    assert distribution_p(shuffled, other) == distribution_p(one, other)


@given(scores, scores, st.sampled_from([0.5, 2, 4]))
def test_psi_and_ks_know_no_unit(one: np.ndarray, other: np.ndarray, unit: float) -> None:
    assert population_stability_index(one * unit, other * unit) == pytest.approx(population_stability_index(one, other))
    assert distribution_p(one * unit, other * unit) == pytest.approx(distribution_p(one, other))


@given(scores, st.integers(2, 12))
def test_bins_are_as_many_as_asked_for_at_most_and_one_more_for_each_frequent_value(values: np.ndarray, n: int) -> None:
    edges = quantile_edges(values, n)
    assert np.all(np.diff(edges) > 0) and 1 <= len(edges) <= n


def test_psi_sees_a_frequent_value_move_either_way() -> None:
    always = np.full(500, 5.0)
    for other in (4.9, 5.1):
        assert population_stability_index(np.full(500, other), always) > 1


def test_psi_of_a_shift_that_can_be_worked_out() -> None:
    baseline = np.arange(10_000) / 1000  # uniform: the deciles are 1, 2 ...
    recent = np.arange(5_000) / 1000  # its lower half
    lower, upper = 1000.5 / 5005, 0.5 / 5005  # in each of the five bins
    tenth = 1000.5 / 10_005
    psi = 5 * ((lower - tenth) * math.log(lower / tenth) + (upper - tenth) * math.log(upper / tenth))
    assert population_stability_index(recent, baseline) == pytest.approx(psi, rel=0.01)


@given(judged(), judged())
def test_calibration_is_a_probability_and_nothing_against_itself(one: tuple, other: tuple) -> None:
    assert 0 <= calibration_p(*one, *other) <= 1
    assert calibration_p(*one, *one) == 1


def test_calibration_p_is_uniform_or_above_where_nothing_changed() -> None:
    rng = np.random.default_rng(4)

    def drawn(size: int) -> tuple[np.ndarray, np.ndarray]:
        confidences = rng.beta(8, 1, size)
        return confidences, rng.random(size) < confidences

    found = np.array([calibration_p(*drawn(120), *drawn(480)) for _ in range(2000)])
    for alpha in (0.01, 0.05, 0.2):
        assert wilson(int(np.sum(found <= alpha)), len(found))[0] <= alpha


def test_calibration_p_sees_confidence_that_is_kept_less_often() -> None:
    rng = np.random.default_rng(5)
    before, after = rng.uniform(0.5, 1, 1200), rng.uniform(0.5, 1, 300)
    assert calibration_p(after, rng.random(300) < after - 0.2, before, rng.random(1200) < before) < 1e-5


@given(judged())
def test_calibration_error_lies_between_nothing_and_all(one: tuple[np.ndarray, np.ndarray]) -> None:
    assert 0 <= calibration_error(*one) <= 1
    assert calibration_error(one[1].astype(float), one[1]) == 0


@given(st.dictionaries(st.text(), st.floats(0, 1), min_size=1, max_size=8))
def test_holm_never_lowers_nor_reorders(p_values: dict[str, float]) -> None:
    corrected = holm(p_values)
    assert all(p <= corrected[name] <= 1 for name, p in p_values.items())
    order = sorted(p_values, key=p_values.__getitem__)
    assert [corrected[name] for name in order] == sorted(corrected.values())
    assert corrected[order[0]] == min(1, len(p_values) * p_values[order[0]])


def test_holm_as_in_its_textbook_example() -> None:
    found = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert found == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})
