"""The log as others read it, while the node writes to it or not."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

from tierserve.errors import ConfigError
from tierserve.telemetry.decisions.schema import VERSION, version

Row = dict[str, Any]

# Where a reader has to wait for the writer: this long.
_BUSY_S: Final = 2.0
_AT_ONCE: Final = 2000


class Decisions:
    """What is in a log. Times are seconds since 1970; ranges include their start, not their end."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def last(self, count: int) -> list[Row]:
        """The latest, in the order in which they ended."""
        return list(self._rows("SELECT * FROM (SELECT * FROM decisions ORDER BY seq DESC LIMIT ?) ORDER BY seq", count))

    def after(self, seq: int) -> list[Row]:
        """What was written since the row of this number."""
        return list(self._rows("SELECT * FROM decisions WHERE seq > ? ORDER BY seq", seq))

    def find(self, id: str) -> list[Row]:
        """By the request's id; callers may use one twice."""
        return list(self._rows("SELECT * FROM decisions WHERE id = ? ORDER BY seq", id))

    def comparisons_of(self, id: str) -> list[Row]:
        return list(self._rows("SELECT * FROM comparisons WHERE request_id = ? ORDER BY seq", id))

    def judged_prompts(self) -> tuple[list[Row], int]:
        """Prompts that are kept, with the verdicts on their answers; and how many comparisons there are in all."""
        rows = self._rows(
            "SELECT c.verdict, c.small_tier, c.large_tier, d.prompt, d.turns, max(d.seq) FROM comparisons c "
            "JOIN decisions d ON d.id = c.request_id AND d.time <= c.time "
            "WHERE d.prompts = 1 AND trim(d.prompt) != '' GROUP BY c.seq ORDER BY c.seq"
        )
        return list(rows), self._connection.execute("SELECT count(*) FROM comparisons").fetchone()[0]

    def between(
        self, since: float, until: float, key: str | None = None, columns: str = "*", table: str = "decisions"
    ) -> Iterator[Row]:
        """In the order of time. `columns` and `table` are ours, never a caller's."""
        of_key = "" if key is None else " AND key = ?"
        statement = f"SELECT {columns} FROM {table} WHERE time >= ? AND time < ?{of_key} ORDER BY time, seq"
        return self._rows(statement, since, until, *(() if key is None else (key,)))

    def count(self) -> int:
        number: int = self._connection.execute("SELECT count(*) FROM decisions").fetchone()[0]
        return number

    def _rows(self, statement: str, *values: object) -> Iterator[Row]:
        with closing(self._connection.execute(statement, values)) as cursor:
            names = [column[0] for column in cursor.description]
            while rows := cursor.fetchmany(_AT_ONCE):
                for row in rows:
                    yield dict(zip(names, row, strict=True))


@contextmanager
def reading(path: Path) -> Iterator[Decisions]:
    """Raises ConfigError where there is no log, or none that can be read here."""
    if not path.is_file():
        raise ConfigError(str(path), "there is no decision log", "set decisions.path, and let the node run")
    try:
        with closing(_connection(path)) as connection:
            yield Decisions(connection)
    except sqlite3.DatabaseError as error:
        raise ConfigError(str(path), f"can't be read ({error})", "name a decision log") from None


def _connection(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=_BUSY_S)
    try:
        found = version(connection)
    except sqlite3.OperationalError:
        connection.close()
        if Path(f"{path}-wal").exists():
            raise
        # Nobody writes to it, and beside it nothing can be made: it lies in a folder that we may not write to.
        connection = sqlite3.connect(f"{path.resolve().as_uri()}?immutable=1", uri=True)
        found = version(connection)
    if found != VERSION:
        connection.close()
        raise ConfigError(
            str(path),
            f"is of version {found}, this tierserve reads {VERSION}",
            "start a node on it, which brings it up to date" if found < VERSION else "use the tierserve that wrote it",
        )
    return connection
