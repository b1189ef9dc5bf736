import asyncio

import pytest

from tierserve.core import Cause, Prompt
from tierserve.router.rules.cache import ScoreCache, Scored

A, B, C = Prompt("a"), Prompt("b"), Prompt("c")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


FIVE = Scored(5.0)


async def five(prompt: Prompt) -> Scored:
    return FIVE


async def test_the_cache_is_bounded_and_forgets_the_least_recently_used() -> None:
    cache = ScoreCache(2, 60)
    await cache.compute(A, five)
    await cache.compute(B, five)
    assert cache.find(A) == 5
    await cache.compute(C, five)
    assert [cache.find(prompt) for prompt in (A, B, C)] == [5, None, 5]
    assert (cache.hits, cache.misses) == (3, 1)


async def test_a_score_expires() -> None:
    clock = Clock()
    cache = ScoreCache(2, 60, clock)
    await cache.compute(A, five)
    clock.now = 59
    assert cache.find(A) == 5
    clock.now = 61
    assert cache.find(A) is None


async def test_a_cache_of_no_entries_is_no_cache() -> None:
    cache = ScoreCache(0, 60)
    assert await cache.compute(A, five) == FIVE
    assert cache.find(A) is None


async def test_all_that_is_scored_is_in_the_key() -> None:
    cache = ScoreCache(10, 60)
    await cache.compute(Prompt("1 a", 2), five)
    assert cache.find(Prompt("1 a", 3)) is None
    assert cache.find(Prompt("2 1 a", 1)) is None
    assert cache.find(Prompt("1 a", 2)) == 5


async def test_no_text_is_kept() -> None:
    cache = ScoreCache(10, 60)
    await cache.compute(Prompt("a secret"), five)
    assert "secret" not in repr(list(cache._scores.items()))


async def test_who_asks_while_it_is_computed_waits_for_that_one() -> None:
    cache, go, computed = ScoreCache(10, 60), asyncio.Event(), []

    async def slow(prompt: Prompt) -> Scored:
        computed.append(prompt)
        await go.wait()
        return FIVE

    waiting = [asyncio.create_task(cache.compute(A, slow)) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await asyncio.sleep(0)
    go.set()
    assert await asyncio.gather(*waiting[1:]) == [FIVE, FIVE]
    assert computed == [A]


async def test_a_failure_is_everybody_s_who_waited_and_is_not_kept() -> None:
    cache = ScoreCache(10, 60)

    async def fail(prompt: Prompt) -> Scored:
        await asyncio.sleep(0)
        raise ZeroDivisionError

    results = await asyncio.gather(*(cache.compute(A, fail) for _ in range(2)), return_exceptions=True)
    assert [type(result) for result in results] == [ZeroDivisionError] * 2
    assert await cache.compute(A, five) == FIVE


async def test_closing_ends_what_is_computed() -> None:
    cache = ScoreCache(10, 60)

    async def forever(prompt: Prompt) -> Scored:
        await asyncio.Event().wait()
        return FIVE

    waiting = asyncio.create_task(cache.compute(A, forever))
    await asyncio.sleep(0)
    await cache.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_a_score_that_does_not_last_is_handed_on_and_not_kept() -> None:
    cache = ScoreCache(10, 60)
    passing = Scored(5.0, Cause.UNASSESSED, lasts=False)

    async def once(prompt: Prompt) -> Scored:
        return passing

    assert await cache.compute(A, once) == passing
    assert cache.find(A) is None
