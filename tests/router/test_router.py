import asyncio
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from tierserve.config import RouterConfig
from tierserve.core import Cause, Decision, Role
from tierserve.errors import TierUnavailable
from tierserve.router.network import Vectors
from tierserve.router.router import Router, build_router


class Lengths:
    """Encoder and scorer in one: a text's score is its length."""

    def __init__(self) -> None:
        self.encoded: list[str] = []

    def encode(self, texts: Sequence[str]) -> Vectors:
        self.encoded += texts
        if "fail" in texts:
            raise RuntimeError
        return np.array([[len(text)] for text in texts], dtype=np.float32)

    def score(self, vector: NDArray[np.float32]) -> float:
        return float(vector[0])


async def started(cache_entries: int = 100) -> tuple[Router, Lengths]:
    lengths = Lengths()
    router = Router(lambda: (lengths, lengths), threshold=4.0, cache_entries=cache_entries)
    await router.start()
    return router, lengths


async def test_scores_up_to_and_including_the_threshold_go_small() -> None:
    router, _ = await started()
    assert await router.decide(["four"]) == Decision(Role.SMALL, Cause.SCORE, 4.0)
    assert await router.decide(["fives"]) == Decision(Role.LARGE, Cause.SCORE, 5.0)


async def test_a_prompt_seen_before_is_not_encoded_again() -> None:
    router, lengths = await started()
    await router.decide(["four"])
    assert await router.decide(["four"]) == Decision(Role.SMALL, Cause.CACHE, 4.0)
    assert lengths.encoded == ["four"]


async def test_the_cache_holds_scores_so_that_a_new_threshold_counts_at_once() -> None:
    router, _ = await started()
    await router.decide(["four"])
    router.threshold = 3.0
    assert await router.decide(["four"]) == Decision(Role.LARGE, Cause.CACHE, 4.0)


async def test_the_cache_is_bounded_and_forgets_the_least_recently_used() -> None:
    router, lengths = await started(cache_entries=2)
    for text in ("a", "b", "a", "c", "a", "b"):
        await router.decide([text])
    assert lengths.encoded == ["a", "b", "c", "b"]


async def test_a_cache_of_no_entries_is_no_cache() -> None:
    router, lengths = await started(cache_entries=0)
    for _ in range(2):
        assert (await router.decide(["four"])).cause is Cause.SCORE
    assert lengths.encoded == ["four", "four"]


async def test_the_hardest_of_several_texts_decides() -> None:
    router, _ = await started()
    assert await router.decide(["a", "sixsix", "bb"]) == Decision(Role.LARGE, Cause.SCORE, 6.0)
    assert await router.decide(["a", "ccc"]) == Decision(Role.SMALL, Cause.SCORE, 3.0)
    assert await router.decide(["a", "bb"]) == Decision(Role.SMALL, Cause.CACHE, 2.0)


async def test_a_forced_tier_is_not_scored() -> None:
    router, lengths = await started()
    assert await router.decide(["x"], (Role.LARGE, Cause.HEADER)) == Decision(Role.LARGE, Cause.HEADER)
    assert lengths.encoded == []


async def test_a_prompt_that_can_t_be_scored_goes_large(caplog: pytest.LogCaptureFixture) -> None:
    router, _ = await started()
    assert await router.decide(["fail"]) == Decision(Role.LARGE, Cause.UNSCORED)
    assert "scoring failed" in caplog.text


async def test_while_it_loads_it_says_so() -> None:
    with pytest.raises(TierUnavailable, match="the router is loading"):
        await build_router(RouterConfig()).decide(["x"])


async def test_the_real_router_decides_many_at_once_as_one_by_one() -> None:
    router = build_router(RouterConfig())
    await router.start()
    prompts = ["What is Python?", "Design a rate limiter with sliding window and token bucket", "hi", "\U0001f600\x00"]
    together = await asyncio.gather(*(router.decide([prompt]) for prompt in prompts))
    assert [decision.role for decision in together[:2]] == [Role.SMALL, Role.LARGE]
    again = [await router.decide([prompt]) for prompt in prompts]
    assert [decision.score for decision in again] == [decision.score for decision in together]
    assert {decision.cause for decision in again} == {Cause.CACHE}
    await router.close()
