"""How many answers may be escalated, by a clock that the test holds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierserve.escalation.budget import Budget

MINUTE, ALWAYS = 60, 10


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def escalate(budget: Budget, doubted: int) -> int:
    """How many of so many doubted answers are escalated."""
    allowed = [False] * doubted
    for number in range(doubted):
        allowed[number] = budget.allows
        budget.count(allowed[number])
    return sum(allowed)


def test_ten_are_always_allowed_and_again_after_a_minute() -> None:
    clock = Clock()
    budget = Budget(0.01, clock)
    assert escalate(budget, 50) == ALWAYS
    clock.now = MINUTE - 0.001
    assert escalate(budget, 1) == 0
    clock.now = MINUTE
    assert escalate(budget, 50) == ALWAYS


@pytest.mark.parametrize(("share", "expected"), [(0.2, 100), (0.5, 250), (0.001, ALWAYS), (1.0, 500)])
def test_of_many_that_are_all_doubted_the_share_is_escalated(share: float, expected: int) -> None:
    assert escalate(Budget(share, Clock()), 500) == expected


def test_answers_that_were_not_doubted_make_room() -> None:
    budget = Budget(0.2, Clock())
    for _ in range(400):
        budget.count(escalated=False)
    assert escalate(budget, 100) == 100


def test_without_a_share_there_is_no_limit_and_nothing_is_kept() -> None:
    budget = Budget(None, Clock())
    assert escalate(budget, 500) == 500
    assert not budget._judged and not budget._escalated


def test_what_is_older_than_a_minute_is_not_kept_though_nothing_is_ever_doubted() -> None:
    clock = Clock()
    budget = Budget(0.2, clock)
    for _ in range(1000):
        clock.now += 1
        budget.count(escalated=False)
    assert len(budget._judged) <= MINUTE


@given(st.floats(0.01, 1), st.lists(st.tuples(st.floats(0, 9), st.booleans()), max_size=150))
def test_an_escalation_never_exceeds_the_share_of_its_last_minute(
    share: float, answers: list[tuple[float, bool]]
) -> None:
    clock = Clock()
    budget, judged, escalated = Budget(share, clock), list[float](), list[float]()
    for wait, doubted in answers:
        clock.now += wait
        escalates = doubted and budget.allows
        budget.count(escalates)
        judged.append(clock.now)
        if escalates:
            escalated.append(clock.now)
            within = [sum(time > clock.now - MINUTE for time in times) for times in (judged, escalated)]
            assert within[1] <= max(ALWAYS, share * within[0] + 1e-9)
