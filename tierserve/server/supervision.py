"""What the service manager learns while the node lives: what it is doing, that it needs time, that it is well.

The watchdog is fed from the event loop, so that a loop that stalls starves it by itself; and only while no engine of
this process stands failed with nobody bringing it back. A tier that is being rebuilt counts as loading, not as failed:
how long that may go on is not for the watchdog to say. A server elsewhere that can't be reached is no reason either:
starting this node again would not help it.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from enum import StrEnum

from tierserve.server.notify import Manager
from tierserve.tiers.base import Tier, TierState

log = logging.getLogger(__name__)

# How soon a change shows in the status line.
_TICK_S = 1.0
# Time that is asked for at a time, and how often: the loop may stall between two.
_EXTENSION_S, _EXTEND_EVERY_S = 30.0, 5.0
# Between an engine's death and its being rebuilt lies a moment.
_GRACE_S = 5.0


class Phase(StrEnum):
    """A node's life, in order."""

    LOADING = "loading"
    SERVING = "serving"
    DRAINING = "draining"
    ENDING = "ending"


class Supervision:
    """`engines` are the tiers whose processes are this node's. `load_s` bounds the time that loading asks for."""

    def __init__(
        self,
        manager: Manager,
        router_ready: Callable[[], bool],
        tiers: Sequence[Tier],
        engines: Sequence[Tier],
        in_flight: Callable[[], int],
        load_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.phase = Phase.LOADING
        self._manager = manager
        self._router_ready = router_ready
        self._tiers, self._engines = tiers, engines
        self._in_flight = in_flight
        self._load_s = load_s
        self._clock = clock
        self._began = clock()
        self._failed_since: dict[str, float] = {}
        self._starving = False

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Supervision"]:
        """Tells the manager for as long as the block runs."""
        tasks = [asyncio.create_task(self._tell(), name="status"), asyncio.create_task(self._feed(), name="watchdog")]
        try:
            yield self
        finally:
            for task in tasks:
                task.cancel()
            for task in tasks:
                with suppress(asyncio.CancelledError):
                    await task

    def serve(self) -> None:
        """Everything is up."""
        self.phase = Phase.SERVING
        self._manager.ready(self.status())

    def drain(self) -> None:
        """The end has begun."""
        self.phase, self._began = Phase.DRAINING, self._clock()
        self._manager.stopping(self.status())

    def end(self) -> None:
        """Nothing is left but to end the engines."""
        self.phase = Phase.ENDING
        self._manager.stopping(self.status())

    def status(self) -> str:
        """The node in one line."""
        if self.phase is Phase.ENDING:
            return "ending"
        if self.phase is Phase.DRAINING:
            count = self._in_flight()
            return f"draining: {count} request{'' if count == 1 else 's'} in flight"
        if self.phase is Phase.LOADING:
            loading = [tier for tier in self._tiers if tier.state is TierState.LOADING and self._router_ready()]
            return f"loading: {'; '.join(map(_in_words, loading)) or 'the router'}"
        if told := [_in_words(tier) for tier in self._tiers if tier.state is not TierState.READY]:
            return f"degraded: {'; '.join(told)}"
        return f"ready: {', '.join(tier.name for tier in self._tiers)}"

    def well(self) -> bool:
        """Whether the watchdog is to be fed."""
        now = self._clock()
        failed = {tier.name for tier in self._engines if tier.state is TierState.FAILED}
        self._failed_since = {name: self._failed_since.get(name, now) for name in failed}
        return self.phase is not Phase.SERVING or all(now - since < _GRACE_S for since in self._failed_since.values())

    async def _tell(self) -> None:
        extended = float("-inf")
        while True:
            self._manager.status(self.status())
            self.well()  # a failure is noticed when it comes, not when the watchdog is next due
            now = self._clock()
            needs_time = self.phase is Phase.DRAINING or (
                self.phase is Phase.LOADING and now - self._began < self._load_s - _EXTENSION_S
            )
            if needs_time and now - extended >= _EXTEND_EVERY_S:
                extended = now
                self._manager.extend(_EXTENSION_S)
            await asyncio.sleep(_TICK_S)

    async def _feed(self) -> None:
        if self._manager.watchdog_s is None:
            return
        while True:
            well = self.well()
            if well:
                self._manager.alive()
            elif not self._starving:
                log.error("an engine stands failed and nobody brings it back: leaving the restart to the watchdog")
            self._starving = not well
            await asyncio.sleep(self._manager.watchdog_s / 2)


def _in_words(tier: Tier) -> str:
    waiting = f" ({tier.waiting_for})" if tier.state is TierState.LOADING and tier.waiting_for else ""
    return f"{tier.name} is {tier.state}{waiting}"
