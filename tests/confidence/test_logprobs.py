"""Statistics of logprobs, against values worked out by hand."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierserve.confidence.logprobs import STATISTICS, entropy, mean, minimum

logprobs = st.floats(-30, 0)
answers = st.lists(logprobs.map(lambda logprob: [logprob]), min_size=1, max_size=30)


def of(*probabilities: float) -> list[list[float]]:
    return [[math.log(probability)] for probability in probabilities]


@pytest.mark.parametrize(
    ("probabilities", "expected"),
    [((1.0,), 1.0), ((0.5,), 0.5), ((0.9, 0.4), 0.6), ((0.8, 0.4, 0.2), 0.4), ((1.0, 1.0, 0.001), 0.1)],
)
def test_mean_is_the_geometric_mean_of_all(probabilities: tuple[float, ...], expected: float) -> None:
    for window in (1, 4):
        assert mean(of(*probabilities), window) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("window", "expected"), [(1, 0.1), (2, math.sqrt(0.9 * 0.1)), (3, (0.9 * 0.1 * 0.9) ** (1 / 3)), (9, 0.54)]
)
def test_minimum_is_of_the_window_where_it_is_least(window: int, expected: float) -> None:
    tokens = of(0.9, 0.9, 0.1, 0.9)
    assert minimum(tokens, window) == pytest.approx(expected if window < 9 else mean(tokens, 1))


@given(answers, logprobs, st.integers(1, 8))
def test_a_minimum_only_falls_as_the_answer_grows(tokens: list[list[float]], next: float, window: int) -> None:
    if len(tokens) >= window:
        assert minimum([*tokens, [next]], window) <= minimum(tokens, window) + 1e-12


@given(answers, st.integers(1, 8))
def test_a_minimum_is_the_least_of_the_means_of_its_windows(tokens: list[list[float]], window: int) -> None:
    width = min(window, len(tokens))
    means = [mean(tokens[at : at + width], 1) for at in range(len(tokens) - width + 1)]
    assert minimum(tokens, window) == pytest.approx(min(means))


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        ((1.0,), 1.0),
        ((0.5, 0.5), 1 / 2),
        ((0.25,) * 4, 1 / 4),
        ((0.125,) * 8, 1 / 8),
        ((0.5,), 1 / 2),  # what is left over counts as one more token
        ((0.9, 0.1), math.exp(0.9 * math.log(0.9) + 0.1 * math.log(0.1))),
    ],
)
def test_entropy_is_one_over_how_many_choices_there_were(shares: tuple[float, ...], expected: float) -> None:
    token = [math.log(0.01), *map(math.log, shares)]
    assert entropy([token], 4) == pytest.approx(expected)
    assert entropy([token] * 9, 4) == pytest.approx(expected)


def test_entropy_is_of_the_beginning_and_not_of_what_was_sampled() -> None:
    sure, unsure = [-9.0, 0.0], [0.0, math.log(0.5), math.log(0.5)]
    assert entropy([sure, sure, unsure], 2) == pytest.approx(1)
    assert entropy([sure, unsure], 2) == pytest.approx(math.sqrt(0.5))


@pytest.mark.parametrize("impossible", [-math.inf, -9999.0])
def test_a_token_without_any_chance_makes_no_nan(impossible: float) -> None:
    tokens = [[impossible, impossible, 0.0], [0.0, 0.0, impossible]]
    assert mean(tokens, 4) == minimum(tokens, 1) == 0
    assert entropy(tokens, 4) == 1


@pytest.mark.parametrize("statistic", STATISTICS)
@given(tokens=st.lists(st.lists(logprobs, min_size=2, max_size=9), min_size=1, max_size=9), window=st.integers(1, 9))
def test_each_is_0_to_1(statistic: str, tokens: list[list[float]], window: int) -> None:
    assert 0 <= STATISTICS[statistic](tokens, window) <= 1
