"""The plan, a stage after the other, and the file that keeps what each found: what breaks off loses one stage alone."""

import asyncio
import json
import math
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from comparison.search import highest
from loadgen import Open, PlanError
from loadgen.summary import SHARES
from measurement import percentile

from direct.lengths import Traffic
from direct.trials import Promise, Way, alone, offered, saturated

Found = dict[str, Any]
LARGE, LARGE_BESIDE, SMALL, TIERED = "all large", "all large, memory shared", "all small", "tiered"
WAYS = (LARGE, TIERED, SMALL, LARGE_BESIDE)
_ASKED_FIRST, _ASKED_ALONE = 1, 3  # what is compiled or captured at first use; and then
_COMMON_SHARE = 0.8
_BEGIN = 0.85  # of the rate at saturation: where the search begins
_LEAST_WARM_S = 2.0


@dataclass(frozen=True)
class Terms:
    """`common_per_s`: None, 0.8 of the highest rate of all large. `search`: whether that is looked for, or the rate at
    saturation stands for it. No stage begins after `until_s`, of time.monotonic()."""

    at_once: int
    seconds: float
    common_seconds: float
    slo_factor: float
    tolerance: float
    search: bool
    common_per_s: float | None
    until_s: float = math.inf


class TimeIsUp(Exception):
    """The next stage would begin too late."""


class Record:
    """Stages' results by name, written to the file, if there is one, after each. Raises PlanError.

    `setting` is what results depend on: those of another one are not gone on with.
    """

    def __init__(self, file: Path | None, setting: Mapping[str, Any], resume: bool) -> None:
        self._file = file
        self.setting = dict(setting)
        self.stages: dict[str, Found] = {}
        if file and file.exists():
            if not resume:
                raise PlanError(f"{file} exists: --resume goes on with it")
            self._read(file)

    def _read(self, file: Path) -> None:
        try:
            known = json.loads(file.read_text())
            setting, self.stages = known["setting"], known["stages"]
        except (OSError, ValueError, KeyError, TypeError):
            raise PlanError(f"{file} is no file of stages") from None
        other = {name for name in {*setting, *self.setting} if setting.get(name) != self.setting.get(name)}
        if other:
            raise PlanError(f"{file} was measured with another {', '.join(sorted(other))}: give another --stages FILE")

    def add(self, name: str, found: Found) -> None:
        self.stages[name] = found
        if self._file:
            whole = json.dumps({"setting": self.setting, "stages": self.stages}, indent=2)
            part = self._file.with_name(self._file.name + ".part")
            part.write_text(whole + "\n")
            part.replace(self._file)


def stage(way: str, what: str) -> str:
    return f"{way}: {what}"


class Stages:
    """What is measured of each way, skipping what the record knows."""

    def __init__(self, record: Record, traffic: Traffic, terms: Terms, runner: asyncio.Runner) -> None:
        self._record = record
        self._traffic = traffic
        self._terms = terms
        self._runner = runner
        self._began_s = time.monotonic()

    @property
    def knows_all_large(self) -> bool:
        return self._knows(LARGE, "alone", *self._whats)

    @property
    def knows_both(self) -> bool:
        return self._knows(TIERED, *self._whats) and all(self._knows(way, "saturated") for way in (SMALL, LARGE_BESIDE))

    def of_all_large(self, way: Way) -> None:
        self._stage(way, "alone", self._alone)
        self._whole(way)

    def of_both(self, ways: Mapping[str, Way]) -> None:
        """After those of all large, which the promise and the common load come from."""
        for name in (SMALL, LARGE_BESIDE):
            self._stage(ways[name], "saturated", self._saturated)
        self._whole(ways[TIERED])

    @property
    def _whats(self) -> tuple[str, ...]:
        return ("saturated", *["highest"] * self._terms.search, "common")

    def _knows(self, way: str, *whats: str) -> bool:
        return all(stage(way, what) in self._record.stages for what in whats)

    def _whole(self, way: Way) -> None:
        measures = {"saturated": self._saturated, "highest": self._highest, "common": self._common}
        for what in self._whats:
            self._stage(way, what, measures[what])

    def _stage(self, way: Way, what: str, measure: Callable[[Way], Found]) -> None:
        name = stage(way.name, what)
        if name in self._record.stages:
            return
        began_s = time.monotonic()
        if began_s > self._terms.until_s:
            raise TimeIsUp(name)
        found = measure(way)
        self._record.add(name, found | {"took_s": time.monotonic() - began_s})
        shown = ", ".join(f"{key} {value:.4g}" for key, value in found.items() if isinstance(value, float))
        print(f"{time.monotonic() - self._began_s:5.0f} s  {name}: {shown}", file=sys.stderr, flush=True)

    # --- stages

    def _alone(self, way: Way) -> Found:
        self._runner.run(alone(way, self._traffic, _ASKED_FIRST))
        ttft_s, tpot_s = self._runner.run(alone(way, self._traffic, _ASKED_ALONE))
        return {"ttft_ms": 1000 * ttft_s, "tpot_ms": 1000 * tpot_s}

    def _saturated(self, way: Way) -> Found:
        terms = self._terms
        rate = self._runner.run(
            saturated(way, self._traffic, terms.at_once, terms.seconds, self._warm_s(terms.seconds))
        )
        if not rate:
            raise PlanError(f"{way.name} made no token within {terms.seconds:g} s: give more with --seconds")
        return {"per_s": rate}

    def _highest(self, way: Way) -> Found:
        terms, tried = self._terms, []

        def holds(rate: float) -> bool:
            load = Open(rate, poisson=False)
            warm_s = self._warm_s(terms.seconds)
            run = offered(way, self._traffic, load, terms.seconds, warm_s, self._promise, whole=False)
            tried.append([rate, self._runner.run(run).held])
            return bool(tried[-1][1])

        begin = _BEGIN * self._known(way.name, "saturated", "per_s")
        rate = highest(holds, begin, tolerance=terms.tolerance)
        if not rate:
            raise PlanError(f"{way.name} keeps the SLO at no rate: give more with --slo-factor")
        return {"per_s": rate, "tried": tried}

    def _common(self, way: Way) -> Found:
        terms = self._terms
        warm_s = self._warm_s(terms.common_seconds)
        load = Open(self._common_per_s)
        run = offered(way, self._traffic, load, terms.common_seconds, warm_s, self._promise, whole=True)
        window = self._runner.run(run)
        if not window.samples:
            raise PlanError(f"no request was due within {terms.common_seconds:g} s: give more with --common-seconds")
        large = way.large.model.name if way.large else None
        return {
            "per_s": self._common_per_s,
            "requests": len(window.samples),
            "within_slo": 1 - window.missed / window.due,
            "large_share": fmean(sample.model == large for sample in window.samples),
            **_times("e2e", [sample.latency_s for sample in window.samples]),
            **_times("ttft", [sample.ttft_s for sample in window.samples]),
            **_times("tpot", [sample.tpot_s for sample in window.samples]),
        }

    # --- what later stages take from earlier ones

    @property
    def _promise(self) -> Promise:
        ttft_ms, tpot_ms = (self._known(LARGE, "alone", key) for key in ("ttft_ms", "tpot_ms"))
        return Promise(ttft_ms / 1000, tpot_ms / 1000, self._terms.slo_factor)

    @property
    def _common_per_s(self) -> float:
        found = "highest" if self._terms.search else "saturated"
        return self._terms.common_per_s or _COMMON_SHARE * self._known(LARGE, found, "per_s")

    def _warm_s(self, seconds: float) -> float:
        """By then as many are being answered as the load needs; not longer than what is measured."""
        return min(seconds, max(_LEAST_WARM_S, self._promise.limit_s(self._traffic.mean_output_tokens)))

    def _known(self, way: str, what: str, key: str) -> float:
        name = stage(way, what)
        if name not in self._record.stages:
            raise PlanError(f"'{name}' has not been measured yet: run --only alone before, with the same --stages FILE")
        return float(self._record.stages[name][key])


def _times(name: str, values_s: list[float | None]) -> Found:
    known_ms = [1000 * value for value in values_s if value is not None]
    return {f"{name}_{key}_ms": percentile(known_ms, SHARES[key]) if known_ms else None for key in ("p50", "p99")}
