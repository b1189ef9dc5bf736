"""Comparisons beside callers, over scripted tiers: who is drawn, when it is asked, and when it gives way."""

import asyncio
import json
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Any

import numpy as np
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.server.running import until
from tests.test_pipeline import HARD, SIMPLE, word_router
from tierserve.config import AdmissionConfig, RemoteConfig, ShadowConfig
from tierserve.core import Call, Caller, Cause, Decision, Kind, Outcome, Prompt, Role, Sent, Status, Usage
from tierserve.errors import ConfigError, TierUnavailable
from tierserve.pipeline import Answer, Pipeline
from tierserve.quality.shadow.shadow import Shadow, build_shadow
from tierserve.telemetry.decisions.rows import Comparison
from tierserve.telemetry.metrics import Metrics
from tierserve.tiers.admission import Admission
from tierserve.tiers.base import Listener, Reply
from tierserve.tiers.pair import TierPair
from tierserve.tiers.remote import RemoteTier
from tierserve.tiers.scripted import ScriptedTier, Step

Verdicts = list[list[Step]]


class Large(ScriptedTier):
    """Answers callers with `script`, comparisons with `says`, and judges with `verdicts`, in turn."""

    def __init__(self, slots: int | None = 4) -> None:
        super().__init__("l", slots=slots)
        self.says: list[Step] = ["Good", " day"]
        self.verdicts: Verdicts = [["B"], ["A"]]

    async def generate(self, call: Call, listener: Listener | None = None) -> Reply:
        if not call.background:
            return await super().generate(call, listener)
        kept, self.script = self.script, self.verdicts.pop(0) if call.id.startswith("judge-") else self.says
        generating = asyncio.create_task(super().generate(call, listener))
        await asyncio.sleep(0)  # the script is read when it begins
        self.script = kept
        try:
            return await generating
        finally:
            generating.cancel()

    @property
    def asked(self) -> list[str]:
        """In the background."""
        return [call.id for call in self.calls if call.background]

    @property
    def callers(self) -> int:
        return len(self.calls) - len(self.asked)


class Bench:
    def __init__(self, share_device: bool = False, judge: RemoteTier | None = None, **options: Any) -> None:
        self.small, self.large, self.router = ScriptedTier("s", ["Hello"]), Large(), word_router()
        self.pair = TierPair(self.small, self.large, one_by_one=share_device)
        self.admission = Admission(self.pair, AdmissionConfig())
        self.compared: list[Comparison] = []
        self.seconds: list[float] = []
        self.outcomes: list[Outcome] = []
        self.now = 0.0
        self.shadow = Shadow(
            ShadowConfig(**{"share": 1.0, **options}),
            self.admission,
            self.pair,
            self._embed,
            judge,
            self.compared.append,
            self.seconds.append,
            clock=lambda: self.now,
            rng=random.Random(1),
        )
        self.pipeline = Pipeline(self.router, self.pair, self._record, admission=self.admission, draw=self.shadow.draws)

    async def _embed(self, text: str) -> Any:
        return np.array([1, 0] if text == "Hello" else [0.6, 0.8], dtype=np.float32)

    def _record(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        self.shadow.record(outcome)

    async def ask(self, text: str = SIMPLE, stream: bool = False, id: str = "id", **options: Any) -> Answer:
        body = {"messages": [{"role": "user", "content": text}]}
        return await self.pipeline.answer(Call(id, Kind.CHAT, body, (Prompt(text),), stream, **options))

    async def settled(self, count: int = 1) -> dict[str, int]:
        """What became of the samples, once so many are done."""
        await until(lambda: self.shadow.counts.total() >= count)
        assert self.shadow.counts.total() == count
        return dict(self.shadow.counts)


@asynccontextmanager
async def running(**options: Any) -> AsyncIterator[Bench]:
    bench = Bench(**options)
    await bench.router.start()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(bench.router.close)
        for tier in bench.pair:
            await tier.start()
        async with bench.shadow.running():
            yield bench
    assert bench.small.running == bench.large.running == 0, "a slot was not freed"
    assert bench.admission.lend(Role.LARGE, lambda: None), "a slot that was lent did not come back"


@pytest.mark.parametrize("stream", [False, True])
async def test_the_large_tier_answers_the_same_and_the_pair_is_judged_in_both_orders(stream: bool) -> None:
    async with running() as bench:
        answer = await bench.ask(stream=stream)
        if answer.events is not None:
            async with aclosing(answer.events):
                events = [event async for event in answer.events]
            assert len(events) == 2, "the caller gets what the caller gets"
        assert await bench.settled() == {"large": 1}
        assert bench.large.asked == ["shadow-id", "judge-id-1", "judge-id-2"]
        assert bench.large.calls[0].body == {"messages": [{"role": "user", "content": SIMPLE}], "max_tokens": 512}
    (comparison,) = bench.compared
    assert (comparison.small_answer, comparison.large_answer) == ("Hello", "Good day")
    assert (comparison.verdict, comparison.first_order, comparison.second_order) == ("large", "large", "large")
    assert (comparison.request_id, comparison.small_tier, comparison.large_tier) == ("id", "s", "l")
    assert comparison.similarity == pytest.approx(0.6)
    assert comparison.score == 3.0
    assert len(bench.seconds) == 1


async def test_orders_that_disagree_are_a_tie() -> None:
    async with running() as bench:
        bench.large.verdicts = [["A"], ["A"]]
        await bench.ask()
        assert await bench.settled() == {"tie": 1}
    (comparison,) = bench.compared
    assert (comparison.verdict, comparison.first_order, comparison.second_order) == ("tie", "small", "large")


async def test_of_the_same_answer_there_is_nothing_to_judge() -> None:
    async with running() as bench:
        bench.large.says = ["Hello", "\n"]
        await bench.ask()
        assert await bench.settled() == {"tie": 1}
        assert bench.large.asked == ["shadow-id"]
    (comparison,) = bench.compared
    assert (comparison.first_order, comparison.judge_ms) == (None, None)


async def test_other_answers_are_left_alone() -> None:
    async with running() as bench:
        await bench.ask(HARD)
        await bench.ask(forced=(Role.SMALL, Cause.MODEL))
        await bench.ask(caller=Caller("app", tiers=frozenset({Role.SMALL})))
        bench.small.script = ["Hel", TierUnavailable("gone")]
        broken = await bench.ask(stream=True)
        assert broken.events is not None
        async with aclosing(broken.events):
            assert [event async for event in broken.events]
        left = await bench.ask(stream=True)
        assert left.events is not None
        await left.events.aclose()
        assert [outcome.drawn for outcome in bench.outcomes] == [False, False, False, True, True]
        assert bench.outcomes[3].status is Status.ERROR and bench.outcomes[4].status is Status.CANCELLED
        bench.small.script = ["Hello"]
        await bench.ask(id="last")
        await bench.settled()
        assert bench.large.asked[0] == "shadow-last"


async def test_only_those_that_are_drawn_keep_what_was_sent() -> None:
    async with running(share=0.25, per_hour=10_000) as bench:
        bench.large.says = ["Hello"]
        for _ in range(400):
            await bench.ask()
        assert all((outcome.sent is not None) is outcome.drawn for outcome in bench.outcomes)
        assert 70 < sum(outcome.drawn for outcome in bench.outcomes) < 130


async def test_no_more_than_so_many_in_an_hour() -> None:
    async with running(per_hour=2) as bench:
        bench.large.says = ["Hello"]
        for number in range(4):
            await bench.ask(id=str(number))
            await asyncio.sleep(0.01)
        assert bench.large.asked == ["shadow-0", "shadow-1"]
        assert [outcome.drawn for outcome in bench.outcomes] == [True, True, False, False]
        bench.now = 3600
        await bench.ask(id="later")
        assert await bench.settled(3) == {"tie": 3}


async def test_what_was_drawn_beyond_the_hour_s_number_is_dropped() -> None:
    async with running(per_hour=1) as bench:
        gate = asyncio.Event()
        bench.large.says = [gate, "Hello"]
        await bench.ask()
        await bench.ask()  # drawn before the first is begun
        gate.set()
        assert await bench.settled(2) == {"tie": 1, "dropped": 1}


async def test_so_is_what_finds_the_queue_full() -> None:
    async with running(queue=2) as bench:
        gate = asyncio.Event()
        bench.large.says = [gate, "Hello"]
        await bench.ask()
        await until(lambda: bench.large.running)
        for _ in range(5):
            await bench.ask()
        assert dict(bench.shadow.counts) == {"dropped": 3}
        gate.set()
        assert await bench.settled(6) == {"dropped": 3, "tie": 3}


async def test_and_what_the_large_tier_makes_too_long() -> None:
    async with running() as bench:
        bench.large.says = ["Good", " day"]
        body = json.dumps({"choices": [{"message": {"content": "Good"}, "finish_reason": "length"}]})

        async def cut_off(call: Call, listener: Listener | None = None) -> Reply:
            return Reply(body.encode())

        bench.large.generate = cut_off  # type: ignore[method-assign]
        await bench.ask()
        assert await bench.settled() == {"dropped": 1}


async def hold(bench: Bench, count: int) -> "list[asyncio.Task[Answer]]":
    """Callers who have as many of the large tier's slots."""
    bench.large.script = [asyncio.Event(), "never"]
    before = bench.large.callers
    asked = [asyncio.create_task(bench.ask(HARD)) for _ in range(count)]
    await until(lambda: bench.large.callers == before + count)
    return asked


async def end(asked: "list[asyncio.Task[Answer]]") -> None:
    for task in asked:
        task.cancel()
    await asyncio.gather(*asked, return_exceptions=True)


async def test_it_waits_until_a_slot_would_be_left_free() -> None:
    async with running() as bench:
        asked = await hold(bench, 3)  # of 4
        await bench.ask()
        await asyncio.sleep(0.15)
        assert bench.large.asked == [] and not bench.shadow.counts
        await end(asked[:1])
        assert await bench.settled() == {"large": 1}
        await end(asked)


async def test_it_gives_way_when_a_caller_would_take_the_last_free_slot() -> None:
    async with running() as bench:
        bench.large.says = [asyncio.Event(), "never"]
        await bench.ask()
        await until(lambda: bench.large.running == 1)
        asked = await hold(bench, 2)
        await asyncio.sleep(0.1)
        assert not bench.shadow.counts, "of 4 slots one is free still"
        asked += await hold(bench, 1)
        assert await bench.settled() == {"aborted": 1}
        assert bench.large.running == 3
        assert bench.admission.waiting(Role.LARGE) == {}, "nobody had to wait"
        await end(asked)


async def test_a_slot_that_is_lent_keeps_no_caller_waiting() -> None:
    """All at once, so that the comparison has had no chance to give way yet."""
    async with running() as bench:
        bench.large.says = [asyncio.Event(), "never"]
        await bench.ask()
        await until(lambda: bench.large.running == 1)
        places = [bench.admission.place(Call("id", Kind.CHAT, {}, (Prompt(HARD),))) for _ in range(4)]
        for place in places:
            place.arrive()
            bench.admission.queue(place, Role.LARGE)
        assert [place.let_in for place in places] == [None] * 4
        assert await bench.settled() == {"aborted": 1}
        for place in places:
            place.leave()


async def test_it_gives_way_when_callers_wait_within_the_engine() -> None:
    async with running() as bench:
        bench.large.says = [asyncio.Event(), "never"]
        await bench.ask()
        await until(lambda: bench.large.running == 1)
        bench.large.slots = 0  # as when the KV cache is full: what it works on waits
        assert await bench.settled() == {"aborted": 1}
        bench.large.slots = 4


async def test_on_a_shared_device_it_gives_way_to_whoever_comes() -> None:
    async with running(share_device=True) as bench:
        bench.large.says = [asyncio.Event(), "never"]
        await bench.ask()
        await until(lambda: bench.large.running == 1)
        await bench.ask(caller=Caller("other", tiers=frozenset({Role.SMALL})))
        assert await bench.settled() == {"aborted": 1}


async def test_on_a_shared_device_it_waits_for_a_gap() -> None:
    async with running(share_device=True) as bench:
        bench.small.script = [gate := asyncio.Event(), "Hello"]
        working = asyncio.create_task(bench.ask(forced=(Role.SMALL, Cause.MODEL)))
        await until(lambda: bench.small.running)
        bench.small.script = ["Hello"]
        await bench.ask()
        await asyncio.sleep(0.15)
        assert bench.large.asked == []
        gate.set()
        await working
        assert await bench.settled() == {"large": 1}


async def test_a_judge_that_talks_nonsense_gives_no_verdict(caplog: pytest.LogCaptureFixture) -> None:
    async with running() as bench:
        for number in (1, 2):
            bench.large.verdicts = [["Both have merits"]]
            await bench.ask()
            assert await bench.settled(number) == {"failed": number}
        assert bench.compared == []
        warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        assert warnings == ["the tiers' answers could not be compared: the judge gave no verdict"]


async def test_what_fails_is_counted_and_the_next_one_is_compared() -> None:
    async with running() as bench:
        for number, error in enumerate((TierUnavailable("gone"), RuntimeError("a fault")), start=1):
            bench.large.says = [error]
            await bench.ask()
            assert await bench.settled(number) == {"failed": number}
        bench.large.says = ["Hello"]
        await bench.ask()
        assert await bench.settled(3) == {"failed": 2, "tie": 1}


async def test_nothing_is_drawn_while_the_large_tier_is_away() -> None:
    async with running() as bench:
        await bench.large.stop()
        await bench.ask()
        assert not bench.outcomes[0].drawn
        await bench.large.start()


async def test_the_end_of_the_node_ends_it_in_the_middle() -> None:
    async with running() as bench:
        bench.large.says = [asyncio.Event(), "never"]
        await bench.ask()
        await until(lambda: bench.large.running == 1)
        await bench.ask()
        await bench.ask()
    assert dict(bench.shadow.counts) == {"aborted": 1, "dropped": 2}
    late = Outcome(Call("late", Kind.CHAT, {}, ()), Status.OK, Decision(Role.SMALL, Cause.SCORE), "s", Usage())
    late.drawn, late.sent = True, Sent()
    bench.shadow.record(late)
    assert bench.shadow.counts.total() == 3, "afterwards nothing is taken on"


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def elsewhere(answer: Handler) -> AsyncIterator[RemoteTier]:
    app = web.Application()
    models = {"data": [{"id": "referee"}]}

    async def known(request: web.Request) -> web.Response:
        return web.json_response(models)

    app.add_routes([web.get("/v1/models", known), web.post("/v1/chat/completions", answer)])
    async with TestServer(app) as server:
        config = RemoteConfig(url=str(server.make_url("/v1")), model="referee")
        yield RemoteTier("judge", config, "shadow.judge")


async def test_another_server_may_judge() -> None:
    asked: list[dict[str, Any]] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(await request.json())
        text = json.dumps({"verdict": "A" if len(asked) == 1 else "B"})
        return web.json_response({"choices": [{"index": 0, "message": {"content": text}, "finish_reason": "stop"}]})

    async with elsewhere(answer) as judge, running(judge=judge) as bench:
        await bench.ask()
        assert await bench.settled() == {"small": 1}
        assert bench.large.asked == ["shadow-id"]
    assert [body["model"] for body in asked] == ["referee", "referee"]
    assert bench.compared[0].verdict == "small"


async def test_a_judge_that_is_away_is_looked_for_again() -> None:
    there = False

    async def answer(request: web.Request) -> web.Response:
        if not there:
            return web.json_response({"error": {"message": "down"}}, status=500)
        return web.json_response({"choices": [{"index": 0, "message": {"content": "tie"}, "finish_reason": "stop"}]})

    async with elsewhere(answer) as judge, running(judge=judge) as bench:
        await bench.ask()
        assert await bench.settled() == {"failed": 1}
        there = True
        await bench.ask()
        assert await bench.settled(2) == {"failed": 1, "tie": 1}


async def test_nobody_is_harmed_by_a_judge_that_was_never_there(unused_tcp_port: int) -> None:
    config = RemoteConfig(url=f"http://127.0.0.1:{unused_tcp_port}/v1", model="referee")
    async with running(judge=RemoteTier("judge", config, "shadow.judge")) as bench:
        await bench.ask()
        assert await bench.settled() == {"failed": 1}


def test_a_judge_s_key_that_is_missing_is_said_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REFEREE_KEY", raising=False)
    bench = Bench()
    config = ShadowConfig(judge=RemoteConfig(url="http://h/v1", model="m", api_key_env="REFEREE_KEY"))
    with pytest.raises(ConfigError, match=r"shadow\.judge\.api_key_env"):
        build_shadow(config, bench.admission, bench.pair, bench.router.embed, None)
    assert build_shadow(None, bench.admission, bench.pair, bench.router.embed, None) is None


async def test_metrics_tell_what_became_of_the_samples() -> None:
    metrics = Metrics(["s", "l"])
    assert b'tierserve_shadow_total{result="tie"} 0.0' in metrics.render([])
    async with running() as bench:
        bench.shadow.observe = metrics.watch_shadow(bench.shadow.counts)
        await bench.ask()
        await bench.settled()
    text = metrics.render([])
    assert b'tierserve_shadow_total{result="large"} 1.0' in text
    assert b'tierserve_shadow_total{result="aborted"} 0.0' in text
    assert b"tierserve_shadow_seconds_count 1.0" in text


async def test_numbers_can_change_meanwhile() -> None:
    async with running(per_hour=1) as bench:
        bench.large.says = ["Hello"]
        await bench.ask()
        await bench.settled()
        await bench.ask()
        assert not bench.outcomes[-1].drawn
        bench.shadow.renew(ShadowConfig(share=1.0, per_hour=2))
        await bench.ask()
        assert await bench.settled(2) == {"tie": 2}
