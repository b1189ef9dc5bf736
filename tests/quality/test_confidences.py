import json
from pathlib import Path

import pytest

from tierserve.errors import ConfigError
from tierserve.quality.confidences import calibrate_confidence, read_judged


def rows(path: Path, count: int = 200, **changes: object) -> Path:
    """Of those that are 0.6 sure one in four is right, of those that are 0.9 sure three."""
    judged = [
        {"confidence": (0.6, 0.9)[at % 2], "right": int(at % 8 < (1, 6)[at % 2]), "estimator": "a"}
        for at in range(count)
    ]
    path.write_text("\n".join(json.dumps(row | changes) for row in judged))
    return path


def test_a_confidence_becomes_the_share_that_was_right(tmp_path: Path) -> None:
    calibration, report = calibrate_confidence(read_judged([rows(tmp_path / "judged.jsonl")]))
    assert (calibration(0.6), calibration(0.9)) == (0.25, 0.75)
    assert calibration.estimator == "a"
    assert report.calibrated_error < 0.1 < report.raw_error


@pytest.mark.parametrize("changes", [{"confidence": 2}, {"right": "x"}, {"estimator": None}])
def test_a_row_that_is_none_is_named(tmp_path: Path, changes: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="judged.jsonl:1"):
        read_judged([rows(tmp_path / "judged.jsonl", **changes)])


def test_too_little_to_learn_from_is_refused(tmp_path: Path) -> None:
    for few in ({"count": 99}, {"right": 1}, {"right": 0}):
        with pytest.raises(ConfigError):
            calibrate_confidence(read_judged([rows(tmp_path / "judged.jsonl", **few)]))
    with pytest.raises(ConfigError, match="a and b"):
        read_judged([rows(tmp_path / "a"), rows(tmp_path / "b", estimator="b")])
