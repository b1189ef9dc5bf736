"""Watches both tiers while the node serves. It knows no vLLM.

An engine that died, or hangs, is ended with all of its processes and built anew in this process; its tier is loading
until then, and the other one answers. One is built at a time: two engines may share a device, and the first of two that
are built together would lose its metrics. A server elsewhere that could not be reached is asked until it answers again,
so that its tier recovers though the router sends it nothing.
"""

import asyncio
import itertools
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from tierserve.core import Failure
from tierserve.errors import TierUnavailable
from tierserve.tiers.base import Pulse, Tier, TierState

if TYPE_CHECKING:
    from tierserve.config import FaultsConfig
    from tierserve.tiers.pair import TierPair

log = logging.getLogger(__name__)

_TICK_S = 0.25


@runtime_checkable
class Checkable(Tier, Protocol):
    """A tier that can be asked whether it is well."""

    async def check(self) -> None:
        """Raises TierUnavailable. May never return, where the tier hangs."""


@runtime_checkable
class Rebuildable(Checkable, Protocol):
    """A tier whose engine this node can end, and build again with `start`."""

    def pulse(self) -> Pulse: ...

    async def tear_down(self, waiting_for: str) -> None:
        """End it for sure, and tell its callers. From then on it is loading, waiting for that."""


class Stall:
    """Whether an engine that has something to do gets on with it."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._done: int | None = None
        self._since = 0.0

    def see(self, unfinished: int, done: int, now: float) -> bool:
        """True once something has been unfinished, and `done`, a count of steps, has not grown, for the limit."""
        if not unfinished:
            self._done = None
        elif done != self._done:
            self._done, self._since = done, now
        return self._done is not None and now - self._since >= self._limit_s


class Supervisor:
    """`async with supervisor.watching(): ...` watches until the block is left.

    `gave_up` is set once neither tier could answer for too long. `observe` is called with the tier's name and the
    reason whenever an engine is going to be rebuilt.
    """

    def __init__(
        self,
        config: "FaultsConfig",
        tiers: "TierPair",
        settle: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        tick_s: float = _TICK_S,
    ) -> None:
        """`settle` is called when an engine has been rebuilt: the old one is garbage then."""
        self._config = config
        self._tiers = tiers
        self._settle = settle
        self._clock = clock
        self._tick_s = tick_s
        self._one_at_a_time = asyncio.Lock()
        self._may_build = asyncio.Event()
        self._may_build.set()
        self._restarts: dict[tuple[str, str], int] = {(tier.name, reason): 0 for tier in tiers for reason in Failure}
        self._down_s = {tier.name: 0.0 for tier in tiers}
        self._down_since: dict[str, float] = {}
        self.gave_up = asyncio.Event()
        self.observe: Callable[[str, Failure], None] = lambda tier, reason: None

    @property
    def restarts(self) -> Mapping[tuple[str, str], int]:
        """Engines that were ended to be rebuilt, by the tier's name and the reason."""
        return self._restarts

    def down_s(self, tier: str) -> float:
        """Seconds in which a tier that had been ready could not answer, until now."""
        since = self._down_since.get(tier)
        return self._down_s[tier] + (0.0 if since is None else self._clock() - since)

    def drain(self) -> None:
        """From now on an engine that dies or hangs is ended, so that its callers are told, and not built again."""
        self._may_build.clear()

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        watches = [self._watch(tier) for tier in self._tiers if isinstance(tier, Rebuildable)]
        probes = [
            self._probe(tier)
            for tier in self._tiers
            if isinstance(tier, Checkable) and not isinstance(tier, Rebuildable)
        ]
        tasks = [asyncio.create_task(each) for each in (*watches, *probes, self._count_down())]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _watch(self, tier: Rebuildable) -> None:
        tries, up_since = 0, self._clock()
        while True:
            try:
                reason = await self._problem(tier)
                if self._clock() - up_since >= self._config.backoff_max_s:
                    tries = 0
                tries = await self._rebuild(tier, reason, tries)
                up_since = self._clock()
            except Exception:  # of ours: nobody else would watch
                log.exception("watching %s failed, and goes on", tier.name)
                await asyncio.sleep(self._config.backoff_s)

    async def _problem(self, tier: Rebuildable) -> Failure:
        """Returns when there is one. A check that is under way counts as a request: it may take as long as those do."""
        stall, check, checked_at, checks = Stall(self._config.hang_s), None, self._clock(), 0
        try:
            while True:
                await asyncio.sleep(self._tick_s)
                pulse, now = tier.pulse(), self._clock()
                if tier.state is TierState.FAILED or pulse.gone:
                    return Failure.DIED
                if check is None and not pulse.unfinished and now - checked_at >= self._config.check_s:
                    check, checked_at = asyncio.create_task(tier.check()), now
                elif check is not None and check.done():
                    if error := check.exception():
                        log.error("%s: %s", tier.name, error)
                        return Failure.DIED
                    check, checks = None, checks + 1
                if stall.see(pulse.unfinished + (check is not None), pulse.steps + checks, now):
                    return Failure.HUNG
        finally:
            if check is not None:
                check.cancel()
                await asyncio.gather(check, return_exceptions=True)

    async def _rebuild(self, tier: Rebuildable, reason: Failure, tries: int) -> int:
        """Until it is ready. `tries` is how often it was built before without serving for long; returns it with those
        of this time."""
        self._restarts[tier.name, reason] += 1
        self.observe(tier.name, reason)
        self._note_down(tier)
        log.error("the engine of %s %s: it is ended and built anew, the other tier serves on", tier.name, reason)
        for number in itertools.count(1):
            await tier.tear_down(f"its engine to be rebuilt after it {reason}, try {number}")
            await asyncio.sleep(self._delay_s(tries))
            await self._may_build.wait()
            tries += 1
            async with self._one_at_a_time:
                try:
                    # Not wait_for, which before Python 3.12 loses a cancellation that comes as the build fails.
                    async with asyncio.timeout(self._config.rebuild_s):
                        await tier.start()
                    break
                except TimeoutError:
                    log.error("%s was not rebuilt within %g s, try %d", tier.name, self._config.rebuild_s, number)
                except Exception as error:
                    log.error("%s was not rebuilt, try %d: %s", tier.name, number, error)
        self._settle()
        log.info("%s is ready again after %.1f s", tier.name, self._note_up(tier))
        return tries

    def _delay_s(self, tries: int) -> float:
        return backoff_s(tries, self._config.backoff_s, self._config.backoff_max_s)

    async def _probe(self, tier: Checkable) -> None:
        while True:
            await asyncio.sleep(self._tick_s)
            if tier.state is not TierState.FAILED:
                continue
            self._note_down(tier)
            for number in itertools.count(1):
                await asyncio.sleep(self._delay_s(number))
                try:
                    await tier.check()
                    break
                except TierUnavailable as error:
                    log.warning("%s", error)
            log.info("%s answers again after %.1f s", tier.name, self._note_up(tier))

    async def _count_down(self) -> None:
        """To the end of the node, while neither tier can answer."""
        able_at = self._clock()
        while True:
            await asyncio.sleep(self._tick_s)
            now, limit_s = self._clock(), self._config.exit_after_s
            if any(tier.state is TierState.READY for tier in self._tiers):
                able_at = now
            elif now - able_at >= limit_s:
                log.critical(
                    "no tier could answer for %g s (faults.exit_after_s): ending, to be started again", limit_s
                )
                self.gave_up.set()
                return

    def _note_down(self, tier: Tier) -> None:
        self._down_since.setdefault(tier.name, self._clock())

    def _note_up(self, tier: Tier) -> float:
        """Returns the seconds that it was down."""
        down_s = self._clock() - self._down_since.pop(tier.name)
        self._down_s[tier.name] += down_s
        return down_s


def backoff_s(tries: int, first_s: float, longest_s: float) -> float:
    """How long to wait for the next one: not at all for the first, then twice as long each time."""
    return 0.0 if tries == 0 else min(first_s * 2.0 ** min(tries - 1, 60), longest_s)
