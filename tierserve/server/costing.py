"""Gives each Outcome its cost, and the metrics what that is reckoned from."""

import time
from collections.abc import Callable
from functools import partial

from tierserve.config import NodeConfig
from tierserve.core import Outcome, Role
from tierserve.cost.busy import Busy
from tierserve.cost.pricing import Measured, build_pricing, rates_in_force
from tierserve.telemetry.metrics import Metrics


class Costing:
    """The first to read an Outcome: whoever reads it after `record` finds its cost there, where one is known."""

    def __init__(self, config: NodeConfig, metrics: Metrics, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._busy = Busy(config.cost.prompt_weight if config.cost else 0.0)
        self._pricing = None
        rates: Measured = self._busy.rates
        if config.cost is not None:
            rates = rates_in_force(config.cost, self._busy.rates)
            self._pricing = build_pricing(config.cost, config.tiers, rates)
        for role in Role:
            name = config.tiers[role].name
            metrics.watch_costs(name, partial(self._busy.seconds, role), partial(_per_million, rates, role))

    def record(self, outcome: Outcome) -> None:
        self._busy.record(outcome, self._clock())
        if self._pricing is not None:
            outcome.cost = self._pricing.cost(outcome)


def _per_million(rates: Measured, role: Role, direction: str) -> float:
    known = rates(role)
    if known is None:
        return 0.0
    return 1e6 * (known.prompt if direction == "prompt" else known.completion)
