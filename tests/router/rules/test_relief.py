import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierserve.core import Load, Queue, Role
from tierserve.router.rules.relief import Relief

FULL = Queue(waiting=0, has_room=False)


def queue(waiting: int) -> Queue:
    return Queue(waiting, has_room=waiting == 0)


@pytest.mark.parametrize(
    ("role", "load", "expected"),
    [
        (Role.LARGE, Load(large=queue(11)), Role.SMALL),
        (Role.LARGE, Load(large=queue(10)), Role.LARGE),
        (Role.LARGE, Load(queue(21), queue(11)), Role.LARGE),
        (Role.LARGE, Load(queue(20), queue(11)), Role.SMALL),
        (Role.SMALL, Load(small=queue(21)), Role.LARGE),
        (Role.SMALL, Load(small=queue(20)), Role.SMALL),
        (Role.SMALL, Load(queue(21), FULL), Role.SMALL),
        (Role.SMALL, Load(large=queue(99)), Role.SMALL),
        (Role.LARGE, Load(None, queue(99)), Role.LARGE),
        (Role.SMALL, Load(queue(99), None), Role.SMALL),
    ],
)
def test_a_tier_is_relieved_beyond_its_limit_by_one_with_room(role: Role, load: Load, expected: Role) -> None:
    assert Relief(10, 20).role_for(role, 4.5, 4.0, load) is expected


def test_a_limit_that_is_not_set_is_never_exceeded() -> None:
    assert Relief(None, 0).role_for(Role.LARGE, 4, 4, Load(large=queue(10**6))) is Role.LARGE
    assert Relief(0, None).role_for(Role.SMALL, 4, 4, Load(small=queue(10**6))) is Role.SMALL


@given(
    st.sampled_from(Role), st.floats(0, 10), st.floats(0, 10), st.floats(0, 10), st.integers(0, 9), st.integers(0, 9)
)
def test_what_is_clear_is_never_moved(role: Role, score: float, threshold: float, band: float, s: int, ll: int) -> None:
    moved = Relief(3, 3, band).role_for(role, score, threshold, Load(queue(s), queue(ll))) is not role
    assert not moved or abs(score - threshold) <= band
