"""When requests are sent, and that nobody is spared the waiting. The server shares the event loop with the client."""

import asyncio
import time
from typing import Any

import pytest
from loadgen import Closed, Endpoint, Load, Open, Plan, PlanError, Prompt, Trial, check, run
from loadgen.asking import Sample

from tests.loadgen.conftest import Server

PROMPTS = [Prompt.of(f"prompt {number}") for number in range(40)]


def plan(server: Server, load: Load, **fields: Any) -> Plan:
    return Plan(**{"endpoints": [Endpoint(server.url, "m")], "prompts": PROMPTS, "loads": [load]} | fields)


def asked(server: Server) -> list[str]:
    return [body["messages"][0]["content"] for body in server.bodies]


async def test_a_closed_loop_keeps_so_many_at_once_and_counts(server: Server) -> None:
    async def pause() -> None:
        await asyncio.sleep(0.01)

    server.pause = pause  # type: ignore[method-assign]
    (trial,) = await run(plan(server, Closed(4), count=30))
    assert len(trial.samples) == len(server.bodies) == 30
    assert server.most_running == 4
    assert not trial.warm_up and not trial.unfinished
    assert not any(sample.error for sample in trial.samples)
    assert trial.end_s == max(sample.end_s for sample in trial.samples)


async def test_an_open_loop_sends_what_is_due_whatever_is_unanswered(server: Server) -> None:
    """None is answered before all 30 have come: a closed loop would wait for ever."""
    all_here = asyncio.Event()

    async def pause() -> None:
        if server.running == 30:
            all_here.set()
        await all_here.wait()

    server.pause = pause  # type: ignore[method-assign]
    (trial,) = await run(plan(server, Open(300), count=30))
    assert len(trial.samples) == 30
    assert server.most_running == 30


async def test_a_duration_sends_what_was_due_in_it_and_no_more(server: Server) -> None:
    (trial,) = await run(plan(server, Open(100, poisson=False), seconds=0.3, warmup_s=0.2))
    assert len(trial.samples) == pytest.approx(30, abs=1)
    assert len(trial.warm_up) == pytest.approx(20, abs=1)
    assert len(server.bodies) == len(trial.samples) + len(trial.warm_up)
    assert trial.end_s == pytest.approx(trial.start_s + 0.3)


async def test_a_server_that_stalls_is_waited_for_by_all_who_were_due(server: Server) -> None:
    """No coordinated omission: the stall is in the time of each request that was due while it lasted."""
    freed = asyncio.Event()
    freed_s = 0.0

    async def pause() -> None:
        nonlocal freed_s
        if len(server.bodies) == 40 and not freed.is_set():
            freed_s = time.perf_counter()
            freed.set()
        await freed.wait()

    server.pause = pause  # type: ignore[method-assign]
    (trial,) = await run(plan(server, Open(200, poisson=False), count=60))
    assert len(trial.samples) == 60
    kept_waiting = [sample for sample in trial.samples if sample.due_s < freed_s]
    assert len(kept_waiting) >= 40
    assert all(sample.latency_s >= freed_s - sample.due_s for sample in kept_waiting)
    assert max(sample.latency_s for sample in trial.samples) >= 38 / 200  # the first waited for the fortieth


async def test_a_client_that_stalls_does_not_hide_it(server: Server) -> None:
    """The event loop is held up once: what was due meanwhile is sent late, and its time runs from when it was due."""

    async def pause() -> None:
        if len(server.bodies) == 10:
            time.sleep(0.3)  # noqa: ASYNC251  # to hold up the loop is the point

    server.pause = pause  # type: ignore[method-assign]
    (trial,) = await run(plan(server, Open(100, poisson=False), count=60))
    late = [sample for sample in trial.samples if sample.sent_s - sample.due_s > 0.05]
    assert len(late) >= 20
    assert all(sample.latency_s > 0.05 for sample in late)
    assert max(trial.client.lags_s) > 0.2


async def test_no_time_is_counted_from_after_the_request_was_sent(server: Server) -> None:
    (trial,) = await run(plan(server, Open(500), count=200))
    assert all(sample.due_s <= sample.sent_s <= sample.end_s for sample in trial.samples)


async def test_targets_take_turns_on_the_same_prompts(server: Server) -> None:
    endpoints = [Endpoint(server.url, "a", headers={"x-who": "a"}), Endpoint(server.url, "b", headers={"x-who": "b"})]
    trials = await run(plan(server, Closed(1), endpoints=endpoints, count=5, rounds=2))
    assert [trial.endpoint.name for trial in trials] == ["a", "b", "b", "a"]
    assert [headers["x-who"] for headers in server.headers] == ["a"] * 5 + ["b"] * 10 + ["a"] * 5
    prompts = asked(server)
    assert prompts[:5] == prompts[5:10] != prompts[10:15] == prompts[15:]
    assert len(set(prompts[:5])) == 5


async def test_stop_ends_it_with_what_was_measured(server: Server) -> None:
    stop = asyncio.Event()
    never = asyncio.Event()

    async def pause() -> None:
        if len(server.bodies) > 20:
            stop.set()
            await never.wait()

    server.pause = pause  # type: ignore[method-assign]
    endless = plan(server, Closed(2), seconds=3600.0, rounds=5)
    (trial,) = await asyncio.wait_for(run(endless, stop=stop), 60)
    assert len(trial.samples) >= 19
    assert 1 <= trial.unfinished <= 2
    assert trial.end_s - trial.start_s < 60


async def test_progress_is_told_of_every_request(server: Server) -> None:
    told: list[tuple[Trial, Sample]] = []
    (trial,) = await run(plan(server, Closed(3), count=12), lambda *each: told.append(each))
    assert [sample for _, sample in told] == trial.samples
    assert all(each is trial for each, _ in told)


async def test_failures_are_counted_and_not_waited_for(server: Server) -> None:
    (trial,) = await run(plan(server, Closed(2), endpoints=[Endpoint(server.url, "absent")], count=8))
    assert [sample.error for sample in trial.samples] == ["http 404"] * 8


async def test_what_keeps_a_server_from_answering_is_said_before_the_run(server: Server) -> None:
    await check(plan(server, Closed(1), count=1))
    with pytest.raises(PlanError, match="404 Not Found: .*there is no such model"):
        await check(plan(server, Closed(1), endpoints=[Endpoint(server.url, "absent")], count=1))
    with pytest.raises(PlanError, match="does not answer: Cannot connect"):
        await check(plan(server, Closed(1), endpoints=[Endpoint("http://127.0.0.1:1", "m")], count=1))
