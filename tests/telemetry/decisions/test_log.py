"""The decision log with real files: what is written, and what goes wrong without harm."""

import os
import resource
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tierserve.config import DecisionsConfig
from tierserve.core import (
    Call,
    Caller,
    Cause,
    Cost,
    Decision,
    Doubt,
    Judgement,
    Kind,
    Outcome,
    Prompt,
    Role,
    Sent,
    Status,
    Trace,
    Usage,
)
from tierserve.errors import ConfigError
from tierserve.telemetry.decisions import writer
from tierserve.telemetry.decisions.log import DecisionLog
from tierserve.telemetry.decisions.rows import Comparison
from tierserve.telemetry.decisions.schema import MIGRATIONS, VERSION, version

CALL = Call(
    "id", Kind.CHAT, {}, (Prompt("What is Python?", 2),), stream=True, caller=Caller("alice"), trace=Trace(7, 8)
)
EVENTS = [
    b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":"A "}}]}\n\n',
    b'data: {"choices":[{"index":0,"delta":{"content":"language."}}]}\n\n',
    b"data: [DONE]\n\n",
]


def outcome(id: str = "id", **options: Any) -> Outcome:
    decision = Decision(Role.SMALL, Cause.SCORE, 2.5)
    usage = Usage(10, 20)
    call = Call(id, Kind.CHAT, {}, (Prompt("text"),))
    return Outcome(**{"call": call, "status": Status.OK, "decision": decision, "tier": "s", "usage": usage} | options)


def escalated() -> Outcome:
    judgement = Judgement(0.25, Doubt.LOW, True, 0.1, Usage(10, 8))
    decision = Decision(Role.LARGE, Cause.ESCALATION, 3.5)
    cost = Cost(0.3, 0.2, 0.1)
    return Outcome(
        CALL, Status.OK, decision, "l", Usage(11, 12), 0.01, 0.2, 0.5, judgement, 0.05, cost, Sent(list(EVENTS), 200)
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "decisions.sqlite"


@contextmanager
def decision_log(path: Path, **options: Any) -> Iterator[DecisionLog]:
    """Started; when the block ends all is written."""
    wiring = {name: options.pop(name) for name in ("embedding", "features", "clock") if name in options}
    log = DecisionLog(DecisionsConfig(path=str(path), **options), lambda: 4.0, **wiring)
    log.start()
    try:
        yield log
    finally:
        log._writer.close(30)


def rows(path: Path, table: str = "decisions") -> list[dict[str, Any]]:
    with sqlite3.connect(path) as connection:
        connection.row_factory = sqlite3.Row
        found = [dict(row) for row in connection.execute(f"SELECT * FROM {table} ORDER BY seq")]
    connection.close()
    return found


def until(condition: Callable[[], object]) -> None:
    while not condition():
        time.sleep(0.005)


def test_a_row_says_what_became_of_a_request(path: Path) -> None:
    with decision_log(path, clock=lambda: 1000.0) as log:
        log.record(escalated())
    (row,) = rows(path)
    assert row == {
        "seq": 1,
        "time": 1000.0,
        "id": "id",
        "trace_id": f"{7:032x}",
        "key": "alice",
        "kind": "chat",
        "stream": 1,
        "status": "ok",
        "tier": "l",
        "role": "large",
        "cause": "escalation",
        "score": 3.5,
        "threshold": 4.0,
        "confidence": 0.25,
        "doubt": "low",
        "escalated": 1,
        "held_s": 0.1,
        "prompt_tokens": 11,
        "completion_tokens": 12,
        "wasted_prompt_tokens": 10,
        "wasted_completion_tokens": 8,
        "route_s": 0.01,
        "queue_s": 0.05,
        "first_byte_s": 0.2,
        "total_s": 0.5,
        "cost": 0.3,
        "cost_all_large": 0.2,
        "cost_wasted": 0.1,
        "turns": 2,
        "prompts": 1,
        "prompt": None,
        "answer": None,
        "embedding": None,
        "features": None,
    }
    assert log.rows == 1


def test_a_request_that_ended_before_a_decision_has_a_row(path: Path) -> None:
    with decision_log(path) as log:
        log.record(Outcome(CALL, Status.UNAVAILABLE))
    (row,) = rows(path)
    assert row["status"] == "unavailable"
    assert (row["tier"], row["cause"], row["confidence"], row["escalated"], row["cost"]) == (None,) * 5


def test_nothing_of_a_text_is_in_the_file_unless_told(path: Path) -> None:
    with decision_log(path) as log:
        log.record(escalated())
        log.record_comparison(Comparison("id", "", "s", "l", "tie", small_answer="A secret.", large_answer="Another."))
    raw = path.read_bytes()
    assert b"Python" not in raw and b"language" not in raw and b"secret" not in raw


def test_texts_are_kept_when_told(path: Path) -> None:
    with decision_log(path, text=True) as log:
        log.record(escalated())
    (row,) = rows(path)
    assert (row["prompt"], row["answer"]) == ("What is Python?", "A language.")


def shout(text: str) -> str:
    return text.upper()


def fail(text: str) -> str:
    raise ValueError(text)


def test_a_redaction_sees_each_text_first(path: Path) -> None:
    with decision_log(path, text=True, redact=f"{__name__}:shout") as log:
        log.record(escalated())
        log.record_comparison(Comparison("id", "", "s", "l", "large", small_answer="one", large_answer="two"))
    (row,) = rows(path)
    assert (row["prompt"], row["answer"]) == ("WHAT IS PYTHON?", "A LANGUAGE.")
    (pair,) = rows(path, "comparisons")
    assert (pair["small_answer"], pair["large_answer"]) == ("ONE", "TWO")


def test_where_the_redaction_fails_no_text_is_kept(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with decision_log(path, text=True, redact=f"{__name__}:fail") as log:
        log.record(escalated())
    (row,) = rows(path)
    assert "Python" not in row["prompt"] and "language" not in row["answer"]
    assert "decisions.redact failed (ValueError)" in caplog.text and "Python" not in caplog.text


@pytest.mark.parametrize("name", ["no_such_module:f", f"{__name__}:no_such", f"{__name__}:EVENTS"])
def test_a_redaction_that_can_t_be_had_stops_the_start(path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="decisions.redact"):
        DecisionLog(DecisionsConfig(path=str(path), redact=name), lambda: 4.0)


def test_vectors_are_kept_as_float16(path: Path) -> None:
    vector = np.linspace(-1, 1, 8, dtype=np.float32)
    with decision_log(path, embeddings=True, embedding=lambda _: vector, features=lambda _: vector[:3]) as log:
        log.record(escalated())
    (row,) = rows(path)
    assert np.allclose(np.frombuffer(row["embedding"], np.float16), vector, atol=1e-3)
    assert len(row["features"]) == 6 and row["prompt"] is None


def test_a_pair_is_written_beside_the_decisions(path: Path) -> None:
    pair = Comparison("id", "alice", "s", "l", "small", "small", "tie", 0.9, 0.8, 2.0, 120.0)
    with decision_log(path, clock=lambda: 5.0) as log:
        log.record_comparison(pair)
    (row,) = rows(path, "comparisons")
    assert (row["request_id"], row["time"], row["verdict"], row["first_order"], row["second_order"]) == (
        *("id", 5.0),
        *("small", "small", "tie"),
    )
    assert (row["similarity"], row["confidence"], row["score"], row["judge_ms"]) == (0.9, 0.8, 2.0, 120.0)


def test_what_waits_at_the_end_is_written(path: Path) -> None:
    with decision_log(path) as log:
        for number in range(5000):
            log.record(outcome(str(number)))
    assert [row["id"] for row in rows(path)] == [str(number) for number in range(5000)]
    assert log.rows == 5000


def test_beyond_the_queue_rows_are_dropped_and_counted(path: Path) -> None:
    log = DecisionLog(DecisionsConfig(path=str(path), queue=10), lambda: 4.0)
    for number in range(25):
        log.record(outcome(str(number)))
    log.start()
    log._writer.close(30)
    assert len(rows(path)) == 10 and log.dropped("queue") == 15


def test_text_that_waits_is_bounded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tierserve.telemetry.decisions.log._QUEUE_BYTES", 100)
    log = DecisionLog(DecisionsConfig(path=str(path), text=True), lambda: 4.0)
    for _ in range(3):
        log.record(outcome(call=Call("id", Kind.CHAT, {}, (Prompt("x" * 60),))))
    assert log.dropped("queue") == 2
    log.start()
    until(lambda: log.rows == 1)
    log.record(outcome(call=Call("id", Kind.CHAT, {}, (Prompt("x" * 60),))))  # there is room again
    log._writer.close(30)
    assert len(rows(path)) == 2


def test_a_locked_file_costs_no_row_that_can_wait(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with decision_log(path) as log:
        log.record(outcome("before"))
        until(lambda: log.rows == 1)
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        log.record(outcome("during"))
        until(lambda: "can't be written (database is locked)" in caplog.text)
        assert log.rows == 1
        other.execute("COMMIT")
        other.close()
        until(lambda: log.rows == 2)
    assert [row["id"] for row in rows(path)] == ["before", "during"]
    assert "is written again" in caplog.text
    assert log.dropped("locked") == 0


def test_a_file_that_stays_locked_costs_rows_which_are_counted(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with decision_log(path, queue=10) as log:
        log.record(outcome("before"))
        until(lambda: log.rows == 1)
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        log.record(outcome("waits"))
        until(lambda: "is locked" in caplog.text)
        for number in range(20):
            log.record(outcome(str(number)))
        assert log.dropped("locked") == 11
    other.execute("COMMIT")
    other.close()
    assert log.dropped("locked") == 21  # what waited when the node ended, too
    assert [row["id"] for row in rows(path)] == ["before"]


FULL_DISK = """
import resource, signal, sys, time
from pathlib import Path
from tests.telemetry.decisions.test_log import decision_log, outcome, until
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
path = Path(sys.argv[1])
with decision_log(path, queue=50) as log:
    log.record(outcome("before"))
    until(lambda: log.rows == 1)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size, resource.RLIM_INFINITY))
    while not log.dropped("disk"):
        log.record(outcome("during", tier="x" * 1000))
        time.sleep(0.001)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    written = log.rows
    until(lambda: log.rows > written)
    log.record(outcome("after"))
print(log.rows, log.dropped("disk"))
"""


def test_a_full_disk_costs_rows_which_are_counted_and_no_more_once_there_is_room(path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(path)], env=environment, text=True, capture_output=True, timeout=60
    )
    assert run.returncode == 0, run.stderr
    written, dropped = map(int, run.stdout.split())
    found = [row["id"] for row in rows(path)]
    assert len(found) == written and dropped > 0
    assert found[0] == "before" and found[-1] == "after"
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY  # it was the child's alone


@pytest.mark.parametrize("damage", ["no database at all", "in the middle"])
def test_a_corrupt_file_is_set_aside_and_a_new_one_begun(
    path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    if damage == "in the middle":
        with decision_log(path) as log:
            for number in range(2000):
                log.record(outcome(str(number)))
        raw = path.read_bytes()
        path.write_bytes(raw[:4096] + b"\xff" * (len(raw) - 4096))
    else:
        path.write_bytes(b"no database, and long enough not to be taken for an empty one" * 100)
    with decision_log(path, clock=lambda: 0.0) as log:
        log.record(outcome("after"))
    assert [row["id"] for row in rows(path)] == ["after"]
    aside = path.with_name("decisions.sqlite.corrupt-19700101T000000")
    assert aside.exists() and str(aside) in caplog.text
    assert sum(log.dropped(reason) for reason in writer.REASONS) == 0


def test_a_file_that_somebody_removed_is_begun_anew(path: Path) -> None:
    with decision_log(path) as log:
        log.record(outcome("before"))
        until(lambda: log.rows == 1)
        path.unlink()
        log.record(outcome("after"))
    assert [row["id"] for row in rows(path)] == ["after"]


def test_a_file_of_version_1_is_brought_up_to_date_with_its_rows(path: Path) -> None:
    with decision_log(path) as log:
        log.record(outcome("old"))
    with sqlite3.connect(path) as connection:  # back to what the first migration makes
        connection.executescript("DROP TABLE comparisons; PRAGMA user_version = 1;")
    connection.close()
    with decision_log(path) as log:
        log.record(outcome("new"))
        log.record_comparison(Comparison("new", "", "s", "l", "tie"))
    assert [row["id"] for row in rows(path)] == ["old", "new"]
    assert len(rows(path, "comparisons")) == 1
    with sqlite3.connect(path) as connection:
        assert version(connection) == VERSION == len(MIGRATIONS)
    connection.close()


def test_a_newer_file_stops_the_start_and_is_left_alone(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {VERSION + 1}")
        connection.execute("CREATE TABLE other (x)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="newer tierserve"):
        DecisionLog(DecisionsConfig(path=str(path)), lambda: 4.0)
    assert path.read_bytes() == before


def test_a_path_that_can_t_be_stops_the_start(tmp_path: Path) -> None:
    for wrong in (tmp_path / "absent" / "log.sqlite", tmp_path):
        with pytest.raises(ConfigError, match="decisions.path"):
            DecisionLog(DecisionsConfig(path=str(wrong)), lambda: 4.0)


def test_others_may_not_read_the_file(path: Path) -> None:
    with decision_log(path) as log:
        log.record(outcome())
    assert path.stat().st_mode & 0o777 == 0o600


def test_rows_that_are_too_old_are_deleted(path: Path) -> None:
    now = [0.0]
    with decision_log(path, retention_days=1, clock=lambda: now[0]) as log:
        for number in range(3000):  # more than one deletion takes
            now[0] = number
            log.record(outcome(str(number)))
        log.record_comparison(Comparison("0", "", "s", "l", "tie"))
        until(lambda: log.rows == 3001)
        now[0] = 86400 + 2990.0
        log.record(outcome("last"))
        until(lambda: len(rows(path)) == 11)
    assert [row["id"] for row in rows(path)] == [*map(str, range(2990, 3000)), "last"]
    assert len(rows(path, "comparisons")) == 1


def test_a_file_that_is_too_large_loses_its_oldest_rows(path: Path) -> None:
    long = "x" * 1000
    with decision_log(path, max_mb=1, clock=iter(range(10_000_000)).__next__) as log:  # retains at once, and often
        for number in range(5000):
            log.record(outcome(str(number), tier=long))
        until(lambda: log.rows == 5000)
        until(lambda: len(rows(path)) < 1000)
    left = [int(row["id"]) for row in rows(path)]
    assert left == list(range(left[0], 5000)) and len(left) > 500
    assert path.stat().st_size < 1.5 * 2**20


def test_a_row_that_sqlite_refuses_is_dropped_alone_with_its_batch(path: Path) -> None:
    with decision_log(path) as log:
        log.record(outcome(usage=Usage(2**70, 1)))
        until(lambda: log.dropped("error") == 1)
        log.record(outcome("after"))
    assert [row["id"] for row in rows(path)] == ["after"]
