"""Tokens as money."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierserve.config import CostConfig, NodeConfig
from tierserve.core import (
    Call,
    Cause,
    Cost,
    Decision,
    Judgement,
    Kind,
    Outcome,
    Prewarm,
    Prompt,
    Role,
    Status,
    Usage,
)
from tierserve.cost.busy import Rates
from tierserve.cost.pricing import Pricing, build_pricing, cost

CALL = Call("id", Kind.CHAT, {}, (Prompt("text"),))
SMALL, LARGE = Rates(1, 4), Rates(10, 40)


def outcome(role: Role, usage: Usage, judgement: Judgement | None = None) -> Outcome:
    return Outcome(CALL, Status.OK, Decision(role, Cause.SCORE), role, usage, judgement=judgement)


def test_the_small_tier_saves_what_the_large_one_takes_more() -> None:
    assert cost(outcome(Role.SMALL, Usage(3, 2)), SMALL, LARGE) == Cost(11, 110)


def test_the_large_tier_saves_nothing() -> None:
    assert cost(outcome(Role.LARGE, Usage(3, 2)), SMALL, LARGE) == Cost(110, 110)


def test_an_escalation_costs_both_answers() -> None:
    escalated = outcome(Role.LARGE, Usage(3, 2), Judgement(0.1, None, True, wasted=Usage(3, 5)))
    assert cost(escalated, SMALL, LARGE) == Cost(110 + 23, 110, 23)


def test_a_prompt_that_was_read_in_advance_for_nothing_costs_too() -> None:
    assert cost(outcome(Role.SMALL, Usage(3, 2), Judgement(prewarm=Prewarm.UNUSED)), SMALL, LARGE) == Cost(41, 110, 30)
    assert cost(outcome(Role.LARGE, Usage(3, 2), Judgement(prewarm=Prewarm.HIT)), SMALL, LARGE) == Cost(110, 110)


def test_what_no_tier_answered_costs_what_was_thrown_away() -> None:
    failed = Outcome(
        CALL, Status.UNAVAILABLE, Decision(Role.SMALL, Cause.SCORE), judgement=Judgement(wasted=Usage(3, 5))
    )
    assert cost(failed, SMALL, LARGE) == Cost(23, 0, 23)
    assert cost(Outcome(CALL, Status.INVALID), SMALL, LARGE) == Cost(0, 0)


tokens = st.builds(Usage, st.integers(0, 10**6), st.integers(0, 10**6))
prices = st.floats(0, 1, allow_subnormal=False)


@given(tokens, tokens, prices, prices, st.floats(1, 100), st.sampled_from(Role))
def test_saving_is_positive_just_where_the_small_tiers_answer_stood(
    usage: Usage, wasted: Usage, prompt: float, completion: float, ratio: float, role: Role
) -> None:
    small, large = Rates(prompt, completion), Rates(prompt * ratio, completion * ratio)
    judgement = Judgement(escalated=True, wasted=wasted) if role is Role.LARGE else Judgement()
    found = cost(outcome(role, usage, judgement), small, large)
    saved = found.all_large - found.spent
    assert saved >= 0 if role is Role.SMALL else saved == pytest.approx(-found.wasted, abs=1e-6)
    assert 0 <= found.wasted <= found.spent


@given(st.lists(tokens, min_size=1, max_size=20), st.sampled_from(Role))
def test_requests_cost_together_what_their_tokens_do(usages: list[Usage], role: Role) -> None:
    together = Usage(sum(u.prompt_tokens for u in usages), sum(u.completion_tokens for u in usages))
    parts = [cost(outcome(role, usage), SMALL, LARGE) for usage in usages]
    whole = cost(outcome(role, together), SMALL, LARGE)
    assert sum(part.spent for part in parts) == pytest.approx(whole.spent)
    assert sum(part.all_large for part in parts) == pytest.approx(whole.all_large)


def node(**costs: object) -> NodeConfig:
    return NodeConfig.model_validate(
        {
            "tiers": {
                "small": {"name": "s", "engine": {"model": "m"}},
                "large": {"name": "l", "engine": {"model": "m", "tensor_parallel_size": 3}},
            },
            "cost": costs,
        }
    )


SECONDS = {"prompt": 10.0, "completion": 100.0}


def pricing(config: NodeConfig) -> Pricing:
    assert config.cost is not None
    measured = {Role.SMALL: Rates(2e-6, 8e-6), Role.LARGE: None}
    return build_pricing(config.cost, config.tiers, measured.__getitem__)


def test_a_tier_costs_its_gpus_part_of_the_host() -> None:
    """Small: 1 of 4 GPUs, 100 s for a million tokens, at 36 an hour."""
    seconds = {"seconds_per_million": SECONDS}
    found = pricing(node(price_per_host_hour=36.0, small=seconds, large=seconds)).cost(
        outcome(Role.SMALL, Usage(0, 1_000_000))
    )
    assert found is not None
    assert found.spent == pytest.approx(0.25)
    assert found.all_large == pytest.approx(0.75)


def test_a_share_that_is_configured_counts() -> None:
    seconds = {"seconds_per_million": SECONDS, "gpu_share": 1.0}
    found = pricing(node(price_per_host_hour=36.0, small=seconds, large=seconds)).cost(
        outcome(Role.SMALL, Usage(1_000_000, 0))
    )
    assert found is not None and found.spent == found.all_large == pytest.approx(0.1)


def test_measured_seconds_stand_in_where_none_are_configured() -> None:
    configured = {"seconds_per_million": SECONDS}
    found = pricing(node(price_per_host_hour=36.0, large=configured)).cost(outcome(Role.SMALL, Usage(0, 1_000_000)))
    assert found is not None and found.spent == pytest.approx(8 * 36 / 3600 / 4)
    assert pricing(node(price_per_host_hour=36.0)).cost(outcome(Role.SMALL, Usage(0, 1))) is None


def test_a_remote_tiers_share_must_be_told() -> None:
    small = {"name": "s", "engine": {"model": "m"}}
    large = {"name": "l", "remote": {"url": "http://far/v1", "model": "m"}}
    data = {"tiers": {"small": small, "large": large}, "cost": {"price_per_host_hour": 1.0}}
    with pytest.raises(ValueError, match="cost.large.gpu_share is missing"):
        NodeConfig.model_validate(data)
    data["cost"] = CostConfig.model_validate({"price_per_host_hour": 1.0, "large": {"gpu_share": 0.5}}).model_dump()
    assert NodeConfig.model_validate(data).cost is not None
