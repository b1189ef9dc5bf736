"""The SQLite file as its one writer has it: opened, migrated, written to, kept within its age and size.

It raises sqlite3.Error and OSError; writer.py says what becomes of rows then.
"""

import logging
import os
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from tierserve.telemetry.decisions.rows import Value
from tierserve.telemetry.decisions.schema import migrate

log = logging.getLogger(__name__)

# How long one write waits for another process that has the file to itself; what then is still not written waits on.
_BUSY_S: Final = 0.2
# Most that is deleted in one transaction: tens of milliseconds, and a reader sees no gap.
_CHUNK: Final = 2000
# Over its size a file is cut to so much of it, so that not each row costs a deletion.
_CUT_TO: Final = 0.95
_LOG_BYTES: Final = 16 * 2**20  # of the write-ahead log, once it has been taken over
_PAGES_FREED: Final = 4000
_SECONDS_A_DAY: Final = 86400.0
# What stands beside a file in WAL mode.
_SIDECARS: Final = ("-wal", "-shm")

Write = tuple[str, tuple[Value, ...]]


class DecisionFile:
    def __init__(self, path: Path, retention_days: float, max_bytes: float) -> None:
        self.path = path
        self._retention_s, self._max_bytes = retention_days * _SECONDS_A_DAY, max_bytes
        self._connection: sqlite3.Connection | None = None

    def write(self, writes: Iterable[Write]) -> None:
        """All of these rows, or, where it raises, none."""
        connection = self._open()
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement, values in writes:
                connection.execute(statement, values)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    def retain(self, now: float) -> bool:
        """Delete some of what is too old or too much; True where there is more. `now`: seconds since 1970."""
        connection = self._open()
        too_old = _delete(connection, "comparisons", now - self._retention_s, _CHUNK)
        too_old += _delete(connection, "decisions", now - self._retention_s, _CHUNK)
        too_many = self._too_many(connection)
        if too_many:
            (oldest_kept,) = connection.execute(
                "SELECT max(time) FROM (SELECT time FROM decisions ORDER BY time LIMIT ?)", (min(too_many, _CHUNK),)
            ).fetchone()
            _delete(connection, "decisions", oldest_kept, _CHUNK, including=True)
            _delete(connection, "comparisons", oldest_kept, _CHUNK)
        if too_old or too_many:
            # Not `execute`: SQLite gives an empty row for each page, after the first of which Python ends it.
            connection.executescript(f"PRAGMA incremental_vacuum({_PAGES_FREED})")
        return too_old >= _CHUNK or too_many > _CHUNK

    def set_aside(self, stamp: str) -> Path:
        """Rename a file that can't be used, with what stands beside it; the next write begins a new one."""
        self.close()
        aside = self.path.with_name(f"{self.path.name}.corrupt-{stamp}")
        os.replace(self.path, aside)
        for suffix in _SIDECARS:
            beside = Path(f"{self.path}{suffix}")
            if beside.exists():
                os.replace(beside, f"{aside}{suffix}")
        return aside

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.close()
            except sqlite3.Error as error:
                log.warning("%s was not closed properly: %s", self.path, error)

    def _open(self) -> sqlite3.Connection:
        if self._connection is not None and not self.path.exists():
            self.close()  # somebody removed it: SQLite would go on writing to what nobody can find
            for suffix in _SIDECARS:
                Path(f"{self.path}{suffix}").unlink(missing_ok=True)
        if self._connection is None:
            self._connection = _opened(self.path)
        return self._connection

    def _too_many(self, connection: sqlite3.Connection) -> int:
        """How many of the oldest rows the file is too large by."""
        pages, free, page_bytes = (
            connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
        )
        used = (pages - free) * page_bytes
        if used <= self._max_bytes:
            return 0
        # They were numbered without gaps, and are deleted from the front.
        rows = connection.execute("SELECT coalesce(max(seq) - min(seq) + 1, 0) FROM decisions").fetchone()[0]
        return int(rows * (1 - _CUT_TO * self._max_bytes / used))


def _opened(path: Path) -> sqlite3.Connection:
    # Only the file's owner may read it: it can hold what people said.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    connection = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # of a new file; without it deleted rows free no disk
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")  # a power cut may lose the last rows, and harms no others
        connection.execute(f"PRAGMA journal_size_limit = {_LOG_BYTES}")
        migrate(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _delete(connection: sqlite3.Connection, table: str, before: float, most: int, including: bool = False) -> int:
    """How many of the rows from before that time were deleted."""
    sign = "<=" if including else "<"
    return connection.execute(
        f"DELETE FROM {table} WHERE seq IN (SELECT seq FROM {table} WHERE time {sign} ? ORDER BY time LIMIT ?)",
        (before, most),
    ).rowcount
