"""Five weeks of simulated traffic: a scripted pair, the real pipeline, the real decision log, the command."""

import asyncio
import json
import random
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.test_pipeline import HARD, SIMPLE, word_router
from tierserve.config import DecisionsConfig, DriftConfig, EscalationConfig
from tierserve.core import Call, Kind, Measure, Outcome, Prompt
from tierserve.errors import ConfigError, TierserveError
from tierserve.escalation.escalator import build_escalator
from tierserve.pipeline import Pipeline
from tierserve.quality.drift.windows import drift
from tierserve.telemetry.decisions.log import DecisionLog
from tierserve.telemetry.decisions.rows import Comparison
from tierserve.tiers.pair import TierPair
from tierserve.tiers.scripted import ScriptedTier

DAYS, A_DAY, COMPARED = 35, 100, 3  # of a day's requests every third is compared
WEEK_S, DAY_S = 7 * 86400, 86400
END = time.time() - 3600  # of the traffic; the command looks back from now


class Node:
    """`clock` is the time of day that the log writes down."""

    def __init__(self, path: Path) -> None:
        self.now = END - DAYS * DAY_S
        self.small, self.large = ScriptedTier("s"), ScriptedTier("l", ["right"])
        self.tiers = TierPair(self.small, self.large)
        router = word_router()
        self.log = DecisionLog(DecisionsConfig(path=str(path), queue=100_000), lambda: 4.0, clock=lambda: self.now)
        escalator = build_escalator(EscalationConfig(budget=None), self.tiers, lambda: 4.0)
        self.outcomes: list[Outcome] = []
        self.pipeline = Pipeline(router, self.tiers, self._record, escalator)
        self.router = router

    def _record(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        self.log.record(outcome)

    async def answer(self, number: int, prompt: str, says: str, confidence: float) -> None:
        self.small.script = [(says, confidence)]
        await self.pipeline.answer(Call(f"r{number}", Kind.CHAT, {}, (Prompt(prompt),)))
        outcome = self.outcomes.pop()
        if outcome.tier == "s" and number % COMPARED == 0:
            self._compare(outcome, says)

    def _compare(self, outcome: Outcome, says: str) -> None:
        assert outcome.judgement is not None
        verdict: Any = "tie" if says == self.large.script[0] else "large"
        confidence = outcome.judgement.confidence
        self.log.record_comparison(Comparison(outcome.call.id, "", "s", "l", verdict, confidence=confidence))


async def traffic(path: Path, lost: float) -> None:
    """`lost`: in the last week so many fewer of the small tier's answers are right, though it is as sure of them."""
    node, rng = Node(path), random.Random(7)
    node.log.start()
    await node.router.start()
    await node.tiers.start()
    for number in range(DAYS * A_DAY):
        node.now += DAY_S / A_DAY
        confidence = rng.choice([0.95, 0.9, 0.85, 0.8, 0.5])
        keeps = confidence - (lost if node.now > END - WEEK_S else 0)
        says = "right" if rng.random() < keeps else "wrong"
        await node.answer(number, HARD if rng.random() < 0.15 else SIMPLE, says, confidence)
        if number % 500 == 0:
            await asyncio.sleep(0)
    await node.router.close()
    await node.log.close()


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    folder = tmp_path_factory.mktemp("drift")
    paths = {"quiet": folder / "quiet.db", "loss": folder / "loss.db"}
    for name, path in paths.items():
        asyncio.run(traffic(path, 0.25 if name == "loss" else 0.0))
    yield paths


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "tierserve", "drift", *arguments]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_a_quiet_week_raises_no_alarm(logs: dict[str, Path]) -> None:
    done = command("--log", str(logs["quiet"]))
    assert (done.returncode, done.stderr) == (0, "")
    assert "no drift found" in done.stdout and "too few" not in done.stdout


def test_a_week_with_a_loss_raises_one_for_what_was_lost_alone(logs: dict[str, Path]) -> None:
    done = command("--log", str(logs["loss"]), "--since", "7d", "--baseline", "4w")
    assert (done.returncode, done.stderr) == (3, "")
    assert done.stdout.endswith("ALARM: win_rate, calibration\n")


def test_the_json_says_the_same(logs: dict[str, Path]) -> None:
    done = command("--log", str(logs["loss"]), "--json")
    report = json.loads(done.stdout)
    assert done.returncode == 3 and report["alarm"] is True
    measures = {measure["measure"]: measure for measure in report["measures"]}
    assert set(measures) == set(Measure)
    won = measures["win_rate"]
    assert won["recent"]["low"] < won["recent"]["value"] < won["recent"]["high"] < won["baseline"]["low"]
    assert won["effect"] == pytest.approx(-0.25, abs=0.08) and won["p"] < 0.002
    assert not measures["score"]["alarm"] and measures["score"]["effect"] < 0.05


def test_what_is_counted_is_what_was_asked(logs: dict[str, Path]) -> None:
    report = drift(logs["quiet"], DriftConfig(), END)
    assert len(report.recent.scores) == report.recent.routed == 7 * A_DAY
    assert len(report.baseline.scores) == 28 * A_DAY - 1  # the first came at the very start of it
    assert report[Measure.ESCALATION].baseline.value == pytest.approx(0.2, abs=0.03)  # one answer in five has 0.5
    assert report[Measure.LARGE_SHARE].baseline.value == pytest.approx(0.15 + 0.85 * 0.2, abs=0.03)


def test_too_few_samples_are_counted_and_nothing_is_guessed(logs: dict[str, Path]) -> None:
    done = command("--log", str(logs["loss"]), "--since", "12h", "--json")
    report = json.loads(done.stdout)
    assert done.returncode == 0 and report["alarm"] is False
    for measure in report["measures"]:
        least = 100 if measure["measure"] in ("win_rate", "calibration") else 500
        assert measure["missing"] == least - measure["recent"]["size"] > 0
        assert measure["effect"] is measure["p"] is None
    text = command("--log", str(logs["loss"]), "--since", "12h").stdout
    missing = report["measures"][0]["missing"]
    assert f"win_rate needs {missing} more comparisons in the recent window" in text
    assert text.endswith("nothing can be said yet\n")


def test_who_chose_a_tier_is_not_in_its_share(logs: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "forced.db"
    path.write_bytes(logs["quiet"].read_bytes())
    with sqlite3.connect(path) as connection:
        changed = connection.execute("UPDATE decisions SET cause = 'header' WHERE role = 'large'").rowcount
    connection.close()
    report = drift(path, DriftConfig(), END)
    assert changed > 0 and report.recent.large == 0
    assert report.recent.routed < 7 * A_DAY


def test_a_log_that_is_not_there_or_is_none_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such decision log"):
        drift(tmp_path / "absent.db", DriftConfig(), END)
    (tmp_path / "other.db").write_text("no database " * 100)
    with pytest.raises(TierserveError, match="can't be read as a decision log"):
        drift(tmp_path / "other.db", DriftConfig(), END)
    assert command("--log", str(tmp_path / "absent.db")).returncode == 2
    assert command("--log", str(tmp_path / "other.db")).returncode == 1


def test_a_configuration_without_a_log_and_a_time_that_is_none_are_said() -> None:
    done = command("--config", "configs/g6e-48xlarge.yaml")
    assert done.returncode == 2 and "decisions: is off" in done.stderr
    assert command().returncode == 2
    for text in ("7", "0d", "week", "-7d", "nand"):
        done = command("--log", "x.db", f"--since={text}")
        assert done.returncode == 2 and "is no time" in done.stderr
