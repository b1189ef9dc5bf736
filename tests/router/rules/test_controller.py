"""Simulated traffic: every sequence is made from a seed."""

import math
import random
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierserve.router.rules.controller import FixedThreshold, ShareController, Threshold

TARGET = 0.15
DECISIONS = 12_000
Traffic = Callable[[int, random.Random], float]


def around(mean: float, spread: float = 1.5) -> Traffic:
    return lambda number, chance: min(max(chance.gauss(mean, spread), 0.0), 10.0)


def changing(before: Traffic, after: Traffic) -> Traffic:
    return lambda number, chance: (before if number < DECISIONS / 2 else after)(number, chance)


TRAFFIC: dict[str, Traffic] = {
    "steady": around(3),
    "suddenly harder": changing(around(3), around(7)),
    "suddenly easier": changing(around(7), around(3)),
    "slowly harder": lambda number, chance: around(2 + 6 * number / DECISIONS, 0.5)(number, chance),
    "slowly easier": lambda number, chance: around(8 - 6 * number / DECISIONS, 0.5)(number, chance),
    "bursts of one hard prompt": lambda number, chance: 9.0 if number % 2000 < 300 else around(3)(number, chance),
    "constant": lambda number, chance: 3.3,
    "all 0": lambda number, chance: 0.0,
    "all 10": lambda number, chance: 10.0,
    "0 or 10, more of 10 than may go up": lambda number, chance: 10.0 * (chance.random() < 0.4),
    "0 or 10, fewer of 10 than should go up": lambda number, chance: 10.0 * (chance.random() < 0.05),
    "0 and 10 by turns": lambda number, chance: 10.0 * (number % 2),
    "three scores": lambda number, chance: chance.choice((1.0, 2.0, 3.0)),
    "constant, then various": changing(lambda number, chance: 3.3, around(3)),
    "very near each other": around(4.5, 0.01),
    "a saw of its window's length": lambda number, chance: number % 300 / 30,
}


def decide(threshold: Threshold, traffic: Traffic, seed: int = 0) -> Iterator[tuple[float, bool]]:
    chance = random.Random(seed)
    for number in range(DECISIONS):
        score = traffic(number, chance)
        large = threshold.exceeded_by(score)
        threshold.observe(score, large)
        yield score, large


def shares(large: list[bool], window: int = 1000) -> list[float]:
    """The share of each `window` consecutive decisions."""
    return [sum(large[start : start + window]) / window for start in range(0, len(large) - window, 50)]


@pytest.mark.parametrize("name", TRAFFIC)
def test_the_share_is_held_whatever_the_traffic_does(name: str) -> None:
    large = [large for _, large in decide(ShareController(TARGET), TRAFFIC[name])]
    assert sum(large) / len(large) == pytest.approx(TARGET, abs=0.005)
    assert all(abs(share - TARGET) <= 0.05 for share in shares(large))


@pytest.mark.parametrize("sign", [1, -1])
def test_it_is_held_in_the_long_run_where_each_prompt_is_harder_or_easier_than_all_before(sign: int) -> None:
    """There what was seen tells nothing; only the integral holds it, after 170 decisions' worth of error."""
    large = [large for _, large in decide(ShareController(TARGET), lambda n, _: 5 + sign * (10 * n / DECISIONS - 5))]
    assert sum(large) / len(large) == pytest.approx(TARGET, abs=1.01 / (0.005 * DECISIONS))
    assert all(abs(share - TARGET) <= 0.01 for share in shares(large[2000:]))


@pytest.mark.parametrize("target", [0.02, 0.15, 0.5, 0.9])
def test_any_target_is_held(target: float) -> None:
    for traffic in (TRAFFIC["suddenly harder"], TRAFFIC["constant"]):
        large = [large for _, large in decide(ShareController(target), traffic)]
        assert sum(large) / len(large) == pytest.approx(target, abs=0.01)


def test_the_higher_scores_are_those_that_go_up() -> None:
    decided = list(decide(ShareController(TARGET), around(3)))[1000:]
    best = sorted((score for score, _ in decided), reverse=True)[int(TARGET * len(decided))]
    sent_up = [score for score, large in decided if large]
    assert sum(score >= best for score in sent_up) / len(sent_up) > 0.88
    assert min(sent_up) > best - 1


def test_equal_scores_are_spread_evenly() -> None:
    """The large tier gets neither two in a row nor none for long: one in 6.7."""
    large = [large for _, large in decide(ShareController(TARGET), TRAFFIC["constant"])][500:]
    places = [number for number, up in enumerate(large) if up]
    gaps = [after - before for before, after in zip(places, places[1:], strict=False)]
    assert 2 <= min(gaps) <= max(gaps) <= 10


def test_conversations_that_stay_up_are_made_room_for() -> None:
    controller, chance, large = ShareController(TARGET), random.Random(0), []
    for number in range(DECISIONS):
        stays_up = chance.random() < 0.1
        score = None if stays_up else around(3)(number, chance)
        large.append(score is None or controller.exceeded_by(score))
        controller.observe(score, large[-1])
    assert sum(large) / len(large) == pytest.approx(TARGET, abs=0.005)


def test_where_they_alone_exceed_the_target_hardly_another_goes_up_and_the_share_recovers_after() -> None:
    controller, large = ShareController(TARGET), []
    for number, (_, up) in enumerate(decide(controller, around(3))):
        large.append(up)
        if number < 3000:
            controller.observe(None, True)  # as many again
    assert sum(large[1000:3000]) < 0.01 * 2000, "only what is harder than all of late"
    assert shares(large[4000:])[0] == pytest.approx(TARGET, abs=0.05)


def test_few_scores_say_nothing_yet() -> None:
    controller = ShareController(TARGET, start=6)
    for _ in range(29):
        controller.observe(9.0, True)
        assert controller.value == 6
    controller.observe(9.0, True)
    assert controller.value == 9


def test_the_bounds_win_over_the_target() -> None:
    controller = ShareController(TARGET, start=5, lowest=4, highest=6)
    assert all(large for _, large in decide(controller, around(9, 0.5)))
    assert controller.value == 6
    controller = ShareController(TARGET, start=5, lowest=4, highest=6)
    assert not any(large for _, large in decide(controller, around(1, 0.5)))
    assert controller.value == 4


@given(
    st.lists(st.none() | st.floats(0, 10) | st.sampled_from([0.0, 5.0, 10.0])),
    st.floats(0.001, 0.999),
    st.tuples(st.floats(0, 10), st.floats(0, 10), st.floats(0, 10)).map(sorted),
    st.randoms(use_true_random=False),
)
def test_the_threshold_is_finite_and_within_its_bounds_for_any_sequence(
    scores: list[float | None], target: float, bounds: list[float], chance: random.Random
) -> None:
    lowest, start, highest = bounds
    controller = ShareController(target, start, lowest, highest, window=5, gain=0.2, least=2)
    for score in scores:
        # Also where what was decided is not what it would have said.
        controller.observe(score, chance.random() < 0.5 if score is None else controller.exceeded_by(score))
        assert math.isfinite(controller.value)
        assert lowest <= controller.value <= highest
        assert controller.exceeded_by(highest + 1)
        assert not controller.exceeded_by(lowest - 1)


@given(st.data(), st.floats(0.05, 0.95), st.sampled_from([0.005, 0.1, 0.5]))
def test_the_share_misses_the_target_by_no_more_than_the_integral_allows(
    data: st.DataObject, target: float, gain: float
) -> None:
    """Gibbs and Candès' bound, against one who sees the threshold and chooses each score by it."""
    controller, large, count = ShareController(target, window=20, gain=gain, least=1), 0, 100
    for _ in range(count):
        near = [min(max(controller.value + step, 0.0), 10.0) for step in (-1e-3, 0.0, 1e-3)]
        score = data.draw(st.floats(0, 10) | st.sampled_from(near))
        up = controller.exceeded_by(score)
        controller.observe(score, up)
        large += up
    assert abs(large / count - target) <= (1 + 2 * gain + 1 / count) / (gain * count)


def test_a_fixed_threshold_stays() -> None:
    threshold = FixedThreshold(4.0)
    for score, large in decide(threshold, around(3)):
        assert large == (score > 4)
    assert threshold.value == 4
