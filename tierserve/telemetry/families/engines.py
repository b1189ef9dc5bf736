"""What became of the engines."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from prometheus_client import CollectorRegistry

from tierserve.core import Failure
from tierserve.telemetry.families.watched import Watched


class Engines:
    def __init__(self, registry: CollectorRegistry, tiers: Sequence[str]) -> None:
        self._restarts = Watched(
            registry,
            "tierserve_engine_restarts",
            "Engines that were ended to be built anew, because they died or hung.",
            ["tier", "reason"],
            [(tier, reason) for tier in tiers for reason in Failure],
        )
        self._down = Watched(
            registry,
            "tierserve_tier_down_seconds",
            "Seconds in which a tier could not answer, since the node was ready: its engine was being rebuilt, or its "
            "server could not be reached.",
            ["tier"],
            [(tier,) for tier in tiers],
        )

    def watch(self, restarts: Mapping[tuple[str, str], int], down_s: Mapping[str, Callable[[], float]]) -> None:
        """`restarts` by tier and reason, `down_s` by tier."""
        for key in restarts:
            self._restarts.watch(partial(restarts.__getitem__, key), *key)
        for tier, seconds in down_s.items():
            self._down.watch(seconds, tier)
