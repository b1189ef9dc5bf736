"""The second opinion in the router: causes, the cache, failure, the end. The assessor is the lab's."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.router.assessing.conftest import LAB, configured
from tests.router.assessing.test_opinion import EASY, HARD, LATE_S, LONG_MS, Held
from tests.router.test_router import Lengths, call
from tierserve.config import RouterConfig
from tierserve.core import Cause, Decision, Role
from tierserve.errors import ConfigError, TierUnavailable
from tierserve.router.assessing.assessor import Assessor
from tierserve.router.assessing.opinion import Assessments, SecondOpinion
from tierserve.router.router import Router, build_router
from tierserve.router.rules.policy import build_policy


class Unsure(Lengths):
    """Scores 4.5, where the band is, but for texts of one word, which it is sure of."""

    def score(self, prompt: Any, vector: Any) -> float:
        return 4.5 if " " in prompt.text else 1.0


@pytest.fixture
async def started(assessor: Assessor) -> AsyncIterator[Any]:
    routers: list[tuple[Router, Held]] = []

    async def started(**options: Any) -> tuple[Router, Held]:
        unsure, held = Unsure(), Held(assessor)

        def load_second(assessments: Assessments) -> SecondOpinion:
            return SecondOpinion(configured(**{"deadline_ms": LONG_MS} | options), held, assessments)

        router = Router(lambda: (unsure, unsure), build_policy(RouterConfig()), load_second)
        await router.start()
        routers.append((router, held))
        return routers[-1]

    yield started
    for router, held in routers:
        held.go.set()
        await router.close()


async def test_the_combined_score_decides_where_the_embedding_is_unsure(started: Any) -> None:
    router, _ = await started(weight=0.5)
    easy, hard = await router.decide(call(EASY)), await router.decide(call(HARD))
    assert (easy.role, easy.cause) == (Role.SMALL, Cause.ASSESSED)
    assert (hard.role, hard.cause) == (Role.LARGE, Cause.ASSESSED)
    assert easy.score < 4 < hard.score


async def test_it_is_not_asked_where_the_embedding_is_sure(started: Any) -> None:
    router, held = await started()
    assert await router.decide(call("hi")) == Decision(Role.SMALL, Cause.SCORE, 1.0)
    assert held.batches == []


async def test_what_was_assessed_is_known_from_then_on(started: Any) -> None:
    router, held = await started()
    first = await router.decide(call(HARD))
    again = await router.decide(call(HARD))
    assert again == Decision(first.role, Cause.CACHE, first.score)
    assert held.batches == [[HARD]]


async def test_a_look_asks_too(started: Any) -> None:
    router, _ = await started()
    assert await router.look(call(HARD)) == await router.decide(call(HARD))


@pytest.mark.parametrize("why", ["late", "refused", "failed"])
async def test_without_a_rating_the_embedding_s_score_stands_and_the_prompt_is_assessed_another_time(
    why: str, started: Any
) -> None:
    router, held = await started(queue=1)
    text, blocking = HARD, []
    match why:
        case "late":
            held.go.clear()
            router._second._deadline_s = 0.05
        case "refused":
            held.go.clear()
            for each in ("in the works", "the one that may wait"):
                blocking.append(asyncio.create_task(router.decide(call(each))))
                await asyncio.sleep(0.05)
        case "failed":
            text = "a nan"
            held.rate = lambda texts: [float("nan")]
            router._second._thread._work = held.rate
    decision = await router.decide(call(text))
    assert decision == Decision(Role.LARGE, Cause.UNASSESSED, 4.5)
    assert router.assessments.counts[why] == 1
    held.go.set()
    await asyncio.gather(*blocking)
    router._second._deadline_s, router._second._thread._work = LONG_MS, Held.rate.__get__(held)
    assert (await router.decide(call(text))).cause is Cause.ASSESSED, "what did not last was not kept"


async def test_the_hardest_of_several_prompts_names_the_cause(started: Any) -> None:
    router, _ = await started(weight=1.0)
    decision = await router.decide(call("hi", HARD))
    assert decision.cause is Cause.ASSESSED
    assert (await router.decide(call("hi", "hello"))).cause is Cause.SCORE


async def test_what_was_sent_up_by_both_together_stays_up(started: Any) -> None:
    from tests.router.test_router import turn

    router, _ = await started()
    assert (await router.decide(turn(HARD))).role is Role.LARGE
    assert (await router.decide(turn("a longer text, so that it is no follow-up"))).cause is Cause.CONVERSATION


async def test_a_router_that_closes_while_it_assesses_leaves_nobody_waiting(started: Any) -> None:
    router, held = await started()
    held.go.clear()
    waiting = [asyncio.create_task(router.decide(call(f"text {number}"))) for number in range(6)]
    waiting.append(asyncio.create_task(router.look(call("a look"))))
    await asyncio.sleep(0.1)
    assert held.batches
    async with asyncio.timeout(LATE_S):
        await router.close()
        results = await asyncio.gather(*waiting, return_exceptions=True)
    assert {type(result) for result in results} == {asyncio.CancelledError}
    held.go.set()


async def test_the_configured_assessor_is_loaded_and_asked() -> None:
    router = build_router(
        RouterConfig(assess={"model": LAB, "band": [0.0, 10.0], "threads": 1, "deadline_ms": LONG_MS})
    )
    with pytest.raises(TierUnavailable):
        await router.decide(call(HARD))
    await router.start()
    assert (await router.decide(call(HARD))).cause is Cause.ASSESSED
    await router.close()


async def test_absent_weights_stop_the_start() -> None:
    router = build_router(RouterConfig(assess={"model": "/nowhere"}))
    with pytest.raises(ConfigError, match=r"^router.assess.model: there is no folder /nowhere"):
        await router.start()
    assert not router.ready
    await router.close()
