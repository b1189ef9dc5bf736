"""The HTTP layer over scripted tiers: states and orders of events that real engines don't show on demand."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import aiohttp
import pytest
from aiohttp.test_utils import TestClient, TestServer

from tests.test_pipeline import HARD, SIMPLE, word_router
from tierserve.config import EscalationConfig, NodeConfig
from tierserve.core import Outcome, Status
from tierserve.errors import TierBusy, TierUnavailable
from tierserve.escalation.escalator import build_escalator
from tierserve.pipeline import Pipeline
from tierserve.server.api import DRAINING, IN_FLIGHT, TIERS, create_app
from tierserve.telemetry.metrics import Metrics
from tierserve.telemetry.share import LargeShare
from tierserve.tiers.base import TierState
from tierserve.tiers.pair import TierPair
from tierserve.tiers.scripted import ScriptedTier

CONFIG = NodeConfig.model_validate(
    {
        "server": {"max_body_mb": 0.01},
        "tiers": {"small": {"name": "s", "engine": {"model": "m"}}, "large": {"name": "l", "engine": {"model": "m"}}},
    }
)


ANSWER = {"role": "assistant", "content": "Well."}
LONG = "simple,but_longer_than_a_follow_up"
HARDER = f"{HARD}, longer than a follow-up"


@dataclass
class Api:
    client: TestClient
    small: ScriptedTier
    large: ScriptedTier
    outcomes: list[Outcome] = field(default_factory=list)

    async def chat(
        self, text: str = SIMPLE, headers: dict[str, str] | None = None, **options: object
    ) -> aiohttp.ClientResponse:
        body = {"model": "auto", "messages": [{"role": "user", "content": text}]} | options
        return await self.client.post("/v1/chat/completions", json=body, headers=headers)

    async def routed(self, *said: str, path: str = "/v1/chat/completions", session: str | None = None) -> str:
        """Tier and cause for a conversation in which the user said this."""
        messages = [message for text in said for message in ({"role": "user", "content": text}, ANSWER)][:-1]
        headers = {} if session is None else {"x-session-id": session}
        response = await self.client.post(path, json={"messages": messages}, headers=headers)
        assert response.status == 200, await response.text()
        return f"{response.headers['x-tierserve-tier']} {response.headers['x-tierserve-cause']}"

    async def metric(self, name: str) -> float:
        lines = (await (await self.client.get("/metrics")).text()).splitlines()
        (value,) = [line.split()[-1] for line in lines if line.startswith(f"{name} ")]
        return float(value)


@pytest.fixture
async def api(request: pytest.FixtureRequest) -> AsyncIterator[Api]:
    """With a parameter: the router's options, and under `escalation` those of judging, which is else not done."""
    options = dict(getattr(request, "param", {}))
    escalation = options.pop("escalation", None)
    small, large = ScriptedTier("s"), ScriptedTier("l")
    tiers, router, outcomes = TierPair(small, large), word_router(**options), list[Outcome]()
    config = None if escalation is None else EscalationConfig(**escalation)
    escalator = build_escalator(config, tiers, lambda: router.threshold)
    await router.start()
    await tiers.start()
    metrics, share = Metrics(["s", "l"]), LargeShare(0.3)
    metrics.watch_share(share)

    def record(outcome: Outcome) -> None:
        outcomes.append(outcome)
        share.record(outcome)
        metrics.record(outcome)

    app = create_app(CONFIG, Pipeline(router, tiers, record, escalator), router, tiers, metrics)
    async with TestClient(TestServer(app, handler_cancellation=True)) as client:
        yield Api(client, small, large, outcomes)
    await router.close()


async def error_of(response: aiohttp.ClientResponse) -> dict[str, object]:
    body = await response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert response.headers["x-request-id"]
    return body["error"]  # type: ignore[no-any-return]


async def test_headers_say_who_spoke_and_why(api: Api) -> None:
    response = await api.chat(headers={"x-request-id": "mine"})
    assert response.status == 200
    assert {k.lower(): v for k, v in response.headers.items() if k.lower().startswith("x-")} == {
        "x-request-id": "mine",
        "x-tierserve-tier": "s",
        "x-tierserve-score": "3.000",
        "x-tierserve-cause": "score",
        "x-tierserve-confidence": "none",
        "x-tierserve-escalated": "false",
    }
    assert (await response.json())["model"] == "s"
    assert (await api.chat()).headers["x-tierserve-cause"] == "cache"


async def test_a_stream_carries_the_same_headers(api: Api) -> None:
    response = await api.chat(HARD, stream=True)
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["x-tierserve-tier"] == "l"
    assert response.headers["x-request-id"]
    assert (await response.read()).endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_tier_that_is_full_is_a_503_that_says_when_to_come_back(api: Api, stream: bool) -> None:
    api.small.script = [TierBusy("s: the queue is full")]
    response = await api.chat(stream=stream)
    assert response.status == 503
    assert int(response.headers["retry-after"]) > 0
    assert (await error_of(response))["type"] == "service_unavailable"


async def test_no_tier_left_is_a_503(api: Api) -> None:
    api.small.script = api.large.script = [TierUnavailable("gone")]
    assert (await api.chat()).status == 503


async def test_a_fault_of_ours_tells_nothing_of_its_inside(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    api.small.script = [RuntimeError("a secret path")]
    response = await api.chat(headers={"x-request-id": "mine"})
    assert response.status == 500
    assert "secret" not in await response.text()
    assert "request mine failed: RuntimeError" in caplog.text
    assert "scripted.py" in caplog.text, "the place"
    assert "secret" not in caplog.text


@pytest.mark.parametrize("stream", [False, True])
async def test_a_caller_that_hangs_up_frees_the_slot(api: Api, stream: bool) -> None:
    api.small.script = ["a", asyncio.Event()] if stream else [asyncio.Event()]
    waiting = asyncio.create_task(api.chat(stream=stream))
    for _ in range(200):
        await asyncio.sleep(0.01)
        if api.small.running and (waiting.done() or not stream):
            break
    assert api.small.running == 1
    if stream:
        (await waiting).close()
    else:
        waiting.cancel()
    for _ in range(200):
        await asyncio.sleep(0.01)
        if not api.small.running and api.outcomes:
            break
    assert api.small.running == 0
    assert [outcome.status for outcome in api.outcomes] == [Status.CANCELLED]
    assert not api.client.app[IN_FLIGHT]


async def test_a_fault_in_a_stream_that_has_begun_ends_it_in_its_own_form(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def events(*arguments: object) -> AsyncIterator[bytes]:
        yield b""
        yield b"data: {}\n\n"
        raise RuntimeError("a secret")

    monkeypatch.setattr(api.small, "_events", events)
    response = await api.chat(stream=True)
    text = await response.text()
    assert text.startswith('data: {}\n\ndata: {"error": ')
    assert text.endswith("\n\ndata: [DONE]\n\n")
    assert "secret" not in text
    assert api.outcomes[0].status is Status.ERROR


async def test_what_is_refused_is_counted(api: Api) -> None:
    await api.client.get("/nowhere")
    await api.chat(model="nobody")
    text = await (await api.client.get("/metrics")).text()
    assert 'tierserve_refusals_total{status="404"} 2.0' in text


async def test_a_body_beyond_the_limit_is_a_413(api: Api) -> None:
    response = await api.chat("x" * 20_000)
    assert response.status == 413
    assert "exceeds" in str((await error_of(response))["message"])


async def test_paths_and_methods_that_are_not_there(api: Api) -> None:
    response = await api.client.get("/v1/nothing")
    assert response.status == 404
    await error_of(response)
    response = await api.client.get("/v1/chat/completions")
    assert response.status == 405
    assert response.headers["allow"] == "POST"
    assert "use POST" in str((await error_of(response))["message"])


async def test_route_decides_and_asks_no_tier(api: Api) -> None:
    response = await api.client.post("/v1/route", json={"messages": [{"role": "user", "content": HARD}]})
    expected = {"object": "route", "tier": "l", "role": "large", "score": 9.0, "threshold": 4.0, "cause": "score"}
    assert await response.json() == expected
    response = await api.client.post("/v1/route", json={"prompt": SIMPLE})
    assert (await response.json())["tier"] == response.headers["x-tierserve-tier"] == "s"
    api.small.max_model_len = 0
    response = await api.client.post("/v1/route", json={"prompt": SIMPLE})
    assert (await response.json())["cause"] == "context"
    assert api.small.calls == api.large.calls == []


async def test_models_are_auto_and_the_tiers(api: Api) -> None:
    models = await (await api.client.get("/v1/models")).json()
    assert [model["id"] for model in models["data"]] == ["auto", "s", "l"]
    assert (await (await api.client.get("/v1/models/s")).json())["id"] == "s"
    assert (await api.client.get("/v1/models/x")).status == 404


async def test_ready_tells_what_is_missing(api: Api) -> None:
    response = await api.client.get("/ready")
    assert (response.status, (await response.json())["ready"]) == (200, True)
    api.large.state, api.large.waiting_for = TierState.LOADING, "the weights"
    api.client.app[TIERS]._started = False  # as while the node starts
    response = await api.client.get("/ready")
    assert response.status == 503
    body = await response.json()
    assert body["tiers"] == {"s": {"state": "ready"}, "l": {"state": "loading", "waiting_for": "the weights"}}
    assert (await api.client.get("/health")).status == 200


async def test_a_node_that_was_ready_and_lost_a_tier_is_degraded_and_one_that_lost_both_is_not_ready(api: Api) -> None:
    async def ready() -> tuple[int, bool, list[str]]:
        response = await api.client.get("/ready")
        body = await response.json()
        return response.status, body["ready"], body["degraded"]

    assert await ready() == (200, True, [])
    api.large.state = TierState.LOADING
    assert await ready() == (200, True, ["l"])
    api.small.state = TierState.FAILED
    assert await ready() == (503, False, ["s", "l"])


async def test_a_tier_that_is_away_is_not_asked_and_the_headers_say_that_the_other_one_answered(api: Api) -> None:
    api.large.state = TierState.LOADING
    response = await api.chat(text="a hard prompt of many words")
    assert (response.status, response.headers["x-tierserve-tier"]) == (200, "s")
    assert response.headers["x-tierserve-cause"] == "failover"
    response = await api.chat(model="l")
    assert (response.status, response.headers["retry-after"]) == (503, "5")
    assert (await response.json())["error"]["message"].startswith("l is loading")


async def test_a_node_that_drains_closes_its_connections_and_is_not_ready(api: Api) -> None:
    api.client.app[DRAINING].set()
    assert (await api.client.get("/ready")).status == 503
    response = await api.chat()
    assert response.status == 200
    assert response.headers["connection"] == "close"


async def test_a_stream_that_breaks_off_ends_in_an_error_event(api: Api) -> None:
    api.small.script = ["a", RuntimeError("died")]
    response = await api.chat(stream=True)
    *events, done = [line for line in (await response.text()).split("\n\n") if line]
    assert done == "data: [DONE]"
    assert "error" in json.loads(events[-1].removeprefix("data: "))
    assert api.outcomes[0].status is Status.ERROR


async def test_a_conversation_stays_with_its_tier_by_what_was_said(api: Api) -> None:
    assert await api.routed(HARD) == "l score"
    assert await api.routed(HARD, "thanks") == "l follow_up"
    assert await api.routed(HARD, "thanks", LONG) == "l conversation"
    assert await api.routed(SIMPLE) == "s score"
    assert await api.routed(SIMPLE, "and then?") == "s follow_up"
    assert await api.routed(SIMPLE, "and then?", HARDER) == "l score"
    assert await api.routed(SIMPLE, "and then?", HARDER, "yes") == "l follow_up"
    assert await api.routed(SIMPLE, "yes") == "s follow_up", "another who began alike"


async def test_a_conversation_stays_with_its_tier_by_its_session(api: Api) -> None:
    assert await api.routed(HARD, session="mine") == "l score"
    assert await api.routed("thanks", session="mine") == "l follow_up"
    assert await api.routed(LONG, session="mine") == "l conversation"
    assert await api.routed("thanks", session="yours") == "s score"


@pytest.mark.parametrize("api", [{"conversations": None}], indirect=True)
async def test_with_conversations_off_each_prompt_is_scored(api: Api) -> None:
    assert await api.routed(HARD, session="mine") == "l score"
    assert await api.routed("thanks", session="mine") == "s score"


@pytest.mark.parametrize("session", ["", "a b", "x" * 129])
async def test_a_session_id_that_can_t_be_one_is_a_400_on_every_path(api: Api, session: str) -> None:
    for path, body in (
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": SIMPLE}]}),
        ("/v1/completions", {"prompt": SIMPLE}),
        ("/v1/route", {"prompt": SIMPLE}),
    ):
        response = await api.client.post(path, json=body, headers={"x-session-id": session})
        assert response.status == 400
        assert "x-session-id must be 1 to 128" in str((await error_of(response))["message"])


async def test_route_tells_of_conversations_and_keeps_none(api: Api) -> None:
    for _ in range(2):
        assert await api.routed(HARD, path="/v1/route", session="mine") == "l score"
        assert await api.routed("thanks", path="/v1/route", session="mine") == "s score"
    await api.routed(HARD, session="mine")
    assert await api.routed("thanks", path="/v1/route", session="mine") == "l follow_up"
    assert await api.metric("tierserve_route_cache_misses_total") == 1


@pytest.mark.parametrize("api", [{"target_large_share": 0.2}], indirect=True)
async def test_a_share_to_hold_moves_the_threshold(api: Api) -> None:
    assert await api.metric("tierserve_router_threshold") == 4
    for _ in range(60):
        await api.routed(HARD)
    assert await api.metric("tierserve_router_threshold") == 9
    body = {"messages": [{"role": "user", "content": SIMPLE}]}
    assert (await (await api.client.post("/v1/route", json=body)).json())["threshold"] == 9
    for _ in range(300):
        await api.routed(HARD)
    late = [outcome.tier for outcome in api.outcomes[-200:]]
    assert late.count("l") == pytest.approx(40, abs=10)


async def test_the_large_tier_s_share_is_told_and_warned_of(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(20):
        await api.routed(HARD)
    assert await api.metric("tierserve_large_share") == 1
    assert await api.metric("tierserve_large_share_high") == 0
    for _ in range(80):
        await api.routed(HARD)
    assert await api.metric("tierserve_large_share_high") == 1
    assert caplog.text.count("routed requests went to the large tier") == 1


async def test_the_cache_is_counted(api: Api) -> None:
    for text in (SIMPLE, SIMPLE, HARD, SIMPLE):
        await api.routed(text)
    assert await api.metric("tierserve_route_cache_hits_total") == 2
    assert await api.metric("tierserve_route_cache_misses_total") == 2


def told(response: aiohttp.ClientResponse) -> list[str]:
    return [response.headers[f"x-tierserve-{name}"] for name in ("tier", "cause", "confidence", "escalated")]


@pytest.mark.parametrize("api", [{"escalation": {}}], indirect=True)
@pytest.mark.parametrize("stream", [False, True])
async def test_headers_say_how_an_answer_was_judged(api: Api, stream: bool) -> None:
    api.small.script = [("sure", 0.9)]
    response = await api.chat(stream=stream)
    assert told(response) == ["s", "score", "0.9000", "false"]
    assert "sure" in await response.text()
    api.small.script = [("unsure", 0.1)]
    response = await api.chat(stream=stream)
    assert told(response) == ["l", "escalation", "0.1000", "true"]
    text = await response.text()
    assert "unsure" not in text and "Hello" in text
    assert told(await api.chat(stream=stream, model="s")) == ["s", "model", "none", "false"]
    assert await api.metric("tierserve_confidence_count") == 2
    assert await api.metric('tierserve_escalations_total{doubt="low"}') == 1
    assert await api.metric("tierserve_large_share") == 0.5


@pytest.mark.parametrize("api", [{"escalation": {"budget": 0.001}}], indirect=True)
async def test_over_the_budget_a_doubted_answer_stands_and_says_so(api: Api) -> None:
    api.small.script = [("unsure", 0.1)]
    for number in range(12):
        response = await api.chat()
        expected = ["l", "escalation", "0.1000", "true"] if number < 10 else ["s", "budget", "0.1000", "false"]
        assert told(response) == expected
    assert await api.metric('tierserve_escalations_total{doubt="low"}') == 10


@pytest.mark.parametrize("api", [{"escalation": {"estimator": "structured"}}], indirect=True)
async def test_what_a_structured_answer_states_is_told_in_the_header_alone(api: Api) -> None:
    api.small.script = ['{"confidence": 0.87, "content": "', "Os", "lo", '"}']
    response = await api.chat()
    assert told(response) == ["s", "score", "0.8700", "false"]
    assert (await response.json())["choices"][0]["message"]["content"] == "Oslo"
    response = await api.chat(stream=True)
    text = await response.text()
    assert "confidence" not in text and text.count("chat.completion.chunk") == 2


@pytest.mark.parametrize("api", [{"escalation": {"estimator": "structured"}}], indirect=True)
@pytest.mark.parametrize(
    "wrong",
    [
        {"n": "2"},
        {"n": {"a": 1}},
        {"max_tokens": "5"},
        {"response_format": "json"},
        {"structured_outputs": {"json": "{"}},
    ],
    ids=str,
)
async def test_fields_of_a_wrong_type_are_the_tier_s_to_refuse_and_no_fault_of_ours(
    api: Api, wrong: dict[str, object]
) -> None:
    assert (await api.chat(**wrong)).status == 200, "the script takes anything"


@pytest.mark.parametrize("api", [{"escalation": {}}], indirect=True)
async def test_who_hangs_up_while_the_answer_is_held_is_not_counted_as_answered(api: Api) -> None:
    api.small.script = [("a", 0.9), asyncio.Event()]
    waiting = asyncio.create_task(api.chat(stream=True))
    for _ in range(2000):
        await asyncio.sleep(0.001)
        if api.small.running:
            waiting.cancel()
        if api.outcomes:
            break
    assert api.outcomes[0].status is Status.CANCELLED
    assert api.small.running == 0
    for committed in ("true", "false"):
        assert await api.metric(f'tierserve_held_seconds_count{{committed="{committed}"}}') == 0
