"""When the service manager is told what: over a real socket, scripted tiers, and a clock that the test moves."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.test_notify import Heard
from tierserve.server import supervision
from tierserve.server.notify import Manager
from tierserve.server.supervision import Supervision
from tierserve.tiers.base import TierState
from tierserve.tiers.scripted import ScriptedTier


class Bench:
    def __init__(self, heard: Heard, watchdog_s: float | None = None) -> None:
        self.heard = heard
        self.now = 0.0
        self.router_ready = False
        self.in_flight = 0
        self.small, self.large = ScriptedTier("s"), ScriptedTier("l")
        self.supervision = Supervision(
            Manager(heard.address, watchdog_s),
            lambda: self.router_ready,
            [self.small, self.large],
            [self.small],
            lambda: self.in_flight,
            load_s=100,
            clock=lambda: self.now,
        )

    def up(self) -> None:
        self.router_ready = True
        self.small.state = self.large.state = TierState.READY
        self.supervision.serve()


@pytest.fixture
def heard(tmp_path: Path) -> Iterator[Heard]:
    heard = Heard(str(tmp_path / "notify"))
    yield heard
    heard.socket.close()


@pytest.fixture
def bench(heard: Heard, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr(supervision, "_TICK_S", 0.001)
    return Bench(heard, watchdog_s=0.002)


async def came(heard: Heard, wanted: str) -> list[str]:
    """Everything up to the message that is waited for."""
    seen: list[str] = []
    while wanted not in seen:
        await asyncio.sleep(0.001)
        seen += heard.messages()
    return seen


def test_the_status_says_what_the_node_is_doing(heard: Heard) -> None:
    bench = Bench(heard)
    say = bench.supervision.status
    assert say() == "loading: the router"
    bench.router_ready = True
    bench.small.state, bench.small.waiting_for = TierState.LOADING, "the engine's processes"
    assert say() == "loading: s is loading (the engine's processes)"
    bench.up()
    assert say() == "ready: s, l"
    bench.large.state = TierState.FAILED
    assert say() == "degraded: l is failed"
    bench.large.state, bench.large.waiting_for = TierState.LOADING, "its 2nd attempt"
    assert say() == "degraded: l is loading (its 2nd attempt)"
    bench.supervision.drain()
    bench.in_flight = 1
    assert say() == "draining: 1 request in flight"
    bench.supervision.end()
    assert say() == "ending"


def test_ready_is_said_when_everything_is_up_and_stopping_when_the_end_begins(heard: Heard) -> None:
    bench = Bench(heard)
    bench.up()
    bench.in_flight = 2
    bench.supervision.drain()
    assert heard.messages() == [
        "READY=1\nSTATUS=ready: s, l",
        "STOPPING=1\nSTATUS=draining: 2 requests in flight",
    ]


async def test_loading_asks_for_time_until_its_limit_and_draining_asks_again(bench: Bench) -> None:
    more = "EXTEND_TIMEOUT_USEC=30000000"
    async with bench.supervision.running():
        await came(bench.heard, more)
        bench.now = 5
        await came(bench.heard, more)
        bench.now = 71  # with 30 s more it would be past 100
        bench.small.state, bench.small.waiting_for, bench.router_ready = TierState.LOADING, "ever", True
        assert more not in await came(bench.heard, "STATUS=loading: s is loading (ever)")
        bench.up()
        bench.now = 80
        bench.large.state = TierState.FAILED
        assert more not in await came(bench.heard, "STATUS=degraded: l is failed")
        bench.supervision.drain()
        await came(bench.heard, more)


async def test_the_watchdog_starves_while_an_engine_stands_failed(bench: Bench) -> None:
    bench.up()
    async with bench.supervision.running():
        await came(bench.heard, "WATCHDOG=1")
        bench.large.state = TierState.FAILED  # a server elsewhere: no reason to start this node again
        await came(bench.heard, "STATUS=degraded: l is failed")
        bench.now = 60
        await came(bench.heard, "WATCHDOG=1")
        bench.small.state = TierState.FAILED
        await came(bench.heard, "STATUS=degraded: s is failed; l is failed")
        bench.now += 4.9  # it may yet be brought back
        assert bench.supervision.well()
        bench.now += 0.2
        assert not bench.supervision.well()
        bench.heard.messages()
        bench.large.state = TierState.READY
        assert "WATCHDOG=1" not in await came(bench.heard, "STATUS=degraded: s is failed")
        bench.small.state = TierState.LOADING  # somebody is at it
        await came(bench.heard, "WATCHDOG=1")
