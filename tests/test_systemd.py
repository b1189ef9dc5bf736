"""The units, judged by systemd's own tools, and against what the node does."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tierserve.config import ServerConfig

UNITS = ROOT / "systemd"


@pytest.fixture
def installed(tmp_path: Path) -> list[str]:
    """Both units, as on a host where the command stands here."""
    command = str(Path(sys.executable).with_name("tierserve"))
    paths = []
    for name in ("tierserve.service", "tierserve.socket"):
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
