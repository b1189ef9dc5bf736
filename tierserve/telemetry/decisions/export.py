"""The log for other programs: JSON Lines, or Parquet."""

from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import IO, Any, Final

from tierserve.errors import ConfigError
from tierserve.telemetry.decisions.printing import as_json, jsonable
from tierserve.telemetry.decisions.reading import Row

_ROW_GROUP: Final = 20_000
_TYPES: Final = {"INTEGER": "int64", "REAL": "float64", "TEXT": "string"}
_FLAGS: Final = ("stream", "escalated")


def write_lines(rows: Iterable[Row], out: IO[str]) -> int:
    """How many were written."""
    count = 0
    for row in rows:
        out.write(as_json(row) + "\n")
        count += 1
    return count


def write_parquet(rows: Iterable[Row], path: Path) -> int:
    """How many were written: with zstd, vectors as lists of float32. Raises ConfigError where there is no pyarrow."""
    try:
        import pyarrow  # type: ignore[import-untyped]
        from pyarrow import parquet
    except ImportError:
        raise ConfigError("--format", "parquet needs pyarrow", "pip install 'tierserve[parquet]'") from None
    schema = _schema(pyarrow)
    rows, count = iter(rows), 0
    with parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        while group := [jsonable(row) for row in islice(rows, _ROW_GROUP)]:
            writer.write_table(pyarrow.Table.from_pylist(group, schema))
            count += len(group)
    return count


def _schema(pyarrow: Any) -> Any:
    """As the table `decisions` is declared."""
    import sqlite3

    from tierserve.telemetry.decisions.schema import migrate

    connection = sqlite3.connect(":memory:", isolation_level=None)
    migrate(connection)
    columns = connection.execute("SELECT name, type FROM pragma_table_info('decisions')").fetchall()
    connection.close()

    def kind(name: str, declared: str) -> Any:
        if name in _FLAGS:
            return pyarrow.bool_()
        if declared == "BLOB":
            return pyarrow.list_(pyarrow.float32())
        return pyarrow.type_for_alias(_TYPES[declared])

    return pyarrow.schema([(name, kind(name, declared)) for name, declared in columns])
