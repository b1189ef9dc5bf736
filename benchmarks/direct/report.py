"""From what the stages found to rows and targets; what is not measured yet is None, and no target. Pure."""

from collections.abc import Mapping
from typing import Any

from comparison.limit import cost_ratio, limit
from measurement import Target

from direct.stages import LARGE, SMALL, TIERED, WAYS, Found, stage

Row = dict[str, Any]
_TIMES = [f"{name}_{share}_ms" for name in ("e2e", "ttft", "tpot") for share in ("p50", "p99")]


def rows(
    stages: Mapping[str, Found], setting: Mapping[str, Any], large_share: float, price_per_hour: float
) -> list[Row]:
    """A row for each way. Cost: of the GPU's time at saturation, which is all that a GPU of one's own costs by."""
    found = {
        way: {what: stages.get(stage(way, what), {}) for what in ("saturated", "highest", "common")} for way in WAYS
    }
    r = _ratio(found[SMALL]["saturated"].get("per_s"), found[LARGE]["saturated"].get("per_s"))
    shares = {TIERED: large_share, SMALL: 0.0}
    return [_row(way, found[way], shares.get(way, 1.0), r, price_per_hour) | dict(setting) for way in WAYS]


def _ratio(small_per_s: float | None, large_per_s: float | None) -> float | None:
    return cost_ratio(small_per_s, large_per_s) if small_per_s and large_per_s else None


def _row(way: str, found: Mapping[str, Found], large_share: float, r: float | None, price_per_hour: float) -> Row:
    saturated, highest, common = found["saturated"], found["highest"], found["common"]
    per_s = saturated.get("per_s")
    return {
        "way": way,
        "large_share": common.get("large_share", large_share),
        "cost_per_1000": 1000 * price_per_hour / 3600 / per_s if per_s else None,
        "saturated_per_s": per_s,
        "highest_per_s": highest.get("per_s"),
        "common_per_s": common.get("per_s"),
        **{name: common.get(name) for name in _TIMES},
        "within_slo": common.get("within_slo"),
        "requests": common.get("requests"),
        "r": r,
        "limit": None if r is None else limit(large_share, r),
    }


def table(found: list[Row]) -> list[Row]:
    """The columns for people."""
    kept = ("way", "large_share", "cost_per_1000", "saturated_per_s", "highest_per_s", "e2e_p50_ms", "e2e_p99_ms")
    kept += ("ttft_p99_ms", "tpot_p50_ms", "within_slo", "limit")
    return [{name: "-" if row[name] is None else row[name] for name in kept} for row in found]


def targets(found: list[Row]) -> list[Target]:
    """Throughput by the highest rate within the SLO where both ways have one, else by that at saturation."""
    row = {each["way"]: each for each in found}
    large, tiered = row[LARGE], row[TIERED]
    searched = large["highest_per_s"] and tiered["highest_per_s"]
    throughput = _times_of("highest_per_s" if searched else "saturated_per_s", large, tiered)
    cost, p99, best = _times_of("cost_per_1000", large, tiered), _times_of("e2e_p99_ms", large, tiered), tiered["limit"]
    listed = []
    if throughput is not None and best is not None:
        listed.append(Target("throughput_of_limit", throughput / best, 0.85, "higher"))
    if throughput is not None:
        listed.append(Target("throughput_ratio", throughput, 2.5, "higher"))
    if p99 is not None:
        listed.append(Target("p99_ratio", p99, 0.58, "lower"))
    if cost is not None and best is not None:
        # What is left of the limit's saving where 0.85 of the limit is reached.
        listed.append(Target("cost_ratio", cost, 1 / (0.85 * best), "lower"))
    if tiered["requests"]:
        listed.append(Target("large_share", tiered["large_share"], 0.2, "lower"))
    return listed


def _times_of(key: str, large: Row, tiered: Row) -> float | None:
    return tiered[key] / large[key] if large[key] and tiered[key] else None
