"""Two windows of a node's traffic against each other, measure by measure. Pure.

An alarm needs both: a change of the size that is stated beforehand, and one that chance would hardly bring. Where a
window holds too little, the finding says how much is missing and nothing else.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from tierserve.core import Measure
from tierserve.quality.answers import calibration_error, wilson
from tierserve.quality.drift.statistics import (
    Bools,
    Floats,
    calibration_p,
    distribution_p,
    fall_p,
    holm,
    population_stability_index,
    share_p,
)

COMPARED = (Measure.WIN_RATE, Measure.CALIBRATION)  # what comparisons tell; requests tell the others


@dataclass(frozen=True, slots=True)
class Window:
    """What happened from `start` to before `end`, in seconds since 1970.

    `wins`, `ties` and `losses` are of the small tier, in comparisons; `confidences` and `held`, shape (n,), are of
    those whose confidence is known: what it was, and whether the answer won or tied. `scores`: shape (m,), 0 to 10.
    `threshold` is the router's in the mean; None where there were no requests.
    """

    start: float
    end: float
    wins: int
    ties: int
    losses: int
    confidences: Floats
    held: Bools
    scores: Floats
    judged: int
    escalated: int
    routed: int
    large: int
    threshold: float | None = None

    @property
    def compared(self) -> int:
        return self.wins + self.ties + self.losses


@dataclass(frozen=True, slots=True)
class Limits:
    """`effect`: from what change on a measure matters, as a part of 1 (of SCORE the PSI). `alpha`: how often one report
    may raise an alarm when nothing has changed. `comparisons`, `requests`: what a window must hold."""

    effect: Mapping[Measure, float]
    alpha: float
    comparisons: int
    requests: int

    def least(self, measure: Measure) -> int:
        return self.comparisons if measure in COMPARED else self.requests


@dataclass(frozen=True, slots=True)
class Level:
    """A measure in one window, of `size` samples; None: of none. `low` and `high`: its 95 % interval, of shares."""

    size: int
    value: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """`recent` and `baseline` are shares from 0 to 1; of CALIBRATION the expected calibration error, of SCORE the mean.

    `effect` is recent less baseline, of SCORE the PSI; `p` is corrected for the number of measures. Both are None where
    samples are missing: `missing` of the recent window, `missing_baseline` of the other.
    """

    measure: Measure
    recent: Level
    baseline: Level
    least_effect: float
    missing: int = 0
    missing_baseline: int = 0
    effect: float | None = None
    p: float | None = None
    alarm: bool = False

    @property
    def known(self) -> bool:
        return not self.missing and not self.missing_baseline


@dataclass(frozen=True, slots=True)
class Report:
    recent: Window
    baseline: Window
    limits: Limits
    findings: tuple[Finding, ...]

    @property
    def alarm(self) -> bool:
        return any(finding.alarm for finding in self.findings)

    def __getitem__(self, measure: Measure) -> Finding:
        return next(finding for finding in self.findings if finding.measure is measure)


def compare(recent: Window, baseline: Window, limits: Limits) -> Report:
    found = {measure: _measured(measure, recent, baseline, limits) for measure in Measure}
    p_values = {measure: _p(measure, recent, baseline) for measure, finding in found.items() if finding.known}
    for measure, p in holm(p_values).items():
        effect = _effect(measure, found[measure], recent, baseline)
        alarm = p <= limits.alpha and _size(measure, effect) >= limits.effect[measure]
        found[measure] = replace(found[measure], effect=effect, p=p, alarm=alarm)
    return Report(recent, baseline, limits, tuple(found.values()))


def _measured(measure: Measure, recent: Window, baseline: Window, limits: Limits) -> Finding:
    now, before = _level(measure, recent), _level(measure, baseline)
    least = limits.least(measure)
    missing, missing_baseline = max(0, least - now.size), max(0, least - before.size)
    return Finding(measure, now, before, limits.effect[measure], missing, missing_baseline)


def _level(measure: Measure, window: Window) -> Level:
    match measure:
        case Measure.CALIBRATION:
            size = len(window.confidences)
            return Level(size, calibration_error(window.confidences, window.held) if size else None)
        case Measure.SCORE:
            return Level(len(window.scores), float(np.mean(window.scores)) if len(window.scores) else None)
        case _:
            count, size = _share(measure, window)
            return Level(size, count / size, *wilson(count, size)) if size else Level(0)


def _share(measure: Measure, window: Window) -> tuple[int, int]:
    """How many, of how many."""
    match measure:
        case Measure.WIN_RATE:
            return window.wins + window.ties, window.compared
        case Measure.ESCALATION:
            return window.escalated, window.judged
        case _:
            return window.large, window.routed


def _p(measure: Measure, recent: Window, baseline: Window) -> float:
    match measure:
        case Measure.CALIBRATION:
            return calibration_p(recent.confidences, recent.held, baseline.confidences, baseline.held)
        case Measure.SCORE:
            return distribution_p(recent.scores, baseline.scores)
        case Measure.WIN_RATE:
            return fall_p(*_share(measure, recent), *_share(measure, baseline))
        case _:
            return share_p(*_share(measure, recent), *_share(measure, baseline))


def _effect(measure: Measure, finding: Finding, recent: Window, baseline: Window) -> float:
    if measure is Measure.SCORE:
        return population_stability_index(recent.scores, baseline.scores)
    recent_value, base_value = finding.recent.value, finding.baseline.value
    assert recent_value is not None and base_value is not None
    return recent_value - base_value


def _size(measure: Measure, effect: float) -> float:
    """How large the change is in the direction that matters: nobody is alarmed by a win rate that rises."""
    match measure:
        case Measure.WIN_RATE:
            return -effect
        case Measure.CALIBRATION:
            return effect
        case _:
            return abs(effect)
