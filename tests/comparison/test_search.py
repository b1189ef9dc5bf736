"""The highest rate that holds is found within the tolerance, from a start that is right, too low or too high."""

import pytest
from comparison.search import highest
from hypothesis import given
from hypothesis import strategies as st


@given(st.floats(1, 100), st.floats(0.2, 5), st.floats(1.05, 1.5), st.floats(0.01, 0.2))
def test_it_is_at_most_the_tolerance_below_the_truth(truth: float, error: float, step: float, tolerance: float) -> None:
    found = highest(lambda rate: rate <= truth, truth * error, step, tolerance)
    assert truth / (1 + tolerance) * (1 - 1e-9) <= found <= truth


def test_a_good_start_costs_few_trials() -> None:
    asked: list[float] = []

    def holds(rate: float) -> bool:
        asked.append(rate)
        return rate <= 10

    assert highest(holds, 9.5, step=1.1, tolerance=0.06) == pytest.approx(9.96, abs=0.01)
    assert len(asked) == 3


@pytest.mark.parametrize(("holds", "least"), [(False, 0.0), (True, 40.0)])
def test_a_search_without_an_end_is_given_up(holds: bool, least: float) -> None:
    asked: list[float] = []

    def always(rate: float) -> bool:
        asked.append(rate)
        return holds

    assert highest(always, 10) >= least
    assert len(asked) < 20
