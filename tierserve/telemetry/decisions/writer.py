"""The one thread that writes to the file, from a bounded queue. Whatever fails here costs rows, which are counted, and
never a request.

The thread looks every 0.2 s instead of being woken: a wake-up for each row would take the interpreter from the event
loop each time, and a transaction for each row the disk.
"""

import logging
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import Final, Generic, TypeVar

from tierserve.telemetry.decisions.file import DecisionFile, Write
from tierserve.threads import step_back

log = logging.getLogger(__name__)

Item = TypeVar("Item")

# Why rows were dropped.
REASONS: Final = ("queue", "locked", "disk", "error")

_EVERY_S: Final = 0.2
_BATCH: Final = 500
_RETAIN_EVERY_S: Final = 60.0

_LOCKED: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_DISK: Final = frozenset(
    {
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_NOLFS,
    }
)
_CORRUPT: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


class Writer(Generic[Item]):
    """`prepare` makes a row of what was put, on the writer's thread. Nothing is opened before `start`."""

    def __init__(
        self,
        file: DecisionFile,
        prepare: Callable[[Item], Write],
        queue: int,
        max_bytes: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`queue`: most rows that wait; `max_bytes`: most that they may weigh together, as `put` is told. `clock` gives
        the time of day."""
        self._file, self._prepare, self._clock = file, prepare, clock
        self._most, self._max_bytes = queue, max_bytes
        self._waiting: deque[tuple[Item, int]] = deque()
        # Each has one thread that adds to it; their difference is what waits.
        self._bytes_put, self._bytes_taken = 0, 0
        self._blocked_by = "queue"
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="decisions", daemon=True)
        self.rows = 0
        self.dropped = dict.fromkeys(REASONS, 0)

    def start(self) -> None:
        self._thread.start()

    def put(self, item: Item, weight: int = 0) -> None:
        """Never waits: where the queue is full the item is dropped and counted. From the event loop alone."""
        waiting = self._bytes_put - self._bytes_taken
        if len(self._waiting) >= self._most or waiting + weight > self._max_bytes:
            self.dropped[self._blocked_by] += 1
            return
        self._bytes_put += weight
        self._waiting.append((item, weight))

    def close(self, within_s: float) -> None:
        """Write what waits, and close the file; what takes longer than this is dropped."""
        self._ending.set()
        if self._thread.ident is not None:
            self._thread.join(within_s)
        if self._waiting:
            log.warning("%d decisions were not written when the node ended", len(self._waiting))

    def _run(self) -> None:
        step_back()
        retained = float("-inf")
        while True:
            ending = self._ending.wait(_EVERY_S)
            while self._waiting and self._write_batch():
                pass
            if ending:
                break
            if self._clock() - retained >= _RETAIN_EVERY_S and not self._retain():
                retained = self._clock()
        self.dropped[self._blocked_by] += len(self._waiting)
        self._file.close()

    def _write_batch(self) -> bool:
        """False where nothing can be written now: what waits, waits on."""
        batch = list(islice(self._waiting, _BATCH))
        try:
            self._write([self._prepare(item) for item, _ in batch])
            self.rows += len(batch)
        except (sqlite3.Error, OSError) as error:
            reason = _reason(error)
            if reason != "error":
                self._block(reason, error)
                return False
            self._drop(len(batch), error)
        except Exception as error:
            self._drop(len(batch), error)
        for _, weight in batch:
            self._waiting.popleft()
            self._bytes_taken += weight
        if self._blocked_by != "queue":
            log.warning("the decision log %s is written again", self._file.path)
            self._blocked_by = "queue"
        return True

    def _write(self, writes: list[Write]) -> None:
        try:
            self._file.write(writes)
        except sqlite3.DatabaseError as error:
            if _code(error) not in _CORRUPT:
                raise
            aside = self._file.set_aside(time.strftime("%Y%m%dT%H%M%S", time.gmtime(self._clock())))
            log.warning("the decision log is corrupt (%s): set aside as %s, a new one is begun", error, aside)
            self._file.write(writes)

    def _retain(self) -> bool:
        """True where there is more to delete."""
        try:
            return self._file.retain(self._clock())
        except (sqlite3.Error, OSError) as error:
            log.debug("nothing was deleted from the decision log: %s", error)  # the next write says more
            return False

    def _block(self, reason: str, error: Exception) -> None:
        if self._blocked_by != reason:
            log.warning(
                "the decision log %s can't be written (%s); rows wait, then are dropped", self._file.path, error
            )
        self._blocked_by = reason
        if reason == "disk":
            self._file.close()  # a connection that met a full disk may not find out that there is room again

    def _drop(self, rows: int, error: Exception) -> None:
        """What can't be written now or ever. The error's text may quote what people said."""
        log.error("%d decisions were dropped: %s", rows, type(error).__name__)
        self.dropped["error"] += rows


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return "disk"
    code = _code(error)
    return "locked" if code in _LOCKED else "disk" if code in _DISK else "error"


def _code(error: Exception) -> int:
    """SQLite's primary result code; 0 where the error is not SQLite's own."""
    return int(getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
