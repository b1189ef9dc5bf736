"""What the node's metrics say of drift."""

import logging
import math
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from tests.server.running import until
from tierserve.config import NodeConfig
from tierserve.core import Measure
from tierserve.server.drifting import Drifting
from tierserve.telemetry.decisions.rows import INSERT_COMPARISON, Comparison, compared
from tierserve.telemetry.decisions.schema import migrate
from tierserve.telemetry.families.drift import Drift

NOW = 1_000_000_000.0


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


def config(path: Path | None) -> NodeConfig:
    tiers = {
        role: {"name": f"my-{role}", "remote": {"url": "http://host/v1", "model": "m"}} for role in ("small", "large")
    }
    return NodeConfig.model_validate({"tiers": tiers} | ({"decisions": {"path": str(path)}} if path else {}))


def write(path: Path, recent_right: int, baseline_right: int) -> None:
    """Of 200 comparisons in each window."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        migrate(connection)
        connection.execute("BEGIN")
        for when, right in ((NOW - 86400, recent_right), (NOW - 14 * 86400, baseline_right)):
            for number in range(200):
                verdict = "tie" if number < right else "large"
                row = compared(Comparison(str(number), "", "s", "l", verdict), when)  # type: ignore[arg-type]
                connection.execute(INSERT_COMPARISON, row)
        connection.execute("COMMIT")


def value(registry: CollectorRegistry, name: str, **labels: str) -> float:
    found = registry.get_sample_value(f"tierserve_drift_{name}", labels)
    assert found is not None
    return found


async def test_a_loss_is_shown(tmp_path: Path, registry: CollectorRegistry, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "log.db", 120, 180)
    drifting = Drifting(config(tmp_path / "log.db"), Drift(registry), lambda: NOW)
    with caplog.at_level(logging.WARNING):
        async with drifting.watching():
            await until(lambda: value(registry, "timestamp_seconds"))
    assert drifting.brief is not None and drifting.brief["summary"] == "ALARM: win_rate"
    assert any("60.0 %" in line and "90.0 %" in line for line in drifting.brief["details"])
    assert value(registry, "timestamp_seconds") == NOW
    assert value(registry, "alarm", measure="win_rate") == 1
    assert value(registry, "value", measure="win_rate", window="recent") == 0.6
    assert value(registry, "value", measure="win_rate", window="baseline") == 0.9
    assert value(registry, "missing_samples", measure="win_rate", window="recent") == 0
    assert value(registry, "alarm", measure="score") == 0
    assert value(registry, "missing_samples", measure="score", window="baseline") == 500
    assert "drift: win_rate changed" in caplog.text


async def test_a_log_that_can_not_be_read_leaves_what_was_known(
    tmp_path: Path, registry: CollectorRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "log.db"
    write(path, 180, 180)
    drifting = Drifting(config(path), Drift(registry), lambda: NOW)
    await drifting.look()
    path.write_bytes(b"no database" * 100)
    await drifting.look()
    assert value(registry, "value", measure="win_rate", window="recent") == 0.9
    assert "drift was not looked for" in caplog.text


async def test_without_a_log_nothing_is_known(registry: CollectorRegistry) -> None:
    async with Drifting(config(None), Drift(registry), time.time).watching():
        pass
    for measure in Measure:
        assert value(registry, "alarm", measure=measure) == 0
        assert math.isnan(value(registry, "value", measure=measure, window="recent"))
    assert value(registry, "timestamp_seconds") == 0
