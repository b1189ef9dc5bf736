"""What requests cost, in the money of `cost.price_per_host_hour`."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge

from tierserve.core import Outcome
from tierserve.telemetry.families.watched import Watched

_NO_KEY = ""
_NO_TIER = "none"
_DIRECTIONS = ("prompt", "completion")


class Costs:
    """`key` is the name of the caller's key, empty where the node has none; Prometheus takes that for no label."""

    def __init__(self, registry: CollectorRegistry, tiers: Sequence[str]) -> None:
        self._tiers = tiers
        self._spent = Counter(
            "tierserve_cost",
            "Money spent on requests, with what was thrown away on the way, by the tier that answered.",
            ["tier", "key"],
            registry=registry,
        )
        self._all_large = Counter(
            "tierserve_cost_all_large",
            "Money that the same tokens would have cost on the large tier.",
            ["key"],
            registry=registry,
        )
        self._wasted = Counter(
            "tierserve_cost_wasted",
            "Of the money spent, what went into answers and prompts that were thrown away.",
            registry=registry,
        )
        self._saved = Gauge(
            "tierserve_cost_saved",
            "Money that the large tier alone would have cost beyond what was spent, since the start; it can fall.",
            ["key"],
            registry=registry,
        )
        self._unpriced = Counter(
            "tierserve_cost_unpriced_requests",
            "Requests without a cost: no price is configured, or a tier's rates are not measured yet.",
            registry=registry,
        )
        self._rates = Gauge(
            "tierserve_tier_seconds_per_million_tokens",
            "Seconds of a tier for a million tokens, as costs are reckoned; 0 while that is not known.",
            ["tier", "direction"],
            registry=registry,
        )
        self._busy = Watched(
            registry,
            "tierserve_tier_busy_seconds",
            "Time in which a tier had at least one request, of requests that ended.",
            ["tier"],
            [[tier] for tier in tiers],
        )
        for tier in tiers:
            for direction in _DIRECTIONS:
                self._rates.labels(tier, direction)
        self.expect([_NO_KEY])

    def expect(self, keys: Iterable[str]) -> None:
        """These keys' series stand at zero from now on."""
        for key in keys:
            self._all_large.labels(key)
            self._saved.labels(key)
            for tier in (*self._tiers, _NO_TIER):
                self._spent.labels(tier, key)

    def watch(self, tier: str, busy: Callable[[], float], rate: Callable[[str], float]) -> None:
        """`busy`: seconds; `rate`: seconds for a million tokens in a direction, prompt or completion."""
        self._busy.watch(busy, tier)
        for direction in _DIRECTIONS:
            self._rates.labels(tier, direction).set_function(partial(rate, direction))

    def record(self, outcome: Outcome) -> None:
        cost = outcome.cost
        if cost is None:
            self._unpriced.inc()
            return
        key = outcome.call.caller.key
        self._spent.labels(outcome.tier or _NO_TIER, key).inc(cost.spent)
        self._all_large.labels(key).inc(cost.all_large)
        self._wasted.inc(cost.wasted)
        self._saved.labels(key).inc(cost.all_large - cost.spent)
