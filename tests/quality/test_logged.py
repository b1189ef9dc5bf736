from pathlib import Path

import pytest

from tests.telemetry.decisions.test_log import decision_log, outcome
from tierserve.core import Call, Kind, Prompt
from tierserve.errors import ConfigError
from tierserve.quality.logged import read_logged
from tierserve.telemetry.decisions.rows import Comparison, Verdict

VERDICTS: list[Verdict] = ["small", "large", "tie"]


def fill(path: Path, text: bool) -> None:
    with decision_log(path, text=text) as log:
        for verdict in VERDICTS:
            log.record(outcome(call=Call(verdict, Kind.CHAT, {}, (Prompt(f"one that {verdict} wins", 2),))))
            log.record_comparison(Comparison(verdict, "", "s", "l", verdict))
        log.record(outcome("never compared"))
        log.record_comparison(Comparison("never logged", "", "s", "l", "tie"))


def test_verdicts_are_outcomes_of_their_prompts(tmp_path: Path) -> None:
    fill(tmp_path / "log", text=True)
    found = read_logged(tmp_path / "log")
    assert list(found.prompts) == [Prompt(f"one that {verdict} wins", 2) for verdict in VERDICTS]
    assert found.gain.tolist() == [-1, 1, 0]
    assert set(found.sources) == {"s and l"}


def test_without_text_it_says_what_to_switch_on(tmp_path: Path) -> None:
    fill(tmp_path / "log", text=False)
    with pytest.raises(ConfigError, match="4 comparisons, none of them with its prompt.*decisions.text"):
        read_logged(tmp_path / "log")
