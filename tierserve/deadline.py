"""How long a caller is willing to wait. A deadline is a moment on `time.monotonic()`, the event loop's clock."""

import asyncio
import math
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

from tierserve.errors import DeadlineExceeded, RequestError

HEADER = "x-request-timeout-s"


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
        raise DeadlineExceeded("the request's time was over before its answer was there") from None


async def next_in_time(events: AsyncGenerator[bytes, None], deadline: float | None) -> bytes | None:
    """The next event, None at the end. Raises DeadlineExceeded, and the events have ended.

    The time that their reader takes is its own: nothing is broken off between two events.
    """
    async with in_time(deadline):
        return await anext(events, None)


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
