"""Decisions at a terminal: a line each, or one in full."""

import json
import unicodedata
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, Final

from tierserve.telemetry.decisions.reading import Row

HEAD: Final = (
    f"{'time':<19}  {'tier':<12} {'cause':<12} {'score':>5} {'conf.':>5}  {'tokens':>11} {'first':>7} {'total':>7}"
    f"  {'cost':>9}  {'status':<11} {'key':<10} id"
)
_GROUPS: Final = (
    ("", ("id", "key", "kind", "stream", "status", "trace_id")),
    ("decided", ("tier", "role", "cause", "score", "threshold")),
    ("judged", ("confidence", "doubt", "escalated", "held_s")),
    ("tokens", ("prompt_tokens", "completion_tokens", "wasted_prompt_tokens", "wasted_completion_tokens")),
    ("times", ("route_s", "queue_s", "first_byte_s", "total_s")),
    ("cost", ("cost", "cost_all_large", "cost_wasted")),
    ("prompt", ("turns", "prompts")),
)
_FLAGS: Final = ("stream", "escalated")


def line(row: Row) -> str:
    escalated = "^" if row["escalated"] else ""
    tokens = f"{row['prompt_tokens']}>{row['completion_tokens']}"
    return (
        f"{when(row['time'])}  {_cell((row['tier'] or '-') + escalated, 12)} {_cell(row['cause'] or '-', 12)} "
        f"{_number(row['score'], '.2f'):>5} {_number(row['confidence'], '.2f'):>5}  {tokens:>11} "
        f"{_seconds(row['first_byte_s']):>7} {_seconds(row['total_s']):>7}  {_number(row['cost'], '.3g'):>9}  "
        f"{row['status']:<11} {_cell(row['key'] or '-', 10)} {visible(row['id'])}"
    )


def whole(row: Row, comparisons: Iterable[Row] = ()) -> Iterator[str]:
    """All that is known of one request, as lines."""
    yield f"{visible(row['id'])}  ended {when(row['time'])} UTC"
    for title, names in _GROUPS:
        known = [f"{name} {_value(name, row[name])}" for name in names if row[name] not in (None, "") and name != "id"]
        if known:
            yield f"  {title:<8} {', '.join(known)}"
    for name in ("prompt", "answer"):
        if row[name] is not None:
            yield f"  {name}:"
            yield from (f"    {visible(text)}" for text in row[name].splitlines() or [""])
    for pair in comparisons:
        yield f"  compared {when(pair['time'])}: {pair['verdict']} ({_told(pair)})"


def jsonable(row: Row) -> dict[str, Any]:
    """For JSON: vectors as lists of numbers, flags as such."""
    from numpy import float16, frombuffer

    blobs = {name: frombuffer(value, float16).tolist() for name, value in row.items() if isinstance(value, bytes)}
    flags = {name: bool(row[name]) for name in _FLAGS if row.get(name) is not None}
    return row | blobs | flags


def as_json(row: Row) -> str:
    return json.dumps(jsonable(row), ensure_ascii=False)


def when(time: float) -> str:
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d %H:%M:%S")


def visible(text: str) -> str:
    """Without what a terminal would take for a command, or would write from right to left."""
    return "".join("\N{REPLACEMENT CHARACTER}" if unicodedata.category(each)[0] == "C" else each for each in text)


def _told(pair: Row) -> str:
    names = ("first_order", "second_order", "similarity", "judge_ms")
    return ", ".join(f"{name} {_value(name, pair[name])}" for name in names if pair[name] is not None)


def _value(name: str, value: Any) -> str:
    if name in _FLAGS:
        return "yes" if value else "no"
    if name.endswith("_s"):
        return _seconds(value)
    return f"{value:.4g}" if isinstance(value, float) else visible(str(value))


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _seconds(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{1000 * value:.0f} ms" if value < 1 else f"{value:.2f} s"


def _cell(text: str, width: int) -> str:
    text = visible(text)
    return f"{text if len(text) <= width else text[: width - 1] + '…':<{width}}"
