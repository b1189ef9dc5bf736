import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierserve.quality.measures import Interval, Recovery, measure

MEASURES = ["apgr", "cpt50", "cpt80", "quality_at_15", "quality_at_30"]


def recovery(scores: list[float], small: list[float], large: list[float]) -> Recovery:
    return Recovery(np.array(scores, float), np.array(small, float), np.array(large, float))


def test_a_small_example_by_hand() -> None:
    """Four prompts, of which the large model wins the first and the third; they are sent up in the order 1 2 3 4."""
    found = recovery([9, 7, 5, 3], small=[0, 1, 0, 1], large=[1, 1, 1, 1])
    assert found.curve == pytest.approx([0, 0.5, 0.5, 1, 1])
    assert found.apgr() == pytest.approx((0.25 + 0.5 + 0.75 + 1) / 4)
    assert found.cpt(0.5) == 0.25
    assert found.cpt(0.8) == 0.75
    assert found.quality_at(0.15) == pytest.approx(0.5 + 0.6 * 0.25)


def test_the_share_s_ends_are_the_two_models_alone() -> None:
    found = recovery([1, 2, 3, 4], small=[0, 0.5, 1, 0.5], large=[1, 0.5, 0.5, 1])
    assert found.quality_at(0) == pytest.approx(0.5)
    assert found.quality_at(1) == pytest.approx(0.75)
    assert (found.curve[0], found.curve[-1]) == pytest.approx((0, 1))
    assert found.cpt(0) == 0


def test_equal_scores_are_chance() -> None:
    rng = np.random.default_rng(0)
    small, large = rng.random(100), 0.2 + rng.random(100)
    found = Recovery(np.full(100, 3.0), small, large)
    assert found.apgr() == pytest.approx(0.5)
    assert found.cpt(0.5) == pytest.approx(0.5)
    assert found.cpt(0.8) == pytest.approx(0.8)
    assert found.quality_at(0.3) == pytest.approx(0.7 * small.mean() + 0.3 * large.mean())


def test_a_perfect_order_beats_every_other_and_a_reversed_one_mirrors_it() -> None:
    rng = np.random.default_rng(0)
    small, large = rng.integers(0, 2, 200).astype(float), (rng.random(200) < 0.8).astype(float)
    perfect = Recovery(large - small, small, large).apgr()
    assert perfect > 0.9
    assert Recovery(small - large, small, large).apgr() == pytest.approx(1 - perfect)
    assert all(Recovery(rng.random(200), small, large).apgr() < perfect for _ in range(50))


def test_where_the_small_model_wins_some_a_part_recovers_more_than_all() -> None:
    found = recovery([4, 3, 2, 1], small=[0, 0, 0, 1], large=[1, 1, 0, 0])
    assert found.curve == pytest.approx([0, 1, 2, 2, 1])
    assert found.apgr() == pytest.approx((0.5 + 1.5 + 2 + 1.5) / 4)  # more than 1
    assert found.quality_at(0.5) == pytest.approx(0.75)
    assert found.cpt(0.8) == 0.25


def test_a_loss_first_is_below_nothing() -> None:
    found = recovery([4, 3, 2, 1], small=[1, 0, 0, 0], large=[0, 1, 1, 0])
    assert found.curve.min() == pytest.approx(-1)
    assert found.cpt(0.5) == 0.75


def test_thirds_do_not_miss_the_half_by_rounding() -> None:
    assert recovery([1] * 10, [0] * 10, [0.1] * 10).cpt(0.8) == 0.8


@pytest.mark.parametrize(("small", "large"), [([0, 1], [1, 0]), ([1, 1], [0, 1])])
def test_without_a_gap_there_is_nothing_to_recover(small: list[float], large: list[float]) -> None:
    with pytest.raises(ValueError, match="no better than the small one"):
        recovery([1, 2], small, large)


def test_ties_count_as_the_mean_over_all_ways_to_break_them() -> None:
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 4, 40).astype(float)
    small, large = rng.random(40), rng.random(40) + 0.1

    def broken() -> float:
        order = np.lexsort([rng.random(40), -scores])  # best scores first, and chance among equals
        quality = small.mean() + np.concatenate([[0], np.cumsum((large - small)[order])]) / 40
        recovered = (quality - small.mean()) / (large.mean() - small.mean())
        return float(((recovered[1:] + recovered[:-1]) / 2).mean())

    values = [broken() for _ in range(4000)]
    margin = 5 * np.std(values) / np.sqrt(len(values))
    assert Recovery(scores, small, large).apgr() == pytest.approx(np.mean(values), abs=margin)


@given(st.lists(st.tuples(st.integers(0, 5), st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=30))
def test_measures_hold_for_any_outcomes_with_a_gap(rows: list[tuple[int, float, float]]) -> None:
    scores, small, large = (np.array(column, float) for column in zip(*rows, strict=True))
    if large.mean() - small.mean() < 0.01:
        return
    found = Recovery(scores, small, large)
    assert np.isfinite(found.apgr())
    assert 0 <= found.cpt(0.5) <= found.cpt(0.8) <= 1
    assert min(small.min(), large.min()) - 1e-9 <= found.quality_at(0.15) <= 1 + 1e-9
    monotone = Recovery(np.exp(scores) - 7, small, large)  # the order alone counts
    assert monotone.apgr() == pytest.approx(found.apgr())


def sample(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    difficulty = rng.random(count)
    small = (rng.random(count) > difficulty).astype(float)
    return difficulty + rng.normal(size=count) / 3, small, np.ones(count)


def test_intervals_hold_the_value_and_narrow_with_more_rows() -> None:
    few, many = measure(*sample(100)), measure(*sample(2000))
    for measured in (few, many):
        assert list(measured) == MEASURES
        for each in measured.values():
            assert each.low <= each.value <= each.high
    for name in MEASURES:
        assert many[name].high - many[name].low < few[name].high - few[name].low


def test_chance_is_known_exactly() -> None:
    scores, small, large = sample(200)
    found = measure(np.zeros_like(scores), small, large)
    assert found["apgr"] == Interval(*[pytest.approx(0.5)] * 3)
    assert found["cpt80"] == Interval(*[pytest.approx(0.8)] * 3)


def test_intervals_are_the_same_each_time() -> None:
    assert measure(*sample(80)) == measure(*sample(80))
    assert measure(*sample(80), seed=1) != measure(*sample(80))


def test_a_single_row_has_its_value_as_interval() -> None:
    found = measure(np.array([1.0]), np.array([0.0]), np.array([1.0]))
    assert found["apgr"] == Interval(0.5, 0.5, 0.5)
