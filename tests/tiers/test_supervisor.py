"""Engines that die, hang, and do not come up again at once: what is rebuilt, and when the node gives up."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.server.running import until
from tierserve.config import FaultsConfig
from tierserve.core import Failure, Role
from tierserve.errors import TierStartError, TierUnavailable
from tierserve.tiers.base import Pulse, TierState
from tierserve.tiers.pair import TierPair
from tierserve.tiers.scripted import ScriptedTier
from tierserve.tiers.supervisor import Stall, Supervisor, backoff_s

_AT_ONCE = {"hang_s": 60, "check_s": 60, "backoff_s": 0.001, "backoff_max_s": 0.004}


class Fragile(ScriptedTier):
    """A tier with an engine that a test can break. `builds`: what becomes of each build, the last for ever."""

    def __init__(self, name: str, diary: list[str]) -> None:
        super().__init__(name)
        self.diary = diary
        self.beat = Pulse()
        self.builds: list[Exception | asyncio.Event | None] = [None]
        self.wellness: Exception | asyncio.Event | None = None
        self.checks = 0

    def pulse(self) -> Pulse:
        return self.beat

    async def check(self) -> None:
        self.checks += 1
        await _comes_to(self.wellness)

    async def tear_down(self, waiting_for: str) -> None:
        self.state, self.waiting_for = TierState.LOADING, waiting_for
        self.diary.append(f"{self.name} is torn down: {waiting_for}")
        self.beat = Pulse(steps=self.beat.steps)

    async def start(self) -> None:
        self.diary.append(f"{self.name} is built")
        try:
            await _comes_to(self.builds.pop(0) if len(self.builds) > 1 else self.builds[0])
        except BaseException:
            self.state = TierState.FAILED
            raise
        await super().start()
        self.diary.append(f"{self.name} is up")


async def _comes_to(what: Exception | asyncio.Event | None) -> None:
    if isinstance(what, Exception):
        raise what
    if what is not None:
        await what.wait()


class Ward:
    """Two such tiers and who watches them."""

    def __init__(self, **faults: float) -> None:
        self.diary: list[str] = []
        self.small, self.large = Fragile("s", self.diary), Fragile("l", self.diary)
        self.settled = 0
        self.pair = TierPair(self.small, self.large)
        config = FaultsConfig.model_validate(_AT_ONCE | faults)
        self.supervisor = Supervisor(config, self.pair, self._settle, tick_s=0.001)

    def _settle(self) -> None:
        self.settled += 1


@asynccontextmanager
async def ward(**faults: float) -> AsyncIterator[Ward]:
    watched = Ward(**faults)
    await watched.pair.start()
    watched.diary.clear()
    async with watched.supervisor.watching():
        yield watched


async def test_an_engine_that_died_is_torn_down_and_built_again_and_the_other_left_alone() -> None:
    async with ward() as room:
        seen: list[tuple[str, Failure]] = []
        room.supervisor.observe = lambda tier, reason: seen.append((tier, reason))
        room.large.state = TierState.FAILED
        await until(lambda: room.pair.ready)
        assert room.diary == [
            "l is torn down: its engine to be rebuilt after it died, try 1",
            "l is built",
            "l is up",
        ]
        assert seen == [("l", Failure.DIED)]
        await until(lambda: room.settled == 1)
        assert room.supervisor.restarts["l", Failure.DIED] == 1
        assert sum(room.supervisor.restarts.values()) == 1
        assert room.supervisor.down_s("l") > 0 == room.supervisor.down_s("s")
        down_s = room.supervisor.down_s("l")
        await asyncio.sleep(0.01)
        assert room.supervisor.down_s("l") == down_s, "the time stopped when it was up"


async def test_so_is_one_of_which_a_process_is_gone() -> None:
    async with ward() as room:
        room.small.beat = Pulse(gone=True)
        await until(lambda: room.diary and room.pair.ready)
        assert room.supervisor.restarts["s", Failure.DIED] == 1


async def test_one_that_has_requests_and_does_no_step_hangs() -> None:
    async with ward(hang_s=0.02) as room:
        room.small.beat = Pulse(unfinished=2, steps=7)
        await until(lambda: room.diary and room.pair.ready)
        assert room.diary[0] == "s is torn down: its engine to be rebuilt after it hung, try 1"
        assert room.supervisor.restarts["s", Failure.HUNG] == 1


async def test_one_without_requests_that_does_not_answer_whether_it_is_well_hangs() -> None:
    async with ward(hang_s=0.02, check_s=0.001) as room:
        await until(lambda: room.large.checks > 2)
        assert room.diary == [], "one that answers is left alone, however often it is asked"
        room.large.wellness = asyncio.Event()
        await until(lambda: room.diary)
        room.large.wellness = None
        await until(lambda: room.pair.ready)
        assert room.supervisor.restarts["l", Failure.HUNG] == 1


async def test_one_that_says_it_is_not_well_is_as_good_as_dead() -> None:
    async with ward(check_s=0.001) as room:
        room.large.wellness = TierUnavailable("a device is lost")
        await until(lambda: room.diary)
        room.large.wellness = None
        await until(lambda: room.pair.ready)
        assert room.supervisor.restarts["l", Failure.DIED] >= 1


async def test_a_build_that_fails_is_tried_again_and_each_try_says_its_number() -> None:
    async with ward() as room:
        room.large.builds = [TierStartError("no memory"), RuntimeError("a fault"), None]
        room.large.state = TierState.FAILED
        await until(lambda: room.pair.ready)
        tries = [line.rpartition(" ")[2] for line in room.diary if "torn down" in line]
        assert tries == ["1", "2", "3"]
        assert room.supervisor.restarts["l", Failure.DIED] == 1, "it died once"


async def test_a_build_that_takes_too_long_is_torn_down_and_tried_again() -> None:
    async with ward(rebuild_s=0.02) as room:
        room.large.builds = [asyncio.Event(), None]
        room.large.state = TierState.FAILED
        await until(lambda: room.pair.ready)
        assert [line.split(":")[0] for line in room.diary] == [
            *("l is torn down", "l is built", "l is torn down", "l is built"),
            "l is up",
        ]


async def test_while_it_is_rebuilt_the_tier_is_loading_and_says_why_and_the_node_is_able() -> None:
    async with ward() as room:
        go = asyncio.Event()
        room.large.builds = [go]
        room.large.state = TierState.FAILED
        await until(lambda: "l is built" in room.diary)
        assert room.large.state is TierState.LOADING
        assert room.large.waiting_for == "its engine to be rebuilt after it died, try 1"
        assert room.pair.able and not room.pair.ready
        assert room.pair.load()[Role.LARGE] is None
        go.set()
        await until(lambda: room.pair.ready)


async def test_two_that_died_are_torn_down_together_and_built_one_after_the_other() -> None:
    async with ward() as room:
        room.small.state = room.large.state = TierState.FAILED
        await until(lambda: room.pair.ready)
        built = [line for line in room.diary if "torn down" not in line]
        assert built in (
            ["s is built", "s is up", "l is built", "l is up"],
            ["l is built", "l is up", "s is built", "s is up"],
        )


async def test_who_ends_the_node_need_not_wait_for_a_rebuild() -> None:
    async with ward() as room:
        room.large.builds = [asyncio.Event()]
        room.large.state = TierState.FAILED
        await until(lambda: "l is built" in room.diary)
    assert room.large.state is TierState.FAILED


async def test_in_a_node_that_ends_a_hung_engine_is_ended_too_and_not_built_again() -> None:
    async with ward(hang_s=0.02) as room:
        room.supervisor.drain()
        room.small.beat = Pulse(unfinished=1, steps=7)
        await until(lambda: room.diary)
        room.large.state = TierState.FAILED
        await until(lambda: len(room.diary) == 2)
        await asyncio.sleep(0.02)
        assert all("is torn down" in line for line in room.diary)
    assert len(room.diary) == 2


async def test_with_no_tier_left_for_too_long_the_node_is_to_end() -> None:
    async with ward(exit_after_s=0.05) as room:
        room.small.builds = room.large.builds = [TierStartError("no memory")]
        room.small.state = TierState.FAILED
        await asyncio.sleep(0.15)
        assert not room.supervisor.gave_up.is_set(), "one tier can answer"
        room.large.state = TierState.FAILED
        await room.supervisor.gave_up.wait()


class Elsewhere(ScriptedTier):
    """A tier that can't be rebuilt, only asked."""

    answers = False
    asked = 0

    async def check(self) -> None:
        self.asked += 1
        if not self.answers:
            raise TierUnavailable("nobody there")
        self.state = TierState.READY


async def test_a_server_that_could_not_be_reached_is_asked_until_it_answers() -> None:
    large = Elsewhere("l")
    pair = TierPair(ScriptedTier("s"), large)
    supervisor = Supervisor(FaultsConfig.model_validate(_AT_ONCE), pair, tick_s=0.001)
    await pair.start()
    async with supervisor.watching():
        await asyncio.sleep(0.02)
        assert large.asked == 0, "one that is well is not asked"
        large.state = TierState.FAILED
        await until(lambda: large.asked > 2)
        assert large.state is TierState.FAILED
        large.answers = True
        await until(lambda: pair.ready)
        assert sum(supervisor.restarts.values()) == 0
        await until(lambda: supervisor.down_s("l") > 0)


def test_what_is_unfinished_and_does_not_grow_is_a_stall() -> None:
    stall = Stall(10)
    assert not stall.see(unfinished=1, done=5, now=100)
    assert not stall.see(1, 5, 109)
    assert stall.see(1, 5, 110)
    assert not stall.see(1, 6, 111), "a step was done"
    assert stall.see(2, 6, 121)
    assert not stall.see(0, 6, 122), "nothing to do is no stall"
    assert not stall.see(1, 6, 140), "the time runs from when there was something to do"
    assert stall.see(1, 6, 150)


def test_the_first_try_comes_at_once_and_later_ones_ever_later() -> None:
    waits = [backoff_s(tries, 1.0, 5.0) for tries in range(6)]
    assert waits == [0, 1, 2, 4, 5, 5]
    assert backoff_s(10_000, 1.0, 60.0) == 60


@pytest.mark.parametrize("served_for_long", [True, False])
async def test_an_engine_that_dies_again_soon_is_waited_for_longer(served_for_long: bool) -> None:
    waits: list[int] = []

    class Noting(Supervisor):
        def _delay_s(self, tries: int) -> float:
            waits.append(tries)
            return 0

    small, large = Fragile("s", []), Fragile("l", [])
    pair = TierPair(small, large)
    ticks = itertools.count(step=100 if served_for_long else 0)
    config = FaultsConfig.model_validate(_AT_ONCE | {"hang_s": 1e9, "check_s": 1e9, "exit_after_s": 1e9})
    supervisor = Noting(config, pair, clock=lambda: float(next(ticks)), tick_s=0.001)
    await pair.start()
    async with supervisor.watching():
        for deaths in range(1, 4):
            large.state = TierState.FAILED
            await until(lambda deaths=deaths: len(waits) == deaths and pair.ready)  # type: ignore[misc]
    assert waits == ([0, 0, 0] if served_for_long else [0, 1, 2])
