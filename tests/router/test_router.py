import asyncio
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tierserve.config import RouterConfig
from tierserve.core import Call, Cause, Conversation, Decision, Kind, Load, Prompt, Queue, Role
from tierserve.errors import TierUnavailable
from tierserve.router.embedding.encoder import SentenceEncoder
from tierserve.router.embedding.network import Vectors
from tierserve.router.router import Router, build_router
from tierserve.router.rules.policy import build_policy
from tierserve.router.scoring.head import DEFAULT, Head

SMALL, LARGE = Role.SMALL, Role.LARGE


class Lengths:
    """Encoder and scorer in one: a text's score is its length, of "nan" none."""

    own = 1

    def __init__(self) -> None:
        self.encoded: list[str] = []
        self.go = threading.Event()
        self.go.set()

    def encode(self, texts: Sequence[str]) -> Vectors:
        self.encoded += texts
        self.go.wait(10)
        if "fail" in texts:
            raise RuntimeError
        return np.array([[len(text)] for text in texts], dtype=np.float32)

    def score(self, prompt: Prompt, vector: NDArray[np.float32]) -> float:
        return float("nan") if prompt.text == "nan" else min(float(vector[0]), 10.0)


async def started(**options: Any) -> tuple[Router, Lengths]:
    lengths = Lengths()
    router = Router(lambda: (lengths, lengths), build_policy(RouterConfig(**options)))
    await router.start()
    return router, lengths


def call(*texts: str, forced: Any = None, conversation: Conversation | None = None) -> Call:
    kind = Kind.CHAT if len(texts) == 1 else Kind.COMPLETION
    return Call("id", kind, {}, tuple(map(Prompt, texts)), forced=forced, conversation=conversation)


async def test_scores_up_to_and_including_the_threshold_go_small() -> None:
    router, _ = await started()
    assert await router.decide(call("four")) == Decision(SMALL, Cause.SCORE, 4.0)
    assert await router.decide(call("fives")) == Decision(LARGE, Cause.SCORE, 5.0)


async def test_a_prompt_seen_before_is_not_encoded_again() -> None:
    router, lengths = await started()
    await router.decide(call("four"))
    assert await router.decide(call("four")) == Decision(SMALL, Cause.CACHE, 4.0)
    assert lengths.encoded == ["four"]
    assert (router.cache_hits, router.cache_misses) == (1, 1)


async def test_a_cached_decision_makes_no_task(monkeypatch: pytest.MonkeyPatch) -> None:
    router, _ = await started()
    await router.decide(call("four"))

    def no_task(*arguments: Any, **options: Any) -> None:
        raise AssertionError("a task was made")

    monkeypatch.setattr(asyncio, "create_task", no_task)
    monkeypatch.setattr(asyncio, "gather", no_task)
    assert (await router.decide(call("four"))).cause is Cause.CACHE


async def test_the_hardest_of_several_texts_decides() -> None:
    router, _ = await started()
    assert await router.decide(call("a", "sixsix", "bb")) == Decision(LARGE, Cause.SCORE, 6.0)
    assert await router.decide(call("a", "ccc")) == Decision(SMALL, Cause.SCORE, 3.0)
    assert await router.decide(call("a", "bb")) == Decision(SMALL, Cause.CACHE, 2.0)


async def test_a_forced_tier_is_not_scored() -> None:
    router, lengths = await started()
    assert await router.decide(call("x", forced=(LARGE, Cause.HEADER))) == Decision(LARGE, Cause.HEADER)
    assert lengths.encoded == []


@pytest.mark.parametrize("text", ["fail", "nan"])
async def test_a_prompt_that_can_t_be_scored_goes_large(text: str, caplog: pytest.LogCaptureFixture) -> None:
    router, _ = await started()
    assert await router.decide(call(text)) == Decision(LARGE, Cause.UNSCORED)
    assert "scoring failed" in caplog.text


async def test_while_it_loads_it_says_so() -> None:
    for decide in (build_router(RouterConfig()).decide, build_router(RouterConfig()).look):
        with pytest.raises(TierUnavailable, match="the router is loading"):
            await decide(call("x"))


async def test_prompts_of_one_moment_that_are_equal_are_encoded_once_also_when_the_first_caller_goes_away() -> None:
    router, lengths = await started()
    lengths.go.clear()
    first, *others = [asyncio.create_task(router.decide(call("four"))) for _ in range(5)]
    await asyncio.sleep(0.05)
    first.cancel()
    lengths.go.set()
    assert {decision.role for decision in await asyncio.gather(*others)} == {SMALL}
    assert lengths.encoded == ["four"]
    await router.close()


async def test_a_router_that_closes_leaves_no_score_waiting() -> None:
    router, lengths = await started()
    lengths.go.clear()
    waiting = asyncio.create_task(router.decide(call("four")))
    await asyncio.sleep(0.05)
    await router.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    lengths.go.set()


# Conversations: `talk` is a session, whose turns all look and are kept at one place.
TALK = Conversation(b"talk", (b"talk",))


def turn(text: str, forced: Any = None) -> Call:
    return call(text, forced=forced, conversation=TALK)


async def test_a_short_follow_up_stays_where_its_conversation_is() -> None:
    router, lengths = await started()
    await router.decide(turn("sum"))
    assert await router.decide(turn("and then?")) == Decision(SMALL, Cause.FOLLOW_UP)
    assert lengths.encoded == ["sum"]
    await router.decide(turn("a prompt that is long enough for a ten"))
    assert await router.decide(turn("yes")) == Decision(LARGE, Cause.FOLLOW_UP)


async def test_a_conversation_that_was_sent_up_stays_up() -> None:
    router, lengths = await started(conversations={"short_follow_up_chars": 0})
    await router.decide(turn("seventy"))
    for text in ("abc", "d"):
        assert await router.decide(turn(text)) == Decision(LARGE, Cause.CONVERSATION)
    assert lengths.encoded == ["seventy"]
    assert (await router.decide(call("abc"))).role is SMALL, "only that conversation"


async def test_a_turn_that_ends_late_does_not_take_its_conversation_down() -> None:
    router, lengths = await started(conversations={"short_follow_up_chars": 0})
    lengths.go.clear()
    hard, easy = (asyncio.create_task(router.decide(turn(text))) for text in ("what is hard", "easy"))
    await asyncio.sleep(0.05)
    lengths.go.set()
    assert [(await task).role for task in (hard, easy)] == [LARGE, SMALL]
    assert await router.decide(turn("four")) == Decision(LARGE, Cause.CONVERSATION)


async def test_short_and_first_is_no_follow_up() -> None:
    router, _ = await started()
    assert (await router.decide(turn("yes"))).cause is Cause.SCORE


async def test_what_was_forced_neither_sends_a_conversation_up_nor_takes_it_down() -> None:
    router, _ = await started(conversations={"short_follow_up_chars": 0})
    await router.decide(turn("abc", forced=(LARGE, Cause.MODEL)))
    assert (await router.decide(turn("abc"))).role is SMALL
    await router.decide(turn("seventy"))
    await router.decide(turn("abc", forced=(SMALL, Cause.HEADER)))
    assert (await router.decide(turn("abc"))).role is LARGE


async def test_what_is_known_passes_on_through_a_forced_turn() -> None:
    router, _ = await started()
    await router.decide(call("seventy", conversation=Conversation(b"1")))
    forced = call("abc", forced=(SMALL, Cause.MODEL), conversation=Conversation(b"2", (b"1",)))
    await router.decide(forced)
    assert (await router.decide(call("abc", conversation=Conversation(b"3", (b"2",))))).role is LARGE


async def test_a_conversation_beyond_the_small_tier_s_context_stays_up_and_one_that_failed_over_does_not() -> None:
    router, _ = await started(conversations={"short_follow_up_chars": 0})
    decision = await router.decide(turn("abc"))
    router.settle(turn("abc"), replace(decision, role=LARGE, cause=Cause.FAILOVER))
    assert (await router.decide(turn("abc"))).role is SMALL
    router.settle(turn("abc"), replace(decision, role=LARGE, cause=Cause.CONTEXT))
    assert await router.decide(turn("abc")) == Decision(LARGE, Cause.CONVERSATION)


@pytest.mark.parametrize("ask", ["decide", "look"])
async def test_a_tier_that_can_t_answer_is_decided_around(ask: str) -> None:
    router, _ = await started()
    decide = getattr(router, ask)
    assert await decide(call("seventy"), lambda: Load(large=None)) == Decision(SMALL, Cause.FAILOVER, 7.0)
    assert await decide(call("four"), lambda: Load(small=None)) == Decision(LARGE, Cause.FAILOVER, 4.0)
    assert await decide(call("four"), lambda: Load(large=None)) == Decision(SMALL, Cause.CACHE, 4.0) or ask == "look"
    assert (await decide(call("seventy"), lambda: Load(None, None))).role is LARGE, "nobody is better off elsewhere"
    forced = call("four", forced=(SMALL, Cause.MODEL))
    assert await decide(forced, lambda: Load(small=None)) == Decision(SMALL, Cause.MODEL)


async def test_a_conversation_does_not_stay_where_it_failed_over_to() -> None:
    router, _ = await started()
    decision = await router.decide(turn("abc"), lambda: Load(small=None))
    assert decision == Decision(LARGE, Cause.FAILOVER, 3.0)
    router.settle(turn("abc"), decision)
    assert await router.decide(turn("yes")) == Decision(SMALL, Cause.FOLLOW_UP)


async def test_without_conversations_each_prompt_goes_by_its_own_score() -> None:
    router, _ = await started(conversations=None)
    await router.decide(turn("seventy"))
    assert (await router.decide(turn("yes"))).role is SMALL


# The load
BUSY = Queue(waiting=5, has_room=False)
LOAD = {"large_queue": 4, "small_queue": 4, "band": 1.0}


@pytest.mark.parametrize(
    ("text", "load", "expected"),
    [
        ("fives", Load(large=BUSY), Decision(SMALL, Cause.LOAD, 5.0)),
        ("sixsix", Load(large=BUSY), Decision(LARGE, Cause.SCORE, 6.0)),
        ("four", Load(small=BUSY), Decision(LARGE, Cause.LOAD, 4.0)),
        ("xx", Load(small=BUSY), Decision(SMALL, Cause.SCORE, 2.0)),
        ("four", Load(large=BUSY), Decision(SMALL, Cause.SCORE, 4.0)),
        ("fives", Load(BUSY, BUSY), Decision(LARGE, Cause.SCORE, 5.0)),
        ("four", Load(BUSY, BUSY), Decision(SMALL, Cause.SCORE, 4.0)),
    ],
)
async def test_a_prompt_near_the_threshold_goes_where_there_is_room(text: str, load: Load, expected: Decision) -> None:
    router, _ = await started(load=LOAD)
    assert await router.decide(call(text), lambda: load) == expected
    idle, _ = await started()
    assert (await idle.decide(call(text), lambda: load)).cause is Cause.SCORE, "off by default"


async def test_a_conversation_that_only_the_load_sent_up_may_come_down() -> None:
    router, _ = await started(load=LOAD, conversations={"short_follow_up_chars": 0})
    assert (await router.decide(turn("four"), lambda: Load(small=BUSY))).role is LARGE
    assert (await router.decide(turn("abc"))).role is SMALL


# The threshold that moves
SHARE = {"target_large_share": 0.25, "conversations": None}


async def test_the_share_is_held_where_all_prompts_score_alike() -> None:
    router, _ = await started(**SHARE)
    roles = [(await router.decide(call("seventy"))).role for _ in range(1000)]
    assert roles[200:].count(LARGE) == pytest.approx(200, abs=10)
    assert router.threshold == 7


async def test_cached_scores_follow_the_threshold_as_it_moves() -> None:
    router, _ = await started(**SHARE)
    assert (await router.decide(call("fives"))).role is LARGE
    for _ in range(100):
        await router.decide(call("eighteig"))
        await router.decide(call("sevenxx"))
    assert await router.decide(call("fives")) == Decision(SMALL, Cause.CACHE, 5.0)


async def test_what_is_forced_moves_no_threshold_and_what_a_conversation_keeps_up_does() -> None:
    router, _ = await started(target_large_share=0.25)
    for _ in range(200):
        await router.decide(call("seventy", forced=(LARGE, Cause.MODEL)))
    assert router.threshold == 4
    await router.decide(turn("eighteig"))
    roles = []
    for number in range(1200):
        if number % 5 == 0:
            assert (await router.decide(turn("a long text, so that it is no follow-up"))).role is LARGE
            roles.append(LARGE)
        else:
            roles.append((await router.decide(call("x" * (number % 7 + 1)))).role)
    assert roles[200:].count(LARGE) == pytest.approx(250, abs=20)


async def test_what_the_load_moved_counts_as_its_score_said() -> None:
    router, _ = await started(target_large_share=0.25, load={"large_queue": 0, "band": 10})
    for number in range(400):
        decision = await router.decide(call("x" * (number % 10 + 1)), lambda: Load(large=BUSY))
        assert decision.role is SMALL
    assert 7 <= router.threshold <= 8


async def test_a_look_is_the_same_decision_and_leaves_no_trace() -> None:
    router, _ = await started(**SHARE | {"conversations": {}})
    for number in range(100):
        await router.decide(call("x" * (number % 10 + 1)))
    before, counts = router.threshold, (router.cache_hits, router.cache_misses)
    for _ in range(300):
        assert await router.look(call("x" * 10)) == Decision(LARGE, Cause.CACHE, 10.0)
        assert (await router.look(turn("a new text"))).cause is Cause.SCORE
    assert (await router.look(turn("yes"))).cause is Cause.SCORE, "the conversation was not kept"
    assert router.threshold == before
    assert (router.cache_hits, router.cache_misses) == counts
    await router.decide(turn("x" * 10))
    assert await router.look(turn("yes")) == await router.decide(turn("yes")) == Decision(LARGE, Cause.FOLLOW_UP)


async def test_the_real_router_decides_many_at_once_as_one_by_one() -> None:
    router = build_router(RouterConfig())
    await router.start()
    texts = ["What is Python?", "Design a rate limiter with sliding window and token bucket", "hi", "\U0001f600\x00"]
    together = await asyncio.gather(*(router.decide(call(text)) for text in texts))
    assert [decision.role for decision in together[:2]] == [SMALL, LARGE]
    again = [await router.decide(call(text)) for text in texts]
    assert [decision.score for decision in again] == [decision.score for decision in together]
    assert {decision.cause for decision in again} == {Cause.CACHE}
    await router.close()


async def test_the_nearest_are_those_of_the_head(encoder: SentenceEncoder) -> None:
    head = Head.load(DEFAULT)
    router = Router(lambda: (encoder, head), build_policy(RouterConfig()))
    with pytest.raises(TierUnavailable):
        await router.nearest(Prompt("hi"), 3)
    await router.start()
    known = str(head.example_texts[7])
    nearest = await router.nearest(Prompt(known), 3)
    assert len(nearest) == 3
    assert (nearest[0].text, nearest[0].hard) == (known, bool(head.example_hard[7]))
    assert nearest[0].cosine == pytest.approx(1, abs=0.01)
    assert router.cache_misses == 0  # looking leaves no trace
    await router.close()


async def test_a_scorer_without_examples_knows_no_nearest() -> None:
    router, _ = await started()
    assert await router.nearest(Prompt("hi"), 3) == []
    await router.close()
