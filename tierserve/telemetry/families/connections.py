"""Callers' connections, and those that were ended for taking too long or for want of room."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from prometheus_client import CollectorRegistry, Gauge

from tierserve.telemetry.families.watched import Watched

# head: a request's line and headers took too long; answer: it was not taken; full: there were too many connections.
ENDS: Final = ("head", "answer", "full")


class ConnectionCounts:
    def __init__(self, registry: CollectorRegistry) -> None:
        self._open = Gauge("tierserve_connections", "Connections that are open.", registry=registry)
        self._cut_off = Watched(
            registry,
            "tierserve_connections_cut_off",
            "Connections that were ended by the node: the head of a request took too long, an answer was not taken, or "
            "there were as many as there may be.",
            ["why"],
            [[why] for why in ENDS],
        )

    def watch(self, count: Callable[[], int], cut_off: Mapping[str, int]) -> None:
        self._open.set_function(count)
        for why in ENDS:
            self._cut_off.watch(partial(cut_off.__getitem__, why), why)
