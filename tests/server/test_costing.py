"""What a request cost, from the tokens to /metrics, over scripted tiers."""

from aiohttp.test_utils import TestClient, TestServer

from tests.server.test_api import CONFIG
from tests.test_pipeline import HARD, SIMPLE, word_router
from tierserve.config import NodeConfig
from tierserve.core import Outcome
from tierserve.pipeline import Pipeline
from tierserve.server.api import create_app
from tierserve.server.costing import Costing
from tierserve.telemetry.metrics import Metrics
from tierserve.tiers.pair import TierPair
from tierserve.tiers.scripted import ScriptedTier


async def values(config: NodeConfig, answer: list[str], *prompts: str) -> dict[str, float]:
    """The samples of /metrics after a node was asked these."""
    tiers, router = TierPair(ScriptedTier("s", answer), ScriptedTier("l", answer)), word_router()
    await router.start()
    await tiers.start()
    metrics = Metrics(["s", "l"])
    costing = Costing(config, metrics)

    def record(outcome: Outcome) -> None:
        costing.record(outcome)
        metrics.record(outcome)

    app = create_app(config, Pipeline(router, tiers, record), router, tiers, metrics)
    async with TestClient(TestServer(app)) as client:
        for prompt in prompts:
            body = {"model": "auto", "messages": [{"role": "user", "content": prompt}]}
            assert (await client.post("/v1/chat/completions", json=body)).status == 200
        lines = (await (await client.get("/metrics")).text()).splitlines()
    await router.close()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}


def priced(**options: object) -> NodeConfig:
    """Both tiers are half of a host that costs 1 for a second."""
    return NodeConfig.model_validate(
        CONFIG.model_dump(exclude_unset=True) | {"cost": {"price_per_host_hour": 3600.0} | options}
    )


async def test_a_request_costs_its_tokens_on_the_tier_that_answered() -> None:
    small = {"seconds_per_million": {"prompt": 0.0, "completion": 2e6}}
    large = {"seconds_per_million": {"prompt": 0.0, "completion": 20e6}}
    found = await values(priced(small=small, large=large), ["one", "two"], SIMPLE, HARD)
    assert found['tierserve_cost_total{key="",tier="s"}'] == 2
    assert found['tierserve_cost_total{key="",tier="l"}'] == 20
    assert found['tierserve_cost_all_large_total{key=""}'] == 40
    assert found['tierserve_cost_saved{key=""}'] == 18
    assert found['tierserve_tier_seconds_per_million_tokens{direction="completion",tier="l"}'] == 20e6
    assert found["tierserve_cost_unpriced_requests_total"] == 0


async def test_measured_seconds_are_those_for_which_the_tiers_were_busy() -> None:
    found = await values(priced(), ["word"] * 2000, SIMPLE, HARD, SIMPLE)
    busy = {tier: found[f'tierserve_tier_busy_seconds_total{{tier="{tier}"}}'] for tier in "sl"}
    rates = {
        tier: found[f'tierserve_tier_seconds_per_million_tokens{{direction="completion",tier="{tier}"}}']
        for tier in "sl"
    }
    assert busy["s"] > 0 and busy["l"] > 0
    assert 0.9 < rates["s"] * 4000 / 1e6 / busy["s"] < 1.1
    assert 0.9 < rates["l"] * 2000 / 1e6 / busy["l"] < 1.1
    assert found["tierserve_cost_unpriced_requests_total"] == 1  # the first: what the large tier takes was not known
    assert found['tierserve_cost_total{key="",tier="l"}'] > 0


async def test_without_a_price_nothing_is_reckoned() -> None:
    found = await values(CONFIG, ["word"] * 2000, SIMPLE, HARD)
    assert found['tierserve_cost_total{key="",tier="s"}'] == 0
    assert found["tierserve_cost_unpriced_requests_total"] == 2
