"""A fitted calibration: read, refused, applied."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierserve.confidence.calibration import Calibration
from tierserve.config import EscalationConfig
from tierserve.errors import ConfigError

GOOD = Calibration("logprob mean", [0.2, 0.6, 1.0], [0.1, 0.5, 0.9], "1,000 answers")
knots = st.lists(st.floats(0, 1), min_size=1, max_size=9).map(sorted)


def refused(folder: Path, content: str | bytes, estimator: str = "logprob mean") -> str:
    path = folder / "confidence.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError) as raised:
        Calibration.load(path, estimator)
    assert raised.value.where == f"escalation.calibration: {path}"
    assert "tierserve calibrate confidence" in raised.value.remedy
    return raised.value.problem


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    GOOD.save(tmp_path / "c.json")
    assert Calibration.load(tmp_path / "c.json", "logprob mean") == GOOD


@pytest.mark.parametrize(("stated", "right"), [(0, 0.1), (0.2, 0.1), (0.4, 0.3), (0.6, 0.5), (0.8, 0.7), (1, 0.9)])
def test_between_knots_is_a_line_and_beyond_them_the_nearest(stated: float, right: float) -> None:
    assert GOOD(stated) == pytest.approx(right)


@given(knots, knots, st.floats(0, 1), st.floats(0, 1))
def test_a_higher_confidence_never_becomes_a_lower_one(
    stated: list[float], right: list[float], one: float, other: float
) -> None:
    number = min(len(stated), len(right))
    calibration = Calibration("e", stated[:number], right[:number])
    low, high = sorted((one, other))
    assert 0 <= calibration(low) <= calibration(high) <= 1


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"5", b"null", b"\xff\xfe", b"[" * 100_000, b'{"estimator": "logprob mean"}']
)
def test_what_is_no_calibration_is_said_to_be_none(tmp_path: Path, content: bytes) -> None:
    assert refused(tmp_path, content).startswith("is no calibration")


def test_so_is_what_is_not_there_or_has_more_to_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no calibration"):
        Calibration.load(tmp_path / "absent.json", "logprob mean")
    assert "is no calibration" in refused(tmp_path, json.dumps(asdict(GOOD) | {"more": 1}))


def test_one_for_another_estimator_is_refused(tmp_path: Path) -> None:
    said = refused(tmp_path, json.dumps(asdict(GOOD)), "structured first")
    assert said == "is for 'logprob mean', not for 'structured first'"


@pytest.mark.parametrize(
    "damage",
    [
        {"stated": []},
        {"stated": [], "right": []},
        {"stated": [0.1, 0.2]},
        {"stated": [0.6, 0.2, 1.0]},
        {"right": [0.5, 0.1, 0.9]},
        {"right": [0.1, 0.5, 1.1]},
        {"stated": [-0.1, 0.6, 1.0]},
        {"stated": [0.1, float("nan"), 1.0]},
        {"right": [0.1, None, 0.9]},
        {"right": ["0.1", "0.5", "0.9"]},
        {"right": "abc"},
        {"stated": {"0.1": 1}},
    ],
    ids=str,
)
def test_knots_that_are_none_are_refused(tmp_path: Path, damage: dict[str, Any]) -> None:
    assert refused(tmp_path, json.dumps(asdict(GOOD) | damage)).startswith("has knots that are not two rising lists")


def test_estimators_whose_numbers_differ_are_named_apart() -> None:
    options: list[dict[str, Any]] = [
        {"statistic": "mean"},
        {"statistic": "minimum"},
        {"statistic": "minimum", "window": 8},
        {"statistic": "entropy"},
        {"estimator": "structured"},
        {"estimator": "structured", "position": "last"},
    ]
    assert len({EscalationConfig(**some).judged_by for some in options}) == len(options)
    assert EscalationConfig(window=8).judged_by == EscalationConfig(window=4).judged_by, "a mean has no window"
