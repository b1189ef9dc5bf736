"""What the node last found when it compared the last days with those before."""

from collections.abc import Mapping
from math import nan

from prometheus_client import CollectorRegistry, Gauge

from tierserve.core import Measure

WINDOWS = ("recent", "baseline")


class Drift:
    """`show` takes what was found. Until then nothing is alarming and no value known (NaN)."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._alarm = Gauge(
            "tierserve_drift_alarm",
            "Whether a measure has changed by so much that it matters, and by more than chance would bring.",
            ["measure"],
            registry=registry,
        )
        self._missing = Gauge(
            "tierserve_drift_missing_samples",
            "What a window lacks before anything can be said of a measure: comparisons or requests.",
            ["measure", "window"],
            registry=registry,
        )
        self._value = Gauge(
            "tierserve_drift_value",
            "A measure in a window: shares from 0 to 1, the calibration error, the mean score. NaN: not known.",
            ["measure", "window"],
            registry=registry,
        )
        self._looked = Gauge(
            "tierserve_drift_timestamp_seconds",
            "When the node last looked, since 1970; 0: never, as without a decision log.",
            registry=registry,
        )
        for measure in Measure:
            self._alarm.labels(measure)
            for window in WINDOWS:
                self._missing.labels(measure, window)
                self._value.labels(measure, window).set(nan)

    def show(
        self,
        now: float,
        alarms: Mapping[Measure, bool],
        missing: Mapping[tuple[Measure, str], int],
        values: Mapping[tuple[Measure, str], float | None],
    ) -> None:
        """`missing` and `values` by measure and window, of WINDOWS."""
        self._looked.set(now)
        for measure, alarm in alarms.items():
            self._alarm.labels(measure).set(alarm)
        for place, samples in missing.items():
            self._missing.labels(*place).set(samples)
        for place, value in values.items():
            self._value.labels(*place).set(nan if value is None else value)
