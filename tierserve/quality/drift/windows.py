"""The two windows of a decision log. Only reads: the node may be writing to the file meanwhile."""

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from tierserve.config import DriftConfig
from tierserve.core import Cause, Measure
from tierserve.errors import ConfigError, TierserveError
from tierserve.quality.drift.report import Limits, Report, Window, compare

_DAY_S: Final = 86400.0
_BUSY_S: Final = 5.0
# Where it went was the caller's choice, and says nothing of the router.
_NO_CHOICE: Final = (Cause.MODEL, Cause.HEADER, Cause.KEY)

_REQUESTS: Final = f"""
    SELECT count(escalated), coalesce(sum(escalated), 0),
           count(*) FILTER (WHERE routed), count(*) FILTER (WHERE routed AND role = 'large'), avg(threshold)
    FROM (SELECT *, tier IS NOT NULL AND cause NOT IN ({", ".join("?" * len(_NO_CHOICE))}) AS routed
          FROM decisions WHERE time >= ? AND time < ?)"""
_SCORES: Final = "SELECT score FROM decisions WHERE time >= ? AND time < ? AND score IS NOT NULL"
_COMPARISONS: Final = "SELECT verdict, confidence FROM comparisons WHERE time >= ? AND time < ?"


def limits(config: DriftConfig) -> Limits:
    effect = {
        Measure.WIN_RATE: config.win_rate_fall,
        Measure.CALIBRATION: config.calibration_rise,
        Measure.ESCALATION: config.escalation_change,
        Measure.SCORE: config.score_psi,
        Measure.LARGE_SHARE: config.large_share_change,
    }
    return Limits(effect, config.alpha, config.comparisons, config.requests)


def drift(path: Path, config: DriftConfig, now: float) -> Report:
    """The `since_days` before `now`, in seconds since 1970, against the `baseline_days` before those.

    Raises ConfigError where there is no such file, TierserveError where it can't be read as a decision log.
    """
    start = now - config.since_days * _DAY_S
    if not path.is_file():
        raise ConfigError(str(path), "there is no such decision log", "name the file of decisions.path with --log")
    try:
        connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=_BUSY_S)
        try:
            connection.execute("BEGIN")  # both windows of one state of the file
            recent = _window(connection, start, now)
            baseline = _window(connection, start - config.baseline_days * _DAY_S, start)
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise TierserveError(f"{path} can't be read as a decision log: {error}") from None
    return compare(recent, baseline, limits(config))


def _window(connection: sqlite3.Connection, start: float, end: float) -> Window:
    judged, escalated, routed, large, threshold = connection.execute(_REQUESTS, (*_NO_CHOICE, start, end)).fetchone()
    scores = np.fromiter((score for (score,) in connection.execute(_SCORES, (start, end))), np.float64)
    compared = connection.execute(_COMPARISONS, (start, end)).fetchall()
    known = [(confidence, verdict != "large") for verdict, confidence in compared if confidence is not None]
    return Window(
        start,
        end,
        wins=_count(compared, "small"),
        ties=_count(compared, "tie"),
        losses=_count(compared, "large"),
        confidences=np.array([confidence for confidence, _ in known], np.float64),
        held=np.array([held for _, held in known], np.bool_),
        scores=scores,
        judged=judged,
        escalated=escalated,
        routed=routed,
        large=large,
        threshold=threshold,
    )


def _count(compared: Sequence[tuple[Any, Any]], verdict: str) -> int:
    return sum(found == verdict for found, _ in compared)
