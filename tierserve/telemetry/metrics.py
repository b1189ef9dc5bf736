"""Prometheus metrics of the node, and beside them those of its engines."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager

from prometheus_client import (
    GC_COLLECTOR,
    CollectorRegistry,
    Metric,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)

from tierserve.core import Outcome
from tierserve.telemetry.exposition import exposition
from tierserve.telemetry.families.admission import Admissions
from tierserve.telemetry.families.connections import ConnectionCounts
from tierserve.telemetry.families.cost import Costs
from tierserve.telemetry.families.decisions import Decisions
from tierserve.telemetry.families.drift import Drift
from tierserve.telemetry.families.engines import Engines
from tierserve.telemetry.families.judging import Judging
from tierserve.telemetry.families.routing import Routing
from tierserve.telemetry.families.shadow import Shadows
from tierserve.telemetry.families.tiers import Tiers
from tierserve.telemetry.families.traffic import Traffic
from tierserve.telemetry.share import LargeShare

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series beside each counter, for its birthday


class Metrics:
    """`record` takes outcomes; `render` gives the text exposition. All series exist, at zero, from the start."""

    def __init__(self, tiers: Iterable[str]) -> None:
        names = list(tiers)
        self.registry = CollectorRegistry()
        self._key_names: Callable[[], Iterable[str]] = tuple
        self._traffic = Traffic(self.registry, names)
        self._tiers = Tiers(self.registry, names)
        self._routing = Routing(self.registry)
        self._judging = Judging(self.registry)
        self._costs = Costs(self.registry, names)
        self._decisions = Decisions(self.registry)
        self._shadows = Shadows(self.registry)
        self.drift = Drift(self.registry)
        self._admissions = Admissions(self.registry, names)
        self._engines = Engines(self.registry, names)
        self._connections = ConnectionCounts(self.registry)
        families = (
            self._traffic,
            self._tiers,
            self._routing,
            self._judging,
            self._costs,
            self._admissions,
        )
        self._readers = [family.record for family in families]
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self.registry.register(GC_COLLECTOR)

    def in_flight(self) -> AbstractContextManager[object]:
        """Counts a request as being answered, for as long as the block runs."""
        return self._traffic.in_flight()

    def count_refusal(self, status: int) -> None:
        """A request that was answered with an error, by its HTTP status."""
        self._traffic.count_refusal(status)

    def watch_tier(self, tier: str, ready: Callable[[], bool], waiting: Callable[[], int]) -> None:
        """Ask for a tier's state when scraped."""
        self._tiers.watch(tier, ready, waiting)

    def watch_engines(self, restarts: Mapping[tuple[str, str], int], down_s: Mapping[str, Callable[[], float]]) -> None:
        """Likewise for engines that were rebuilt, by tier and reason, and for the seconds that a tier was down."""
        self._engines.watch(restarts, down_s)

    def watch_router(self, threshold: Callable[[], float], hits: Callable[[], int], misses: Callable[[], int]) -> None:
        """Likewise for what the router knows."""
        self._routing.watch_router(threshold, hits, misses)

    def watch_assessments(self, counts: Mapping[str, int]) -> Callable[[float], None]:
        """Likewise for what became of second opinions; returns what takes the seconds of each."""
        return self._routing.watch_assessments(counts)

    def watch_share(self, share: LargeShare) -> None:
        """Likewise for the large tier's share."""
        self._routing.watch_share(share)

    def watch_costs(self, tier: str, busy: Callable[[], float], rate: Callable[[str], float]) -> None:
        """Likewise for the seconds in which a tier was busy, and for those of a million tokens in a direction."""
        self._costs.watch(tier, busy, rate)

    def watch_decisions(self, rows: Callable[[], float], dropped: Mapping[str, Callable[[], float]]) -> None:
        """Likewise for rows of the decision log, and for those that were dropped, by reason."""
        self._decisions.watch(rows, dropped)

    def watch_shadow(self, counts: Mapping[str, int]) -> Callable[[float], None]:
        """Likewise for what became of answers that were drawn to be compared; returns what takes the seconds of each
        comparison."""
        return self._shadows.watch(counts)

    def watch_queue(self, waiting: Mapping[str, Callable[[], int]], refused: Mapping[str, int]) -> None:
        """Likewise for how many wait for each tier, by its name, and how many were refused: `door`, `queue`,
        `displaced`."""
        for tier, count in waiting.items():
            self._admissions.watch_waiting(tier, count)
        self._admissions.watch_refusals(refused)

    def watch_connections(self, count: Callable[[], int], cut_off: Mapping[str, int]) -> None:
        """Likewise for how many are open, and how many the node has ended: `head`, `answer`, `full`."""
        self._connections.watch(count, cut_off)

    def watch_keys(self, names: Callable[[], Iterable[str]]) -> None:
        """Likewise for the names of callers' keys, so that the series of each stand at zero before it is used."""
        self._key_names = names

    def record(self, outcome: Outcome) -> None:
        for read in self._readers:
            read(outcome)

    def render(self, engines: Iterable[Iterator[Metric]]) -> bytes:
        """The text exposition of the node's metrics and its engines'."""
        self._costs.expect(self._key_names())
        return exposition([self.registry.collect(), *engines])
