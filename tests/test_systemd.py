"""The units, judged by systemd's own tools, and against what the node does."""

import os
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import date
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tierserve.config import ServerConfig
from tierserve.telemetry.decisions.schema import migrate

UNITS = ROOT / "systemd"


@pytest.fixture
def installed(tmp_path: Path) -> list[str]:
    """The units, as on a host where the command stands here."""
    command = str(Path(sys.executable).with_name("tierserve"))
    paths = []
    for name in ("tierserve.service", "tierserve.socket", "tierserve-drift.service", "tierserve-drift.timer"):
        path = tmp_path / name
        path.write_text((UNITS / name).read_text().replace("/opt/tierserve/.venv/bin/tierserve", command))
        paths.append(str(path))
    return paths


def analyze(*arguments: str) -> str:
    environment = os.environ | {"SYSTEMD_COLORS": "0", "SYSTEMD_LOG_LEVEL": "warning"}
    command = ["systemd-analyze", "--no-pager", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def option(name: str) -> str:
    (value,) = re.findall(rf"^{name}=(.*)$", (UNITS / "tierserve.service").read_text(), re.M)
    return str(value)


def test_verify_has_nothing_to_say(installed: list[str]) -> None:
    assert analyze("verify", *installed) == ""


def test_verify_would_say_something(installed: list[str]) -> None:
    path = Path(installed[0])
    path.write_text(path.read_text().replace("WatchdogSec=", "WatchdogSecs="))
    assert "WatchdogSecs" in analyze("verify", installed[0])


def test_the_exposure_is_at_most_2_5_and_as_the_readme_says(installed: list[str]) -> None:
    report = analyze("security", "--offline=true", installed[0])
    (rating,) = re.findall(r"exposure level for tierserve.service: ([\d.]+)", report)
    assert float(rating) <= 2.5
    assert f"rates the unit {rating};" in (UNITS / "README.md").read_text()


def test_a_stop_has_time_for_draining() -> None:
    drain_s = ServerConfig().drain_s
    assert float(option("TimeoutStopSec")) > drain_s + 20  # and for the last bytes, and the engines


def test_the_socket_is_where_the_node_would_listen_itself() -> None:
    server = ServerConfig()
    assert f"ListenStream={server.host}:{server.port}\n" in (UNITS / "tierserve.socket").read_text()


def test_the_drift_unit_is_shut_off_and_its_alarm_is_a_failure(installed: list[str]) -> None:
    report = analyze("security", "--offline=true", installed[2])
    (rating,) = re.findall(r"exposure level for tierserve-drift.service: ([\d.]+)", report)
    assert float(rating) <= 1.0
    assert not re.search(r"^SuccessExitStatus=", (UNITS / "tierserve-drift.service").read_text(), re.M)


def test_the_drift_timer_is_weekly() -> None:
    (when,) = re.findall(r"^OnCalendar=(.*)$", (UNITS / "tierserve-drift.timer").read_text(), re.M)
    told = analyze("calendar", "--iterations=2", str(when))
    first, second = (date.fromisoformat(day) for day in re.findall(r"(?:elapse|#2): \w+ (\S+)", told))
    assert (second - first).days == 7


def test_the_drift_command_needs_no_memory_that_can_be_written_and_run(tmp_path: Path) -> None:
    """MemoryDenyWriteExecute, as the kernel does it from 6.3 on."""
    code = """
import ctypes, sys
if ctypes.CDLL(None, use_errno=True).prctl(65, 1, 0, 0, 0):  # PR_SET_MDWE
    sys.exit(77)
from tierserve.cli import main
main()
"""
    log = tmp_path / "log.db"
    with closing(sqlite3.connect(log, isolation_level=None)) as connection:
        migrate(connection)
    done = subprocess.run([sys.executable, "-c", code, "drift", "--log", log], capture_output=True, text=True)
    if done.returncode == 77:
        pytest.skip("the kernel is older than 6.3")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("nothing can be said yet\n")
