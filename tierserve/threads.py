"""Work beside the event loop: loading, and what comes in batches."""

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")
Item = TypeVar("Item")
Result = TypeVar("Result")

NICENESS = 5


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


class BatchThread(Generic[Item, Result]):
    """Runs `work` on one thread of its own. Items that arrive while it computes are worked on together next.

    vectors = BatchThread("encoder", encoder.encode, batch=32, queue=2_000)
    vector = await vectors.ask("What is Python?")
    """

    def __init__(self, name: str, work: Callable[[list[Item]], Iterable[Result]], batch: int, queue: int) -> None:
        """`work` gives a result for each item, in their order; `batch`: most items at once; `queue`: most that wait."""
        self._name, self._work, self._batch, self._queue = name, work, batch, queue
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name, initializer=step_back)
        self._waiting: list[tuple[Item, asyncio.Future[Result]]] = []
        self._worker: asyncio.Task[None] | None = None

    async def ask(self, item: Item) -> Result:
        """The item's result. Raises asyncio.QueueFull when too many wait, or whatever the work does."""
        if len(self._waiting) >= self._queue:
            self._waiting = [waiting for waiting in self._waiting if not waiting[1].done()]  # without who went away
            if len(self._waiting) >= self._queue:
                raise asyncio.QueueFull
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._drain(), name=self._name)
        return await future

    async def close(self) -> None:
        """Whoever still waits is cancelled; what the thread is at goes on to its end, unheard."""
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)
        for _, future in self._waiting:
            future.cancel()
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _drain(self) -> None:
        while self._waiting:
            batch = [item for item in self._waiting[: self._batch] if not item[1].done()]
            del self._waiting[: self._batch]
            if batch:  # else all of their callers went away
                await self._answer(batch)

    async def _answer(self, batch: list[tuple[Item, asyncio.Future[Result]]]) -> None:
        items = [item for item, _ in batch]
        try:
            results = await asyncio.get_running_loop().run_in_executor(self._thread, self._work, items)
            for (_, future), result in zip(batch, results, strict=True):
                if not future.done():  # its caller may have gone away meanwhile
                    future.set_result(result)
                    await asyncio.sleep(0)  # what is woken goes on at once: not all of a batch in one turn of the loop
        except Exception as error:
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
        finally:
            for _, future in batch:
                future.cancel()  # who is left without an answer, as this is closed; nothing to the others


def step_back(threads: Iterable[int] | None = None, steps: int = 1) -> None:
    """Let the calling thread go first where it has to share a core with these (by the system's ids), and those that
    took fewer steps too; None: let all others go before the calling thread itself.

    With 200 prompts a second, all on one core, the loop woke 2.1 ms late (p99) while it and the encoder's thread had
    the same priority, as Linux lets a thread finish its slice; 0.8 ms with this. The cost: a third of the share where
    others take all cores. Threads that they start inherit it.
    """
    niceness = os.getpriority(os.PRIO_PROCESS, 0) + steps * NICENESS
    for thread in [threading.get_native_id()] if threads is None else threads:
        with contextlib.suppress(OSError):  # it has just ended, or the system knows no priority of threads
            os.setpriority(os.PRIO_PROCESS, thread, niceness)
