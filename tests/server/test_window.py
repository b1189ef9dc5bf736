"""What the dashboard's window counts, and that it forgets."""

import random

import pytest

from tierserve.core import Call, Cause, Cost, Decision, Doubt, Judgement, Kind, Outcome, Prompt, Role, Status, Usage
from tierserve.server.dashboard.window import SLOT_S, SLOTS, Measure, Window, percentiles

SECRET = "what the caller said"


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def outcome(role: Role = Role.SMALL, cause: Cause = Cause.SCORE, score: float | None = 1.0, **more: object) -> Outcome:
    call = Call("id", Kind.CHAT, {"messages": [SECRET]}, (Prompt(SECRET),))
    made = Outcome(call, Status.OK, Decision(role, cause, score), role, Usage(3, 4), 0.001, 0.1, 0.2)
    for name, value in more.items():
        setattr(made, name, value)
    return made


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def window(clock: Clock) -> Window:
    return Window(clock)


def test_a_request_counts_in_the_window_until_it_has_passed(window: Window, clock: Clock) -> None:
    window.record(outcome())
    clock.now += SLOT_S * SLOTS / 2
    window.record(outcome(Role.LARGE))
    assert window.sums["answered", Role.SMALL] == window.sums["answered", Role.LARGE] == 1
    clock.now += SLOT_S * SLOTS / 2
    assert ("answered", Role.SMALL) not in window.sums
    assert window.sums["answered", Role.LARGE] == 1
    clock.now += SLOT_S * SLOTS
    assert not window.sums and window.slots() == []
    assert window.totals.requests == 2


def test_a_clock_that_is_put_back_loses_nothing(window: Window, clock: Clock) -> None:
    window.record(outcome())
    clock.now -= 3600
    window.record(outcome())
    assert window.sums["answered", Role.SMALL] == 2
    assert len(window.slots()) == 1


def test_percentiles_are_exact_to_two_per_cent(window: Window) -> None:
    source = random.Random(2)
    values = sorted(source.lognormvariate(-3, 1.5) for _ in range(2000))
    for value in values:
        window.record(outcome(first_byte_s=value))
    found = percentiles(window.sums, Measure.FIRST_BYTE, Role.SMALL)
    assert found is not None
    for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
        assert found[name] == pytest.approx(values[int(share * len(values)) - 1], rel=0.021)
    assert percentiles(window.sums, Measure.FIRST_BYTE, Role.LARGE) is None


def test_whole_answers_alone_count_for_their_length(window: Window) -> None:
    window.record(outcome(status=Status.CANCELLED))
    assert percentiles(window.sums, Measure.FIRST_BYTE, Role.SMALL) is not None
    assert percentiles(window.sums, Measure.TOTAL, Role.SMALL) is None


def test_an_escalation_counts_by_its_doubt_for_the_tier_that_answered(window: Window) -> None:
    judgement = Judgement(confidence=0.2, doubt=Doubt.LOW, escalated=True)
    window.record(outcome(Role.LARGE, Cause.ESCALATION, judgement=judgement))
    window.record(outcome(Role.SMALL, Cause.BUDGET, judgement=Judgement(confidence=0.3, doubt=Doubt.LOW)))
    window.record(outcome(judgement=Judgement(confidence=0.9)))
    sums = window.sums
    assert (sums["judged",], sums["escalated", Doubt.LOW], sums["stood",]) == (3, 1, 1)
    assert (sums["answered", Role.LARGE], sums["answered", Role.SMALL]) == (1, 2)


@pytest.mark.parametrize(("score", "place"), [(0.0, 0), (0.49, 0), (0.5, 1), (9.99, 19), (10.0, 19)])
def test_scores_fall_into_halves_of_a_point(window: Window, score: float, place: int) -> None:
    window.record(outcome(score=score))
    assert window.sums["score", place] == 1


def test_what_no_tier_answered_has_a_status_and_nothing_else(window: Window) -> None:
    window.record(outcome(decision=None, tier=None, status=Status.UNAVAILABLE, first_byte_s=None))
    assert dict(window.sums) == {("status", Status.UNAVAILABLE): 1}
    assert not window.decisions


def test_costs_add_up_and_what_has_none_is_counted(window: Window) -> None:
    window.record(outcome(cost=Cost(1.0, 4.0, 0.25)))
    window.record(outcome(cost=Cost(2.0, 2.0)))
    window.record(outcome())
    totals = window.totals
    assert (totals.spent, totals.all_large, totals.wasted, totals.unpriced) == (3.0, 6.0, 0.25, 1)


def test_the_last_decisions_are_bounded_newest_first_and_without_text(window: Window, clock: Clock) -> None:
    for number in range(200):
        clock.now += 1
        window.record(outcome(total_s=float(number)))
    assert len(window.decisions) == 50
    assert [each["total_s"] for each in window.decisions][:3] == [199, 198, 197]
    assert SECRET not in repr(window.decisions)
