"""Gives each Outcome its cost, and the metrics what that is reckoned from."""

import time
from collections.abc import Callable
from functools import partial

from tierserve.config import CostConfig, NodeConfig
from tierserve.core import Outcome, Role
from tierserve.cost.busy import Busy
from tierserve.cost.pricing import Pricing, build_pricing
from tierserve.telemetry.metrics import Metrics


class Costing:
    """The first to read an Outcome: whoever reads it after `record` finds its cost there, where one is known."""

    def __init__(self, config: NodeConfig, metrics: Metrics, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._tiers = config.tiers
        self._busy = Busy()
        self._pricing: Pricing | None = None
        self.renew(config.cost)
        for role in Role:
            seconds, per_million = partial(self._busy.seconds, role), partial(self._per_million, role)
            metrics.watch_costs(self._tiers[role].name, seconds, per_million)

    def renew(self, config: CostConfig | None) -> None:
        """Prices from now on; what was measured stays."""
        self._pricing = None
        if config is not None:
            self._busy.prompt_weight = config.prompt_weight
            self._pricing = build_pricing(config, self._tiers, self._busy.rates)

    def record(self, outcome: Outcome) -> None:
        self._busy.record(outcome, self._clock())
        if self._pricing is not None:
            outcome.cost = self._pricing.cost(outcome)

    def _per_million(self, role: Role, direction: str) -> float:
        """Seconds; 0 while they are not known."""
        known = self._pricing.rates(role) if self._pricing is not None else None
        if known is None:
            return 0.0
        return 1e6 * (known.prompt if direction == "prompt" else known.completion)
