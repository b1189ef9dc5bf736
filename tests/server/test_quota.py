"""A key's limits, over times and amounts of all kinds."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierserve.errors import RateLimited
from tierserve.server.quota import Allowance, Limits, Quota, estimate, in_words

PER_MINUTE = st.integers(1, 100_000)
# Seconds that pass, and how much is asked for then.
STEPS = st.lists(st.tuples(st.floats(0, 90), st.integers(0, 150_000)), max_size=60)


@given(PER_MINUTE, STEPS)
def test_no_more_is_granted_than_a_minute_s_worth_and_the_pace(per_minute: int, steps: list[tuple[float, int]]) -> None:
    allowance, now, granted, oversize = Allowance(per_minute), 1e6, 0, 0
    started = now
    for passed, amount in steps:
        now += passed
        if allowance.wait_s(amount, now) == 0:
            allowance.take(amount, now)
            granted += amount
            oversize = max(oversize, amount - per_minute)
        assert granted <= per_minute + (now - started) * per_minute / 60 + oversize + 1e-3 * per_minute


@given(PER_MINUTE, STEPS, st.integers(1, 150_000))
def test_after_the_wait_it_can_be_taken_and_not_before(
    per_minute: int, steps: list[tuple[float, int]], amount: int
) -> None:
    allowance, now = Allowance(per_minute), 1e6
    for passed, taken in steps:
        now += passed
        allowance.take(taken, now)
    wait_s = allowance.wait_s(amount, now)
    assert allowance.wait_s(amount, now + wait_s) == 0
    if wait_s > 0.001:
        assert allowance.wait_s(amount, now + wait_s - 0.001) > 0


@given(PER_MINUTE, st.integers(0, 100_000), st.integers(0, 100_000))
def test_what_is_given_back_is_there_again(per_minute: int, taken: int, amount: int) -> None:
    allowance, now = Allowance(per_minute), 1e6
    allowance.take(taken, now)
    before = allowance.remaining(now)
    allowance.take(amount, now)
    allowance.take(-amount, now)
    assert allowance.remaining(now) == before
    allowance.take(-per_minute, now)
    allowance.take(-taken, now)
    assert (allowance.remaining(now), allowance.reset_s(now)) == (per_minute, 0), "and never more than all"


@given(PER_MINUTE)
def test_all_can_be_taken_one_by_one_and_is_back_after_a_minute(per_minute: int) -> None:
    allowance, now = Allowance(min(per_minute, 500)), 1e6
    for left in range(allowance.per_minute, 0, -1):
        assert allowance.remaining(now) == left
        assert allowance.wait_s(1, now) == 0
        allowance.take(1, now)
    assert allowance.wait_s(1, now) == pytest.approx(60 / allowance.per_minute, abs=1e-5)
    assert allowance.remaining(now + 60) == allowance.per_minute


def test_what_is_larger_than_the_limit_waits_for_all_of_it_and_is_paid_back() -> None:
    allowance = Allowance(100)
    allowance.take(1, 0)
    assert allowance.wait_s(250, 0) == pytest.approx(0.6)
    allowance.take(250, 1)
    assert allowance.remaining(1) == 0
    assert allowance.wait_s(1, 1) == pytest.approx(90.6)


def test_concurrency_is_counted_and_a_refused_request_is_not() -> None:
    quota = Quota(Limits(requests_per_minute=10, concurrency=2))
    quota.enter(0)
    quota.enter(0)
    with pytest.raises(RateLimited, match="2 requests"):
        quota.enter(0)
    assert quota.headers(0)["x-ratelimit-remaining-requests"] == "8"
    quota.leave()
    quota.enter(0)
    assert quota.running == 2


def test_the_headers_are_openai_s_and_name_what_is_limited() -> None:
    quota = Quota(Limits(requests_per_minute=60, tokens_per_minute=6000))
    quota.enter(0)
    quota.charge(3000, 0)
    assert quota.headers(0) == {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-reset-requests": "1s",
        "x-ratelimit-limit-tokens": "6000",
        "x-ratelimit-remaining-tokens": "3000",
        "x-ratelimit-reset-tokens": "30s",
    }
    assert Quota(Limits()).headers(0) == {}


def test_refused_it_says_when_to_come_again() -> None:
    quota = Quota(Limits(tokens_per_minute=60))
    quota.charge(50, 0)
    with pytest.raises(RateLimited, match="60 tokens per minute") as refused:
        quota.charge(25, 0)
    assert refused.value.retry_after_s == pytest.approx(15)
    quota.charge(25, 15)


def test_other_limits_keep_the_share_that_is_used_up() -> None:
    quota = Quota(Limits(requests_per_minute=10))
    for _ in range(5):
        quota.enter(0)
    quota.limit(Limits(requests_per_minute=100, tokens_per_minute=7))
    assert quota.headers(0)["x-ratelimit-remaining-requests"] == "50"
    assert quota.headers(0)["x-ratelimit-remaining-tokens"] == "7"
    assert quota.running == 5
    quota.limit(Limits())
    assert quota.headers(0) == {}


@pytest.mark.parametrize(
    ("body", "tokens"),
    [
        ({}, 256),
        ({"max_tokens": 10}, 10),
        ({"max_tokens": 10, "max_completion_tokens": 20}, 20),
        ({"max_tokens": 10, "n": 3}, 30),
        ({"max_tokens": 10, "prompt": ["a", "b"]}, 20),
        ({"max_tokens": 10, "prompt": [1, 2, 3]}, 10),
        ({"max_tokens": 10, "prompt": [[1], [2]]}, 20),
        ({"max_tokens": "ten", "n": -1, "prompt": []}, 256),
        ({"max_tokens": True, "n": 0}, 256),
    ],
)
def test_the_estimate_is_of_what_was_sent_and_what_may_come(body: Any, tokens: int) -> None:
    assert estimate(body, 400) == 100 + tokens


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0ms"), (0.0165, "17ms"), (1, "1s"), (1.44, "1.5s"), (59.96, "60s"), (60, "1m0s"), (125.5, "2m6s")],
)
def test_durations_read_like_openai_s(seconds: float, words: str) -> None:
    assert in_words(seconds) == words
