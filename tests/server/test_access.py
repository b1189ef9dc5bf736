"""The HTTP layer of a node with keys, over scripted tiers: who gets in, to what, and what it counts against."""

import asyncio
import hashlib
import json
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from tests.server.test_api import ANSWER, CONFIG, HARDER, LONG, Api, error_of
from tests.test_pipeline import HARD, SIMPLE, word_router
from tierserve.config import EscalationConfig, KeysConfig, ServerConfig
from tierserve.core import ANYBODY, Caller, Outcome, Role, Status
from tierserve.errors import ConfigError, Forbidden, TierUnavailable, Unauthorized
from tierserve.escalation.escalator import build_escalator
from tierserve.pipeline import Pipeline
from tierserve.server.access import Access
from tierserve.server.api import create_app
from tierserve.server.guard import ACCESS
from tierserve.server.reloading import entering
from tierserve.telemetry.logs import log_outcome
from tierserve.telemetry.metrics import Metrics
from tierserve.tiers.base import TierState
from tierserve.tiers.pair import TierPair
from tierserve.tiers.scripted import ScriptedTier

# Each key of these tests is its name, told at length.
ENTRIES: list[dict[str, Any]] = [
    {"name": "app", "priority": 7},
    {"name": "other"},
    {"name": "small", "tiers": ["small"]},
    {"name": "large", "tiers": ["large"]},
    {"name": "boss", "admin": True},
    {"name": "slow", "requests_per_minute": 2, "tokens_per_minute": 1000},
    {"name": "single", "concurrency": 1},
]
JSON = {"content-type": "application/json"}
MODELS = {"auto", "s", "l"}


def key(name: str) -> str:
    return f"ts-{name:-<43}"


def bearer(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key(name)}"}


def write_keys(path: Path, entries: list[dict[str, Any]]) -> ServerConfig:
    hashed = [entry | {"sha256": hashlib.sha256(key(entry["name"]).encode()).hexdigest()} for entry in entries]
    path.write_text(json.dumps(hashed))
    return ServerConfig(keys=KeysConfig(file=str(path)), max_body_mb=0.01)


@dataclass
class Keyed(Api):
    """An Api that wants keys. `clock` holds the time by which limits go."""

    access: Access = field(default_factory=lambda: Access(ServerConfig()))
    clock: list[float] = field(default_factory=lambda: [0.0])

    async def ask(self, name: str, text: str = SIMPLE, headers: dict[str, str] | None = None, **options: Any) -> Any:
        return await self.chat(text, bearer(name) | (headers or {}), **options)

    async def remaining(self, name: str, thing: str) -> int:
        """A look, which costs nothing."""
        response = await self.client.get("/v1/models", headers=bearer(name))
        return int(response.headers[f"x-ratelimit-remaining-{thing}"])


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Keyed]:
    small, large = ScriptedTier("s"), ScriptedTier("l")
    tiers, router, outcomes = TierPair(small, large), word_router(), list[Outcome]()
    # Every answer of these tiers is sure of itself, so that only what a test doubts is doubted.
    escalator = build_escalator(EscalationConfig(), tiers, lambda: router.threshold)
    await router.start()
    await tiers.start()

    def record(outcome: Outcome) -> None:
        outcomes.append(outcome)
        log_outcome(outcome)

    config = CONFIG.model_copy(update={"server": write_keys(tmp_path / "keys.json", ENTRIES)})
    app = create_app(config, Pipeline(router, tiers, record, escalator), router, tiers, Metrics(["s", "l"]))
    clock = [0.0]
    access = app[ACCESS] = Access(config.server, lambda: clock[0])
    async with TestClient(TestServer(app, handler_cancellation=True)) as client:
        yield Keyed(client, small, large, outcomes, access, clock)
    await router.close()


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        key("app"),
        f"Basic {key('app')}",
        f"Bearer {key('app')[:-1]}",
        f"Bearer {key('app')}x",
        f"Bearer {key('app').upper()}",
        f"Bearer {hashlib.sha256(key('app').encode()).hexdigest()}",
        "Bearer app",
        "Bearer \xe9",
        "Bearer " + "x" * 8000,
    ],
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/route", "/v1/models", "/metrics", "/v1/nothing", "/"])
async def test_without_a_known_key_nothing_is_answered(api: Keyed, authorization: str | None, path: str) -> None:
    headers = {} if authorization is None else {"authorization": authorization}
    method = "GET" if path in ("/v1/models", "/metrics") else "POST"
    response = await api.client.request(method, path, headers=headers, data=b"{}" if method == "POST" else None)
    assert response.status == 401
    assert response.headers["www-authenticate"] == "Bearer"
    error = await error_of(response)
    assert (error["type"], error["code"]) == ("authentication_error", "invalid_api_key")
    assert "x-ratelimit-limit-requests" not in response.headers
    assert api.outcomes == api.small.calls == api.large.calls == []


@pytest.mark.parametrize(
    "path", ["/health/../v1/models", "//v1/models", "/v1/models/", "/health/", "/HEALTH", "/v1%2Fmodels", "/metrics?x"]
)
async def test_no_spelling_of_a_path_opens_it(api: Keyed, path: str) -> None:
    from yarl import URL

    url = URL(f"{api.client.make_url('/')}{path[1:]}", encoded=True)
    async with api.client.session.get(url) as response:
        assert response.status == 401


async def test_a_key_that_comes_twice_or_in_another_place_is_none(api: Keyed) -> None:
    headers = [("authorization", f"Bearer {key('app')}"), ("authorization", f"Bearer {key('boss')}")]
    assert (await api.client.get("/v1/models", headers=headers)).status == 401
    for name in ("x-api-key", "api-key", "proxy-authorization", "x-tierserve-key"):
        assert (await api.client.get("/v1/models", headers={name: f"Bearer {key('app')}"})).status == 401
    assert (await api.client.get(f"/v1/models?authorization=Bearer%20{key('app')}")).status == 401


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "bearer "])
async def test_a_known_key_is_answered_and_its_name_recorded(
    api: Keyed, scheme: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    response = await api.chat(headers={"authorization": f"{scheme} {key('app')}"})
    assert response.status == 200
    assert api.outcomes[0].call.caller == Caller("app", 7, frozenset(Role), False)
    (line,) = [record for record in caplog.records if record.name == "tierserve.request"]
    assert line.__dict__["key"] == "app"
    assert key("app") not in caplog.text + repr([record.__dict__ for record in caplog.records])


@pytest.mark.parametrize("path", ["/health", "/ready"])
async def test_whether_the_node_lives_is_open(api: Keyed, path: str) -> None:
    assert (await api.client.get(path)).status == 200
    assert (await api.client.get(path, headers={"authorization": "Bearer wrong"})).status == 200


async def test_metrics_are_an_admin_s_or_open(api: Keyed, tmp_path: Path) -> None:
    assert (await api.client.get("/metrics", headers=bearer("app"))).status == 403
    response = await api.client.get("/metrics", headers=bearer("boss"))
    assert response.status == 200
    assert 'tierserve_cost_total{key="small",tier="s"} 0.0' in await response.text()  # each key's from the start
    config = write_keys(tmp_path / "keys.json", ENTRIES)
    api.access.prepare(config.model_copy(update={"metrics_open": True}))()
    assert (await api.client.get("/metrics")).status == 200


async def test_the_body_of_a_stranger_is_not_waited_for(api: Keyed) -> None:
    """Of a body that was announced nothing is sent, and the answer is there."""
    reader, writer = await asyncio.open_connection(api.client.host, api.client.port)
    writer.write(
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 9000\r\nexpect: 100-continue\r\n\r\n"
    )
    assert (await reader.readline()).startswith(b"HTTP/1.1 401")
    writer.close()


async def test_a_caller_who_waits_to_be_let_in_is_told_so_once(api: Keyed) -> None:
    reader, writer = await asyncio.open_connection(api.client.host, api.client.port)
    body = json.dumps({"messages": [{"role": "user", "content": SIMPLE}]}).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    head += f"authorization: Bearer {key('app')}\r\n"
    writer.write(f"{head}content-length: {len(body)}\r\nexpect: 100-continue\r\nconnection: close\r\n\r\n".encode())
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(body)
    answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"100 Continue" not in answer
    writer.close()


async def test_what_is_expected_beside_that_is_refused(api: Keyed) -> None:
    response = await api.ask("app", headers={"expect": "the unexpected"})
    assert response.status == 417


@pytest.mark.parametrize(
    ("how", "options"),
    [("model", {"model": "l"}), ("role", {"model": "large"}), ("header", {"headers": {"x-tierserve-tier": "l"}})],
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/route"])
async def test_a_tier_that_the_key_may_not_have_is_a_403(
    api: Keyed, how: str, options: dict[str, Any], path: str
) -> None:
    headers = bearer("small") | options.get("headers", {})
    said = {"prompt": SIMPLE} if path == "/v1/completions" else {"messages": [{"role": "user", "content": SIMPLE}]}
    body = said | {"model": options.get("model", "auto")}
    response = await api.client.post(path, json=body, headers=headers)
    assert response.status == 403
    assert (await error_of(response))["type"] == "permission_error"
    assert api.large.calls == []


async def test_auto_stays_with_the_one_tier_that_the_key_may_have(api: Keyed) -> None:
    response = await api.ask("small", HARD)
    assert [response.headers[f"x-tierserve-{name}"] for name in ("tier", "cause")] == ["s", "key"]
    response = await api.ask("large", SIMPLE)
    assert [response.headers[f"x-tierserve-{name}"] for name in ("tier", "cause")] == ["l", "key"]
    response = await api.client.post("/v1/route", json={"prompt": HARD}, headers=bearer("small"))
    assert (await response.json())["cause"] == "key"


async def test_nothing_that_goes_wrong_leads_to_a_tier_that_the_key_may_not_have(api: Keyed) -> None:
    api.small.script = [("A doubtful answer", 0.01)]
    assert (await api.ask("app")).headers["x-tierserve-escalated"] == "true", "a key for both escalates"
    asked = len(api.large.calls)
    assert (await api.ask("small")).headers["x-tierserve-tier"] == "s"
    api.small.script = [TierUnavailable("gone")]
    assert (await api.ask("small")).status == 503
    api.small.state = TierState.FAILED
    assert (await api.ask("small")).status == 503
    api.small.state, api.small.max_model_len = TierState.READY, 1
    assert (await api.ask("small", "two words")).status == 400
    assert len(api.large.calls) == asked


async def test_models_are_those_that_the_key_may_have(api: Keyed) -> None:
    for name, missing in (("app", set()), ("small", {"l"}), ("large", {"s"})):
        cards = await (await api.client.get("/v1/models", headers=bearer(name))).json()
        assert {card["id"] for card in cards["data"]} == MODELS - missing
        for model in MODELS:
            status = (await api.client.get(f"/v1/models/{model}", headers=bearer(name))).status
            assert status == (404 if model in missing else 200)


@pytest.mark.parametrize("session", [None, "theirs"])
async def test_no_key_reaches_another_s_conversation(api: Keyed, session: str | None) -> None:
    headers = {} if session is None else {"x-session-id": session}
    said = [{"role": "user", "content": HARDER}, ANSWER, {"role": "user", "content": LONG}]
    assert (await api.ask("app", messages=said[:1], headers=headers)).headers["x-tierserve-tier"] == "l"
    assert (await api.ask("app", messages=said, headers=headers)).headers["x-tierserve-cause"] == "conversation"
    assert (await api.ask("other", messages=said, headers=headers)).headers["x-tierserve-cause"] != "conversation"


async def test_requests_are_limited_by_the_minute(api: Keyed) -> None:
    first, second, third = [await api.ask("slow") for _ in range(3)]
    assert (first.status, second.status, third.status) == (200, 200, 429)
    assert [r.headers["x-ratelimit-remaining-requests"] for r in (first, second, third)] == ["1", "0", "0"]
    assert third.headers["retry-after"] == "30"
    error = await error_of(third)
    assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
    api.clock[0] += 30
    assert (await api.ask("slow")).status == 200
    assert (await api.ask("app")).status == 200, "another's limit is another's"


@pytest.mark.parametrize("stream", [False, True])
async def test_tokens_are_charged_beforehand_and_corrected_afterwards(api: Keyed, stream: bool) -> None:
    api.small.script = ["Hel", "lo"]
    response = await api.ask("slow", stream=stream, max_tokens=400)
    await response.read()
    assert 500 < int(response.headers["x-ratelimit-remaining-tokens"]) < (600 if stream else 1000)
    assert await api.remaining("slow", "tokens") == 1000 - 1 - 2
    response = await api.ask("slow", stream=stream, max_tokens=999)
    assert response.status == 429
    assert await api.remaining("slow", "tokens") == 997
    assert int(response.headers["retry-after"]) >= 1


async def test_what_fails_costs_no_tokens(api: Keyed) -> None:
    api.small.script = api.large.script = [TierUnavailable("gone")]
    response = await api.ask("slow", max_tokens=400)
    assert response.status == 503
    assert response.headers["x-ratelimit-limit-tokens"] == "1000", "on errors as well"
    assert await api.remaining("slow", "tokens") == 1000
    assert (await api.client.post("/v1/chat/completions", data=b"{", headers=bearer("slow") | JSON)).status == 400
    assert await api.remaining("slow", "tokens") == 1000


async def test_hanging_up_is_not_free(api: Keyed) -> None:
    api.small.script = [asyncio.Event()]
    asking = asyncio.create_task(api.ask("slow", max_tokens=400))
    await until(lambda: bool(api.small.running))
    asking.cancel()
    await until(lambda: bool(api.outcomes))
    assert api.outcomes[0].status is Status.CANCELLED
    assert 500 < await api.remaining("slow", "tokens") < 600


async def test_a_short_deadline_makes_nothing_free(api: Keyed) -> None:
    api.small.script = [asyncio.Event()]
    body = {"model": "s", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 400}
    headers = bearer("slow") | {"x-request-timeout-s": "0.05"}
    response = await api.client.post("/v1/chat/completions", json=body, headers=headers)
    assert response.status == 408
    assert 500 < await api.remaining("slow", "tokens") < 600


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("ending", ["answered", "failed", "hung up"])
async def test_a_place_is_free_again_however_the_request_ends(api: Keyed, ending: str, stream: bool) -> None:
    gate = asyncio.Event()
    for _ in range(2):
        gate.clear()
        api.small.script = ["a", gate, RuntimeError() if ending == "failed" else "b"]
        # A tier that is named is not judged, so that its stream is not held back.
        asking = asyncio.create_task(api.ask("single", stream=stream, model="s"))
        await until(lambda: bool(api.small.running))
        second = await api.ask("single")
        assert (second.status, second.headers["retry-after"]) == (429, "1")
        if ending != "hung up":
            gate.set()
            await (await asking).read()
        elif stream:
            (await asking).close()
        else:
            asking.cancel()
        await until(lambda: not api.small.running)
        api.small.script = ["free"]
        assert (await api.ask("single")).status == 200
    assert len(api.outcomes) == 4, "what was refused came to no tier"


async def test_what_never_became_a_call_holds_no_place(api: Keyed) -> None:
    for body in (b"{", b"{}", b"x" * 20_000):
        response = await api.client.post("/v1/chat/completions", data=body, headers=bearer("single") | JSON)
        assert response.status in (400, 413)
        assert (await api.ask("single")).status == 200


async def test_keys_and_limits_are_read_again(api: Keyed, tmp_path: Path) -> None:
    for _ in range(2):
        await api.ask("slow")
    api.access.prepare(write_keys(tmp_path / "keys.json", [{"name": "slow", "requests_per_minute": 200}]))()
    assert (await api.ask("app")).status == 401
    response = await api.ask("slow", HARD)
    assert response.status == 429, "what was used up stays so"
    api.clock[0] += 30
    assert (await api.ask("slow")).headers["x-ratelimit-remaining-requests"] == "99"


async def test_a_bad_file_changes_nothing(api: Keyed, tmp_path: Path) -> None:
    for change in ([], [{"name": "slow", "requests_per_minute": -1}], [{"name": "two words"}]):
        config = write_keys(tmp_path / "keys.json", change)
        with pytest.raises(ConfigError):
            api.access.prepare(config)()
        assert (await api.ask("app")).status == 200
    with pytest.raises(ConfigError, match="server.keys: can't be switched on or off"):
        api.access.prepare(ServerConfig())()
    assert (await api.ask("app")).status == 200


async def test_a_reload_asks_for_keys_whether_or_not_an_option_differs(api: Keyed, tmp_path: Path) -> None:
    part = entering(api.access)
    assert part.always
    config = CONFIG.model_copy(update={"server": write_keys(tmp_path / "keys.json", [{"name": "new"}])})
    apply = part.prepare(config)
    assert (await api.ask("new")).status == 401, "prepared is not in force"
    apply()
    assert [(await api.ask(name)).status for name in ("new", "app")] == [200, 401]


def test_a_variable_with_keys_is_not_left_to_the_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NODE_KEYS", json.dumps([{"name": "app", "key": key("app")}]))
    config = ServerConfig(keys=KeysConfig(env="NODE_KEYS"))
    access = Access(config)
    assert "NODE_KEYS" not in os.environ
    access.prepare(config)()
    assert access.ticket("/v1/models", [f"bearer {key('app')}"]).caller.key == "app"


def test_without_keys_everybody_may_do_everything() -> None:
    access = Access(ServerConfig())
    for path in ("/v1/chat/completions", "/metrics", None):
        ticket = access.ticket(path, ["Bearer whatever"])
        assert ticket.caller is ANYBODY
        assert ticket.headers() == {}


def test_what_a_key_may_is_decided_by_the_route(tmp_path: Path) -> None:
    access = Access(write_keys(tmp_path / "keys.json", ENTRIES))
    assert access.ticket("/health", []).caller is ANYBODY
    with pytest.raises(Unauthorized):
        access.ticket(None, [])
    with pytest.raises(Forbidden, match="app"):
        access.ticket("/metrics", [f"Bearer {key('app')}"])


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110  # what is waited for happens in the code under test
            await asyncio.sleep(0.005)
