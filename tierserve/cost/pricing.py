"""Tokens -> seconds of a tier -> money, and what the large tier alone would have cost. Pure.

A tier's second costs its share of the host's hour / 3600. The seconds of a token are configured, or measured (busy.py).
That the large tier would have read and written the same number of tokens is an assumption. What is not in it: idle
time, the router's and the assessor's work on the CPU, the tokens of a structured answer's frame.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from tierserve.core import Cost, Outcome, Prewarm, Role, Usage
from tierserve.cost.busy import Rates

if TYPE_CHECKING:
    from tierserve.config import CostConfig, TiersConfig

Measured = Callable[[Role], Rates | None]


class Pricing:
    """`price_per_second` is a tier's, in money; `rates` gives the seconds of its tokens that are in force now, None
    while nobody knows."""

    def __init__(self, price_per_second: dict[Role, float], rates: Measured) -> None:
        self.rates = rates
        self._price_per_second = price_per_second

    def cost(self, outcome: Outcome) -> Cost | None:
        """None while a tier's rates are not known."""
        small, large = self._prices(Role.SMALL), self._prices(Role.LARGE)
        return None if small is None or large is None else cost(outcome, small, large)

    def _prices(self, role: Role) -> Rates | None:
        rates, price = self.rates(role), self._price_per_second[role]
        return rates and Rates(rates.prompt * price, rates.completion * price)


def cost(outcome: Outcome, small: Rates, large: Rates) -> Cost:
    """`small` and `large`: money for each token. Of a request that no tier answered, the large one alone would have
    cost nothing; what was thrown away on it was spent."""
    wasted = 0.0
    if outcome.judgement is not None:
        wasted = _of(outcome.judgement.wasted, small)
        if outcome.judgement.prewarm is Prewarm.UNUSED:
            wasted += outcome.usage.prompt_tokens * large.prompt
    if outcome.tier is None or outcome.decision is None:
        return Cost(wasted, 0.0, wasted)
    answer = _of(outcome.usage, small if outcome.decision.role is Role.SMALL else large)
    return Cost(answer + wasted, _of(outcome.usage, large), wasted)


def build_pricing(config: "CostConfig", tiers: "TiersConfig", measured: Measured) -> Pricing:
    """With the configured rates; for a tier that has none, the measured."""

    def rates(role: Role) -> Rates | None:
        configured = config[role].seconds_per_million
        return Rates(configured.prompt / 1e6, configured.completion / 1e6) if configured else measured(role)

    shares = {role: config[role].gpu_share for role in Role}
    gpus = {role: tiers[role].gpus for role in Role}
    price = config.price_per_host_hour / 3600
    return Pricing({role: price * (shares[role] or gpus[role] / sum(gpus.values())) for role in Role}, rates)


def _of(usage: Usage, price: Rates) -> float:
    return usage.prompt_tokens * price.prompt + usage.completion_tokens * price.completion
