"""`tierserve calibrate confidence`: what an estimator said of answers, and which were right, to a calibration.

    judged = read_judged([Path("judged.jsonl")])     # {"confidence": 0.93, "right": 1, "estimator": "logprob mean"}
    calibration, report = calibrate_confidence(judged)
    calibration.save(path)

Isotonic regression (Zadrozny and Elkan, KDD 2002): the order stays, the numbers become shares of right answers.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tierserve.confidence.calibration import Calibration
from tierserve.errors import ConfigError
from tierserve.quality.answers import auroc, calibration_error
from tierserve.quality.outcomes import lines

_REMEDY: Final = 'rows look like {"confidence": 0.93, "right": 1, "estimator": "logprob mean"}'
_LEAST: Final = 100
_FOLDS: Final = 5


@dataclass(frozen=True, slots=True)
class Judged:
    """Columns of equal length, in 0..1."""

    estimator: str
    confidences: NDArray[np.float64]
    right: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Report:
    """Expected calibration errors, of the raw numbers and, on answers that it was not fitted to, of the calibrated
    ones; and the AUROC, which calibration does not change."""

    answers: int
    right: float
    auroc: float
    raw_error: float
    calibrated_error: float


def read_judged(paths: Sequence[Path]) -> Judged:
    """The rows of all files, which must be of one estimator. Raises ConfigError, with file and line."""
    rows = [_row(line, where) for path in paths for line, where in lines(path)]
    if not rows:
        raise ConfigError(", ".join(map(str, paths)), "holds no judged answers", _REMEDY)
    estimators = sorted({estimator for estimator, _, _ in rows})
    if len(estimators) > 1:
        raise ConfigError("--data", f"holds answers judged by {' and '.join(estimators)}", "calibrate each by itself")
    _, confidences, right = zip(*rows, strict=True)
    return Judged(estimators[0], np.array(confidences), np.array(right))


def calibrate_confidence(judged: Judged) -> tuple[Calibration, Report]:
    """Raises ConfigError where the answers are too few, or all right or all wrong."""
    confidences, right = judged.confidences, judged.right
    if len(right) < _LEAST:
        raise ConfigError("--data", f"has {len(right)} answers", f"judge at least {_LEAST}")
    known = right > 0.5
    if known.all() or not known.any():
        raise ConfigError(
            "--data", f"has no {'wrong' if known.all() else 'right'} answer", "judge harder or easier ones"
        )
    folds = np.random.default_rng(0).permutation(len(right)) % _FOLDS
    unseen = np.empty_like(confidences)
    for fold in range(_FOLDS):
        kept = folds == fold
        unseen[kept] = np.interp(confidences[kept], *_knots(confidences[~kept], right[~kept]))
    report = Report(
        len(right),
        float(right.mean()),
        auroc(confidences.tolist(), known.tolist()),
        calibration_error(confidences.tolist(), known.tolist()),
        calibration_error(unseen.tolist(), known.tolist()),
    )
    note = f"{len(right)} answers, {right.mean():.1%} right"
    stated, shares = _knots(confidences, right)
    return Calibration(judged.estimator, stated.tolist(), shares.tolist(), note), report


def _knots(confidences: NDArray[np.float64], right: NDArray[np.float64]) -> tuple[NDArray[Any], NDArray[Any]]:
    from sklearn.isotonic import IsotonicRegression

    fitted = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(confidences, right)
    return fitted.X_thresholds_, fitted.y_thresholds_


def _row(line: str, where: str) -> tuple[str, float, float]:
    try:
        row = json.loads(line)
        estimator, confidence, right = row["estimator"], float(row["confidence"]), float(row["right"])
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigError(where, f"is no judged answer ({error!r})", _REMEDY) from None
    if not (isinstance(estimator, str) and 0 <= confidence <= 1 and 0 <= right <= 1):
        raise ConfigError(where, "has a confidence, or a right, that is not in 0..1", _REMEDY)
    return estimator, confidence, right
