"""Spans as a collector gets them, over the app, scripted tiers and OTLP over HTTP."""

import asyncio
import logging
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from tests.server.test_api import CONFIG
from tests.test_pipeline import HARD, SIMPLE, word_router
from tierserve.config import EscalationConfig, NodeConfig, TracingConfig
from tierserve.core import Outcome, Role
from tierserve.errors import TierUnavailable
from tierserve.escalation.escalator import build_escalator
from tierserve.pipeline import Pipeline
from tierserve.server.api import create_app
from tierserve.telemetry.metrics import Metrics
from tierserve.telemetry.tracing import Tracing
from tierserve.tiers.pair import TierPair
from tierserve.tiers.scripted import ScriptedTier

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Collector:
    """Takes OTLP over HTTP, as the OpenTelemetry collector does."""

    def __init__(self) -> None:
        self.requests: list[ExportTraceServiceRequest] = []
        self.status = 200
        self.hang = asyncio.Event()
        self.hang.set()

    async def take(self, request: web.Request) -> web.Response:
        body = await request.read()
        await self.hang.wait()
        if self.status == 200:
            self.requests.append(ExportTraceServiceRequest.FromString(body))
        return web.Response(status=self.status)

    @property
    def spans(self) -> list[Span]:
        scopes = [scope for request in self.requests for part in request.resource_spans for scope in part.scope_spans]
        return [span for scope in scopes for span in scope.spans]


class Traced:
    """A node whose traces go to a collector."""

    def __init__(self, url: str, sample: float = 1.0) -> None:
        self.options = TracingConfig(endpoint=f"{url}/v1/traces", sample=sample)
        self.small, self.large = ScriptedTier("s", ["Hel", "lo"]), ScriptedTier("l", ["Hel", "lo"])
        self.tracing = Tracing(self.options, {Role.SMALL: "s", Role.LARGE: "l"})
        self.outcomes: list[Outcome] = []

    def record(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        self.tracing.record(outcome)

    async def ask(self, text: str, headers: dict[str, str] | None = None, **options: object) -> int:
        config = NodeConfig.model_validate(
            CONFIG.model_dump(exclude_unset=True) | {"telemetry": {"tracing": self.options.model_dump()}}
        )
        tiers, router = TierPair(self.small, self.large), word_router()
        escalator = build_escalator(EscalationConfig(), tiers, lambda: router.threshold)
        await router.start()
        await tiers.start()
        app = create_app(config, Pipeline(router, tiers, self.record, escalator), router, tiers, Metrics(["s", "l"]))
        async with TestClient(TestServer(app)) as client:
            body = {"model": "auto", "messages": [{"role": "user", "content": text}]} | options
            response = await client.post("/v1/chat/completions", json=body, headers=headers)
            await response.read()
        await router.close()
        return response.status


@pytest.fixture
async def collector() -> AsyncIterator[tuple[Collector, str]]:
    taking = Collector()
    app = web.Application()
    app.router.add_post("/v1/traces", taking.take)
    async with TestServer(app) as server:
        yield taking, str(server.make_url("")).rstrip("/")


def attributes(span: Span) -> dict[str, object]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value") or "") for each in span.attributes}


async def test_a_request_is_one_span_over_its_parts(collector: tuple[Collector, str]) -> None:
    taking, url = collector
    node = Traced(url)
    assert await node.ask(SIMPLE, {"x-request-id": "mine"}, stream=True) == 200
    await node.tracing.close()
    spans = {span.name: span for span in taking.spans}
    assert set(spans) == {"chat", "route", "generate"}
    request = spans["chat"]
    assert request.kind == Span.SPAN_KIND_SERVER and not request.parent_span_id
    for name in ("route", "generate"):
        assert spans[name].parent_span_id == request.span_id and spans[name].trace_id == request.trace_id
    assert spans["route"].start_time_unix_nano == request.start_time_unix_nano
    assert spans["route"].end_time_unix_nano == spans["generate"].start_time_unix_nano
    assert spans["generate"].end_time_unix_nano == request.end_time_unix_nano
    (first,) = spans["generate"].events
    assert first.name == "first_byte"
    assert spans["generate"].start_time_unix_nano <= first.time_unix_nano <= request.end_time_unix_nano
    found = attributes(request)
    assert found["tierserve.request_id"] == "mine"
    assert (found["gen_ai.response.model"], found["gen_ai.usage.output_tokens"]) == ("s", 2)
    (service,) = [
        each.value.string_value
        for each in taking.requests[0].resource_spans[0].resource.attributes
        if each.key == "service.name"
    ]
    assert service == "tierserve"
    assert SIMPLE.encode() not in taking.requests[0].SerializeToString()


async def test_the_callers_trace_goes_on(collector: tuple[Collector, str]) -> None:
    taking, url = collector
    node = Traced(url, sample=0.0)
    await node.ask(HARD, {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "a=1"})
    await node.tracing.close()
    assert {span.trace_id.hex() for span in taking.spans} == {TRACE}
    (request,) = [span for span in taking.spans if span.name == "chat"]
    assert request.parent_span_id.hex() == PARENT and request.trace_state == "a=1"
    (call,) = node.large.calls
    assert call.trace is not None
    assert call.trace.headers["traceparent"] == f"00-{TRACE}-{request.span_id.hex()}-01"


async def test_what_is_not_sampled_is_not_sent(collector: tuple[Collector, str]) -> None:
    taking, url = collector
    node, none = Traced(url), Traced(url, sample=0.0)
    await node.ask(SIMPLE, {"traceparent": f"00-{TRACE}-{PARENT}-00"})
    await none.ask(SIMPLE)
    await node.tracing.close()
    await none.tracing.close()
    assert len(node.outcomes) == len(none.outcomes) == 1
    assert taking.requests == []


async def test_an_escalation_has_a_span(collector: tuple[Collector, str]) -> None:
    taking, url = collector
    node = Traced(url)
    node.small.script = [("Hel", 0.1), ("lo", 0.1)]
    assert await node.ask(SIMPLE) == 200
    await node.tracing.close()
    spans = {span.name: span for span in taking.spans}
    assert set(spans) == {"chat", "route", "generate", "escalate"}
    assert attributes(spans["generate"])["tierserve.doubt"] == "low"
    assert attributes(spans["escalate"])["tierserve.tier"] == "l"
    assert spans["generate"].end_time_unix_nano == spans["escalate"].start_time_unix_nano


async def test_a_failure_is_marked(collector: tuple[Collector, str]) -> None:
    taking, url = collector
    node = Traced(url)
    node.small.script = node.large.script = [TierUnavailable("gone")]
    assert await node.ask(SIMPLE) == 503
    await node.tracing.close()
    (request,) = [span for span in taking.spans if span.name == "chat"]
    assert request.status.code == Status.STATUS_CODE_ERROR


async def test_a_collector_that_fails_does_no_harm(
    collector: tuple[Collector, str], caplog: pytest.LogCaptureFixture
) -> None:
    taking, url = collector
    taking.status = 400
    node = Traced(url)
    with caplog.at_level(logging.ERROR):
        assert await node.ask(SIMPLE) == 200
        await node.tracing.close()
    assert "400" in caplog.text


async def test_a_collector_that_hangs_does_not_keep_the_node_from_ending(
    collector: tuple[Collector, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    taking, url = collector
    monkeypatch.setattr("tierserve.telemetry.tracing._LAST_S", 0.05)
    taking.hang.clear()
    node = Traced(url)
    assert await node.ask(SIMPLE) == 200
    await node.tracing.close()
    assert taking.requests == []
    taking.hang.set()
    for _ in range(500):
        if taking.requests:
            break
        await asyncio.sleep(0.01)
    assert taking.requests  # what was held came after all: nobody had waited for it
