import pytest

from tierserve.core import Call, Cause, Decision, Kind, Outcome, Role, Status
from tierserve.telemetry.share import LargeShare

CALL = Call("id", Kind.CHAT, {}, ())


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class Traffic:
    def __init__(self, warn_above: float = 0.3) -> None:
        self.clock = Clock()
        self.share = LargeShare(warn_above, self.clock)

    def __call__(self, small: int, large: int, cause: Cause = Cause.SCORE) -> None:
        for role, count in ((Role.SMALL, small), (Role.LARGE, large)):
            for _ in range(count):
                self.share.record(Outcome(CALL, Status.OK, Decision(role, cause), role))


@pytest.fixture
def traffic() -> Traffic:
    return Traffic()


def test_the_share_is_of_all_that_was_routed(traffic: Traffic) -> None:
    assert traffic.share.value == 0
    traffic(75, 5)
    for cause in (Cause.CONTEXT, Cause.FAILOVER, Cause.CONVERSATION, Cause.LOAD):
        traffic(0, 5, cause)
    assert traffic.share.value == 0.25


def test_what_was_forced_or_never_answered_does_not_count(traffic: Traffic) -> None:
    traffic(1, 1)
    traffic(0, 50, Cause.MODEL)
    traffic(0, 50, Cause.HEADER)
    traffic.share.record(Outcome(CALL, Status.UNAVAILABLE, Decision(Role.LARGE, Cause.SCORE)))
    traffic.share.record(Outcome(CALL, Status.UNAVAILABLE))
    assert traffic.share.value == 0.5


def test_an_hour_later_it_is_forgotten(traffic: Traffic) -> None:
    traffic(0, 10)
    traffic.clock.now += 1800
    traffic(10, 0)
    traffic.clock.now += 1739
    assert traffic.share.value == 0.5
    traffic.clock.now += 121
    assert traffic.share.value == 0
    traffic.clock.now += 7200
    assert traffic.share.value == 0


def test_memory_is_bounded_by_the_minutes_of_an_hour(traffic: Traffic) -> None:
    for _ in range(5000):
        traffic.clock.now += 7
        traffic(1, 0)
    assert len(traffic.share._buckets) <= 61


def warnings(caplog: pytest.LogCaptureFixture) -> int:
    return caplog.text.count("routed requests went to the large tier")


def test_an_excursion_is_said_once_and_again_only_after_it_ended(
    traffic: Traffic, caplog: pytest.LogCaptureFixture
) -> None:
    traffic(70, 30)
    assert (warnings(caplog), traffic.share.high) == (0, False)
    traffic(0, 20)
    assert (warnings(caplog), traffic.share.high) == (1, True)
    traffic(55, 0)  # 50 of 175: below the limit, but not clearly
    assert traffic.share.high
    traffic(0, 10)
    assert warnings(caplog) == 1
    traffic(100, 0)
    assert not traffic.share.high
    traffic(0, 100)
    assert (warnings(caplog), traffic.share.high) == (2, True)


def test_few_requests_are_no_excursion(traffic: Traffic, caplog: pytest.LogCaptureFixture) -> None:
    traffic(0, 99)
    assert not traffic.share.high
    traffic(0, 1)
    assert traffic.share.high
    traffic.clock.now += 7200
    assert not traffic.share.high, "also when nothing is recorded any more"
    assert warnings(caplog) == 1
