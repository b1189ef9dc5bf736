"""The commands that read a log, and what they are made of."""

import json
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.telemetry.decisions.test_log import decision_log, escalated, outcome, path, until
from tierserve.cli import main
from tierserve.core import Call, Kind, Prompt
from tierserve.errors import ConfigError
from tierserve.telemetry.decisions.moments import moment
from tierserve.telemetry.decisions.printing import line, visible
from tierserve.telemetry.decisions.reading import reading
from tierserve.telemetry.decisions.rows import Comparison

__all__ = ["path"]  # a fixture
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command in this process: exit status, standard output, standard error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["tierserve", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        code = ended.value.code
        assert isinstance(code, int)
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def filled(path: Path) -> Path:
    now = iter(range(100, 1000))
    with decision_log(path, text=True, clock=lambda: float(next(now))) as log:
        for number in range(30):
            log.record(outcome(f"request-{number}"))
        log.record(escalated())
        log.record_comparison(Comparison("id", "alice", "s", "l", "large", "large", "large", 0.5))
    return path


def test_the_latest_are_listed_a_line_each(filled: Path, run: Run) -> None:
    status, out, _ = run("log", "tail", "-n", 3, "--file", filled)
    head, *lines = out.splitlines()
    assert status == 0 and head.startswith("time ") and len(lines) == 3
    assert [each.split()[-1] for each in lines] == ["request-28", "request-29", "id"]
    assert "l^" in lines[2] and "escalation" in lines[2] and "11>12" in lines[2] and "alice" in lines[2]


def test_the_node_s_configuration_names_the_log_too(filled: Path, run: Run, tmp_path: Path) -> None:
    config = tmp_path / "node.yaml"
    tier = {"engine": {"model": "m"}}
    data: dict[str, Any] = {"tiers": {"small": {"name": "s", **tier}, "large": {"name": "l", **tier}}}
    config.write_text(json.dumps(data | {"decisions": {"path": filled.name}}))  # beside the configuration
    assert run("log", "tail", "-n", 1, "--config", config)[1].splitlines()[1].endswith("id")
    config.write_text(json.dumps(data))
    status, _, error = run("log", "tail", "--config", config)
    assert status == 2 and "set decisions.path" in error
    status, _, error = run("log", "tail")
    assert status == 2 and "--file LOG" in error


def test_a_reader_sees_what_the_node_writes_meanwhile(path: Path) -> None:
    with decision_log(path) as log:
        log.record(outcome("one"))
        until(lambda: log.rows == 1)
        with reading(path) as decisions:
            (row,) = decisions.last(10)
            log.record(outcome("two"))
            until(lambda: log.rows == 2)
            assert [each["id"] for each in decisions.after(row["seq"])] == ["two"]
        command = [sys.executable, "-m", "tierserve", "log", "tail", "-f", "--file", str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as follower:
            assert follower.stdout is not None
            shown = [follower.stdout.readline() for _ in range(3)]
            log.record(outcome("three"))
            shown.append(follower.stdout.readline())
            follower.terminate()
    assert [each.split()[-1] for each in shown[1:]] == ["one", "two", "three"]


def test_one_request_is_shown_in_full(filled: Path, run: Run) -> None:
    status, out, _ = run("log", "show", "id", "--file", filled)
    assert status == 0
    for told in ("escalated yes", "doubt low", "cause escalation", "What is Python?", "A language.", "cost 0.3"):
        assert told in out
    assert "compared 1970-01-01 00:02:11: large (first_order large" in out
    (row,) = [json.loads(each) for each in run("log", "show", "id", "--json", "--file", filled)[1].splitlines()]
    assert row["escalated"] is True and row["confidence"] == 0.25
    status, _, error = run("log", "show", "absent", "--file", filled)
    assert status == 1 and "no request 'absent'" in error


def test_text_can_t_command_the_terminal(path: Path, run: Run) -> None:
    with decision_log(path, text=True) as log:
        log.record(outcome(call=Call("id", Kind.CHAT, {}, (Prompt("\x1b[31mred\x07\u202e"),))))
    out = run("log", "show", "id", "--file", path)[1]
    assert "red" in out and not {"\x1b", "\x07", "\u202e"} & set(out)
    assert visible("a\nb") == "a\ufffdb" and visible("ä 漢") == "ä 漢"


def test_the_log_as_json_lines(filled: Path, run: Run, tmp_path: Path) -> None:
    out = tmp_path / "log.jsonl"
    status, printed, told = run("log", "export", "--file", filled, "--out", out)
    assert (status, printed) == (0, "") and "31 decisions" in told
    rows = [json.loads(each) for each in out.read_text().splitlines()]
    assert [row["id"] for row in rows] == [*(f"request-{n}" for n in range(30)), "id"]
    assert rows[-1]["stream"] is True and rows[-1]["answer"] == "A language."
    some = run("log", "export", "--file", filled, "--since", "1970-01-01T00:02:09", "--until", "1970-01-01T00:02:10")[1]
    assert [json.loads(each)["id"] for each in some.splitlines()] == ["request-29"]


def test_the_log_as_parquet(path: Path, run: Run, tmp_path: Path) -> None:
    np = pytest.importorskip("numpy")
    parquet = pytest.importorskip("pyarrow.parquet")
    with decision_log(path, embeddings=True, embedding=lambda _: np.array([0.5, -1.0])) as log:
        log.record(outcome("first"))
        log.record(escalated())
    out = tmp_path / "log.parquet"
    assert run("log", "export", "--file", path, "--format", "parquet", "--out", out)[0] == 0
    first, second = parquet.read_table(out).to_pylist()
    assert (first["id"], first["escalated"], second["escalated"]) == ("first", None, True)
    assert second["embedding"] == [0.5, -1.0] and second["cost"] == 0.3 and second["turns"] == 2
    assert run("log", "export", "--file", path, "--format", "parquet")[0] == 2


def test_parquet_without_pyarrow_says_what_to_install(
    filled: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    status, _, error = run("log", "export", "--file", filled, "--format", "parquet", "--out", tmp_path / "x")
    assert status == 2 and "pip install 'tierserve[parquet]'" in error


def test_what_is_no_log_is_said(tmp_path: Path, run: Run) -> None:
    status, _, error = run("log", "tail", "--file", tmp_path / "absent")
    assert status == 2 and "there is no decision log" in error
    (tmp_path / "other").write_text("something else " * 1000)
    status, _, error = run("log", "tail", "--file", tmp_path / "other")
    assert status == 2 and "can't be read" in error
    with sqlite3.connect(tmp_path / "newer") as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(ConfigError, match="is of version 99"), reading(tmp_path / "newer"):
        pass


def test_a_log_in_a_folder_that_may_not_be_written_to_is_read(filled: Path) -> None:
    copy = filled.parent / "archive"
    copy.mkdir()
    (copy / "log").write_bytes(filled.read_bytes())
    (copy / "log").chmod(0o400)
    copy.chmod(0o500)
    try:
        with reading(copy / "log") as decisions:
            assert len(decisions.last(100)) == 31
    finally:
        copy.chmod(0o700)


def test_a_row_without_a_tier_has_a_line(path: Path) -> None:
    with decision_log(path) as log:
        log.record(outcome(decision=None, tier=None))
    with reading(path) as decisions:
        assert line(decisions.last(1)[0]).split()[2:4] == ["-", "-"]


def test_moments() -> None:
    now = time.mktime((2026, 3, 5, 0, 0, 0, 0, 0, 0))
    assert moment("2d", now) == now - 2 * 86400 and moment("1.5h", now) == now - 5400
    assert moment("1970-01-02", now) == 86400 and moment("1970-01-02T00:00:01+01:00", now) == 86401 - 3600
    with pytest.raises(ValueError, match="is no time"):
        moment("soon", now)


def test_a_time_that_is_none_is_said(filled: Path, run: Run) -> None:
    assert run("log", "export", "--file", filled, "--since", "soon")[0] == 2
    assert run("report", "--file", filled, "--since", "1d", "--until", "2d")[0] == 2
