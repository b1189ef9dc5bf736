import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tierserve.lab.asking import Said
from tierserve.lab.question import Question, Split
from tierserve.lab.report import Measured, as_json, table
from tierserve.lab.structured import Answer, Position, write

ROOT = Path(__file__).resolve().parents[2]
TARGETS = {
    "large_accuracy",
    "small_accuracy",
    "small_simple_accuracy",
    "gap_points",
    "confidence_ece",
    "confidence_auroc",
    "logprob_auroc",
}


def said(family: str, text: str, logprob: float = 0.0) -> Said:
    return Said(Question(family, 1, 1.0, Split.HELD_OUT, "", "", "yes"), text, 2, logprob)


def test_figures_come_from_what_was_said() -> None:
    small = [said("intent", "yes", -0.1), said("lookup", "yes", -0.2), said("order", "no", -0.9), said("shift", "yes")]
    large = [said(one.question.family, "yes") for one in small]
    stated = [
        said(one.question.family, write(Position.FIRST, Answer(one.text, confidence)))
        for one, confidence in zip(small, (1.0, 1.0, 0.0, 1.0), strict=True)
    ]
    unreadable = [said(one.question.family, '{"content": "yes') for one in small]
    measured = Measured(small, large, {Position.FIRST: stated, Position.LAST: unreadable})
    report = as_json(measured, "report", quick=True)
    targets = {target["name"]: target for target in report["targets"]}
    assert targets.keys() == TARGETS
    assert targets["large_accuracy"]["value"] == 1 and targets["large_accuracy"]["reached"]
    assert targets["small_accuracy"]["value"] == 0.75 and targets["gap_points"]["value"] == 25
    assert not targets["gap_points"]["reached"]
    assert targets["small_simple_accuracy"]["value"] == 1
    assert targets["confidence_ece"]["value"] == 0 and targets["confidence_auroc"]["value"] == 1
    assert targets["logprob_auroc"]["value"] == 1
    confidence = report["results"][-1]["confidence"]
    assert confidence["last"]["right"] == 0 and confidence["last"]["readable"] == 0
    assert {row["family"]: row["asked"] for row in report["results"][:-1]} == {
        "intent": 1, "lookup": 1, "order": 1, "shift": 1, "simple": 2, "all": 4,
    }  # fmt: skip
    assert "gap_points" in table(report) and "not reached" in table(report)


@pytest.mark.engine
def test_the_report_is_made_by_the_real_engines() -> None:
    command = [sys.executable, "-m", "tierserve.lab", "report", "--quick", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert {target["name"] for target in report["targets"]} == TARGETS
    values = {target["name"]: target["value"] for target in report["targets"]}
    # 60 questions: wide room, and yet an untrained pair would be far below it.
    assert values["large_accuracy"] > 0.75
    assert values["small_simple_accuracy"] > 0.8
    assert values["large_accuracy"] >= values["small_accuracy"]
    assert all(figures["readable"] > 0.95 for figures in report["results"][-1]["confidence"].values())


@pytest.mark.engine
def test_outcomes_have_the_form_that_a_router_is_fitted_on(tmp_path: Path) -> None:
    out = tmp_path / "lab.jsonl.gz"
    command = [sys.executable, "-m", "tierserve.lab", "outcomes", "--out", str(out), "--count", "40"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    with gzip.open(out, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    assert len(rows) == 40
    for row in rows:
        assert {row["small_model"], row["large_model"]} == {"lab-small", "lab-large"}
        assert row["small_score"] in (0, 1) and row["large_score"] in (0, 1)
        assert row["small_tokens"] > 0 and row["prompt"]
