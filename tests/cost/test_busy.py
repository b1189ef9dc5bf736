"""How long tiers are busy, and what a token takes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierserve.core import Call, Cause, Decision, Doubt, Judgement, Kind, Outcome, Prompt, Role, Status, Usage
from tierserve.cost.busy import Busy, _Tier

CALL = Call("id", Kind.CHAT, {}, (Prompt("text"),))


def answered(role: Role, usage: Usage, begun_s: float, total_s: float, judgement: Judgement | None = None) -> Outcome:
    decision = Decision(role, Cause.SCORE, 1.0)
    return Outcome(CALL, Status.OK, decision, role, usage, begun_s, total_s, total_s, judgement)


def test_requests_at_the_same_time_share_the_seconds() -> None:
    busy = Busy(0.25)
    busy.record(answered(Role.SMALL, Usage(4000, 4000), 0.5, 2.5), now=12.5)  # from 10.5
    busy.record(answered(Role.SMALL, Usage(4000, 4000), 0.0, 2.0), now=13.0)  # from 11.0
    assert busy.seconds(Role.SMALL) == pytest.approx(2.5)
    rates = busy.rates(Role.SMALL)
    assert rates is not None
    assert rates.completion == pytest.approx(2.5 / 10_000, rel=1e-3)
    assert rates.prompt == pytest.approx(2.5 / 40_000, rel=1e-3)
    assert busy.rates(Role.LARGE) is None
    assert busy.seconds(Role.LARGE) == 0


def test_waiting_for_the_decision_and_for_room_keeps_no_tier_busy() -> None:
    busy, outcome = Busy(0.25), answered(Role.LARGE, Usage(1, 1), 0.5, 4.0)
    outcome.queue_s = 1.5
    busy.record(outcome, now=100.0)
    assert busy.seconds(Role.LARGE) == pytest.approx(2.0)


def test_an_escalation_keeps_first_one_tier_busy_and_then_the_other() -> None:
    busy = Busy(0.25)
    judgement = Judgement(0.1, Doubt.LOW, True, held_s=1.0, wasted=Usage(0, 2000))
    busy.record(answered(Role.LARGE, Usage(0, 1500), 0.0, 4.0, judgement), now=50.0)
    assert (busy.seconds(Role.SMALL), busy.seconds(Role.LARGE)) == (pytest.approx(1.0), pytest.approx(3.0))
    small, large = busy.rates(Role.SMALL), busy.rates(Role.LARGE)
    assert small is not None and small.completion == pytest.approx(1 / 2000)
    assert large is not None and large.completion == pytest.approx(3 / 1500)


def test_an_escalation_keeps_no_tier_busy_while_it_waits_for_it() -> None:
    busy = Busy(0.25)
    judgement = Judgement(0.1, Doubt.LOW, True, held_s=1.0, queue_s=0.5)
    outcome = answered(Role.LARGE, Usage(0, 1500), 0.0, 4.0, judgement)
    outcome.queue_s = 1.25
    busy.record(outcome, now=50.0)
    assert (busy.seconds(Role.SMALL), busy.seconds(Role.LARGE)) == (pytest.approx(1.0), pytest.approx(1.75))


def test_what_was_never_routed_kept_nothing_busy() -> None:
    busy = Busy(0.25)
    busy.record(Outcome(CALL, Status.INVALID, total_s=3.0), now=10.0)
    assert busy.seconds(Role.SMALL) == busy.seconds(Role.LARGE) == 0


def test_rates_follow_what_is_new() -> None:
    busy = Busy(0.0)
    busy.record(answered(Role.SMALL, Usage(0, 2000), 0.0, 2.0), now=10.0)
    for hour in range(1, 9):
        busy.record(answered(Role.SMALL, Usage(0, 2000), 0.0, 8.0), now=10.0 + 3600 * hour)
    rates = busy.rates(Role.SMALL)
    assert rates is not None and rates.completion == pytest.approx(8 / 2000, rel=0.01)


spans = st.tuples(st.integers(0, 60), st.integers(0, 20)).map(lambda span: (span[0], span[0] + span[1]))


@given(st.lists(spans, max_size=30))
def test_busy_seconds_are_those_with_at_least_one_request_in_whatever_order_they_end(
    found: list[tuple[int, int]],
) -> None:
    tier = _Tier()
    for start, end in found:
        tier.add(start, end, 1, now=end)
    assert tier.seconds == len({second for start, end in found for second in range(start, end)})
