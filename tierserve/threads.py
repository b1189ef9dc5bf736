"""Loading beside the event loop."""

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def load_beside(work: Callable[[], T]) -> T:
    """`work()` on a thread that the process does not wait for when it ends.

    asyncio.to_thread's pool is joined when the loop closes: a node that is told to end while it imports torch or waits
    for an engine would sit there until that is done.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def deliver(result: T | None, error: BaseException | None) -> None:
        if done.cancelled():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result, problem = None, None
        try:
            result = work()
        except BaseException as error:
            problem = error
        if not loop.is_closed():
            loop.call_soon_threadsafe(deliver, result, problem)

    threading.Thread(target=run, name="loading", daemon=True).start()
    return await done
