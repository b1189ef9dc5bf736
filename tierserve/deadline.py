"""How long a caller is willing to wait. A deadline is a moment on `time.monotonic()`, the event loop's clock."""

import asyncio
import math
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Self

from tierserve.errors import DeadlineExceeded, RequestError

HEADER = "x-request-timeout-s"
_OVER = "the request's time was over before its answer was there"


def deadline_of(arrived: float, asked_s: str | None, most_s: float | None) -> float | None:
    """When a request is over that arrived then. `asked_s` is the header's value, `most_s` the configured limit, which
    the caller can shorten and not extend; None: no limit. Raises RequestError.
    """
    limits = [limit for limit in (_seconds(asked_s), most_s) if limit is not None]
    return arrived + min(limits) if limits else None


@asynccontextmanager
async def in_time(deadline: float | None) -> AsyncIterator[None]:
    """Cancels what the block waits for when the time is over, and raises DeadlineExceeded in its place."""
    try:
        async with asyncio.timeout_at(deadline) as timeout:
            yield
    except TimeoutError:
        if not timeout.expired():
            raise  # somebody else's
        raise DeadlineExceeded(_OVER) from None


class Patience:
    """Waits for the events of a stream as long as there is time. One timer for them all: they are as many as tokens.

    async with aclosing(events), Patience(deadline) as patience:
        while (event := await patience.next(events)) is not None: ...

    The time that their reader takes is its own: nothing is broken off between two events.
    """

    def __init__(self, deadline: float | None) -> None:
        self._deadline = deadline
        self._over = False
        self._timer: asyncio.TimerHandle | None = None
        self._waiting: asyncio.Task[object] | None = None

    async def __aenter__(self) -> Self:
        if self._deadline is not None:
            self._timer = asyncio.get_running_loop().call_at(self._deadline, self._end)
        return self

    async def __aexit__(self, *error: object) -> None:
        if self._timer is not None:
            self._timer.cancel()

    async def next(self, events: AsyncGenerator[bytes, None]) -> bytes | None:
        """The next event, None at the end. Raises DeadlineExceeded."""
        if self._timer is None:
            return await anext(events, None)
        if self._over:
            raise DeadlineExceeded(_OVER)
        task = self._waiting = asyncio.current_task()
        assert task is not None
        cancelled_before = task.cancelling()
        try:
            return await anext(events, None)
        except asyncio.CancelledError:
            if self._over and task.uncancel() <= cancelled_before:  # by us alone
                raise DeadlineExceeded(_OVER) from None
            raise
        finally:
            self._waiting = None

    def _end(self) -> None:
        self._over = True
        if self._waiting is not None:
            self._waiting.cancel()


def _seconds(asked: str | None) -> float | None:
    if asked is None:
        return None
    try:
        seconds = float(asked)
    except ValueError:
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds > 0):
        raise RequestError(f"{HEADER} must be a number of seconds above 0", HEADER)
    return seconds
