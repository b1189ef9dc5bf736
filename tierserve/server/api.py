"""The endpoints."""

import asyncio
import logging
import time
import traceback
import uuid
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from http import HTTPStatus

from aiohttp import web
from aiohttp.web_protocol import RequestPayloadError

from tierserve import __version__
from tierserve.config import NodeConfig, TracingConfig
from tierserve.core import Call, Decision, Judgement, Kind, Role, Trace
from tierserve.deadline import HEADER as DEADLINE_HEADER
from tierserve.deadline import deadline_of
from tierserve.errors import DeadlineExceeded, RequestError, TierserveError, TierUnavailable, UnknownModel
from tierserve.pipeline import Answer, Pipeline
from tierserve.router.router import Router
from tierserve.server.access import Access
from tierserve.server.body import BodyReader
from tierserve.server.guard import ACCESS, TICKET, guard, not_yet
from tierserve.server.openapi import Description
from tierserve.server.quota import estimate
from tierserve.server.reading import AUTO, check_id, known_role, read_call
from tierserve.server.refusal import CUT_OFF_MESSAGE, cut_off_events, deadline_events, fault, fault_events, refusal
from tierserve.telemetry.metrics import Metrics
from tierserve.telemetry.trace_context import begin
from tierserve.tiers.admission import Admission
from tierserve.tiers.base import Tier, TierState
from tierserve.tiers.pair import TierPair

log = logging.getLogger(__name__)

PIPELINE = web.AppKey("pipeline", Pipeline)
ROUTER = web.AppKey("router", Router)
TIERS = web.AppKey("tiers", TierPair)
METRICS = web.AppKey("metrics", Metrics)
TRACING: web.AppKey[TracingConfig | None] = web.AppKey("tracing")
BODIES = web.AppKey("bodies", BodyReader)
DESCRIPTION = web.AppKey("description", Description)
# Set once the node is asked to end: answers then close their connections, so that none is left to wait for.
DRAINING = web.AppKey("draining", asyncio.Event)
# Set when what is still running has to end without its answer.
CUT_OFF = web.AppKey("cut_off", asyncio.Event)
# The tasks that are reading or answering a request.
IN_FLIGHT = web.AppKey("in_flight", set[asyncio.Task[object] | None])

TIER_HEADER = "x-tierserve-tier"
REQUEST_ID = web.RequestKey("request_id", str)

_JSON = "application/json"
_STARTED = int(time.time())
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

routes = web.RouteTableDef()


def create_app(
    config: NodeConfig, pipeline: Pipeline, router: Router, tiers: TierPair, metrics: Metrics
) -> web.Application:
    """Raises ConfigError for keys or a certificate that can't be read."""
    app = web.Application(client_max_size=int(config.server.max_body_mb * 2**20), middlewares=[_around, guard])
    app[ACCESS] = Access(config.server)
    app[PIPELINE], app[ROUTER], app[TIERS], app[METRICS] = pipeline, router, tiers, metrics
    app[TRACING] = config.telemetry.tracing
    app[BODIES] = bodies = BodyReader(config.server)
    app[DESCRIPTION] = Description(tiers, bodies, app[ACCESS].wants_keys)
    app[DRAINING], app[CUT_OFF], app[IN_FLIGHT] = asyncio.Event(), asyncio.Event(), set()
    for role in Role:
        tier = tiers[role]
        metrics.watch_tier(tier.name, partial(_is_ready, tier), partial(_waiting, pipeline, role))
    metrics.watch_router(lambda: router.threshold, lambda: router.cache_hits, lambda: router.cache_misses)
    admission = pipeline.admission
    waiting = {tiers[role].name: partial(_queued, admission, role) for role in Role}
    metrics.watch_queue(waiting, admission.refused)
    metrics.watch_keys(lambda: app[ACCESS].names)
    router.assessments.observe = metrics.watch_assessments(router.assessments.counts)
    app.add_routes(routes)
    return app


@routes.post("/v1/chat/completions", expect_handler=not_yet)
async def chat_completions(request: web.Request) -> web.StreamResponse:
    return await _generate(request, Kind.CHAT)


@routes.post("/v1/completions", expect_handler=not_yet)
async def completions(request: web.Request) -> web.StreamResponse:
    return await _generate(request, Kind.COMPLETION)


@routes.post("/v1/route", expect_handler=not_yet)
async def route(request: web.Request) -> web.Response:
    """The decision for a chat or completion request, without an answer."""
    body = await request.app[BODIES].read(request)
    call = _read_call(request, Kind.COMPLETION if "prompt" in body else Kind.CHAT, body)
    decision = await request.app[PIPELINE].decide(call)
    tier = request.app[TIERS][decision.role].name
    return web.json_response(
        {
            "object": "route",
            "tier": tier,
            "role": decision.role,
            "score": decision.score,
            "threshold": request.app[ROUTER].threshold,
            "cause": decision.cause,
        },
        headers=_headers(tier, decision),
    )


@routes.get("/v1/models")
async def models(request: web.Request) -> web.Response:
    return web.json_response({"object": "list", "data": _cards(request)})


@routes.get("/v1/models/{model:.+}")
async def model(request: web.Request) -> web.Response:
    name = request.match_info["model"]
    for card in _cards(request):
        if card["id"] == name:
            return web.json_response(card)
    raise UnknownModel(f"there is no model {name!r} here", "model")


@routes.get("/health")
async def health(request: web.Request) -> web.Response:
    """Whether the process is alive: it answers."""
    return web.json_response({"status": "alive", "version": __version__})


@routes.get("/ready")
async def ready(request: web.Request) -> web.Response:
    """Whether the node can answer: first once all is loaded; then a tier that is away makes it degraded, no more, for
    the other one answers in its place, and to take such a node's traffic away would be worse."""
    tiers = request.app[TIERS]
    draining = request.app[DRAINING].is_set()
    router_ready = request.app[ROUTER].ready
    able = router_ready and tiers.able and not draining
    body = {
        "ready": able,
        "degraded": [tier.name for tier in tiers if tier.state is not TierState.READY],
        "router": _state(TierState.READY if router_ready else TierState.LOADING, "the encoder"),
        "tiers": {tier.name: _state(tier.state, tier.waiting_for) for tier in tiers},
    } | ({"draining": True} if draining else {})
    return web.json_response(body, status=HTTPStatus.OK if able else HTTPStatus.SERVICE_UNAVAILABLE)


@routes.get("/metrics")
async def metrics(request: web.Request) -> web.Response:
    body = request.app[METRICS].render(tier.metrics() for tier in request.app[TIERS])
    return web.Response(body=body, headers={"content-type": "text/plain; version=0.0.4; charset=utf-8"})


@routes.get("/openapi.json")
async def openapi(request: web.Request) -> web.Response:
    return web.Response(body=await request.app[DESCRIPTION].body(), content_type=_JSON)


async def _generate(request: web.Request, kind: Kind) -> web.StreamResponse:
    with request.app[METRICS].in_flight():
        return await _answer(request, kind)


async def _answer(request: web.Request, kind: Kind) -> web.StreamResponse:
    arrived, pipeline, ticket = time.monotonic(), request.app[PIPELINE], request[TICKET]
    deadline = deadline_of(arrived, request.headers.get(DEADLINE_HEADER), pipeline.admission.longest_s)
    role = known_role(request.headers.get(TIER_HEADER), request.app[TIERS], ticket.caller)
    # Here, where refusing costs least: before the body is read.
    pipeline.admission.check(ticket.caller.priority, role, deadline)
    call = _read_call(request, kind, await request.app[BODIES].read(request))
    ticket.charge(estimate(call.body, request.content.total_bytes))
    answer = await pipeline.answer(replace(call, deadline=deadline))
    ticket.outcome = answer.outcome
    headers = _headers(answer.tier, answer.decision, answer.judgement)
    if answer.events is None:
        return web.Response(body=answer.body, content_type=_JSON, headers=headers)
    return await _stream(request, answer, headers)


async def _stream(request: web.Request, answer: Answer, headers: dict[str, str]) -> web.StreamResponse:
    assert answer.events is not None
    response = web.StreamResponse(
        headers=headers | {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}
    )
    async with aclosing(answer.events):
        _finish_headers(request, response)
        await response.prepare(request)
        try:
            async for event in answer.events:
                await response.write(event)
        except ConnectionError:
            raise  # the caller is gone: nobody to tell
        except DeadlineExceeded as error:
            await response.write(deadline_events(error))
        except Exception as error:
            _log_fault(request, error)
            await response.write(fault_events())
        except asyncio.CancelledError:
            if not request.app[CUT_OFF].is_set():
                raise
            await response.write(cut_off_events())
    await response.write_eof()
    return response


def _read_call(request: web.Request, kind: Kind, body: dict[str, object]) -> Call:
    forced, session_id = request.headers.get(TIER_HEADER), request.headers.get("x-session-id")
    if session_id is not None:
        check_id("x-session-id", session_id)
    caller = request[TICKET].caller
    call = read_call(kind, body, request.app[TIERS], request[REQUEST_ID], forced, session_id, caller)
    return replace(call, trace=_trace(request))


def _trace(request: web.Request) -> Trace | None:
    tracing = request.app[TRACING]
    states = ",".join(request.headers.getall("tracestate", ()))
    return begin(request.headers.get("traceparent"), states, tracing.sample if tracing else None)


def _headers(tier: str, decision: Decision, judgement: Judgement | None = None) -> dict[str, str]:
    confidence = judgement.confidence if judgement else None
    return {
        TIER_HEADER: tier,
        "x-tierserve-score": "none" if decision.score is None else f"{decision.score:.3f}",
        "x-tierserve-cause": decision.cause,
        "x-tierserve-confidence": "none" if confidence is None else f"{confidence:.4f}",
        "x-tierserve-escalated": "true" if judgement and judgement.escalated else "false",
    }


@web.middleware
async def _around(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Names the request, turns errors into answers, and lets a connection end when the node does."""
    request[REQUEST_ID] = uuid.uuid4().hex
    in_flight, task = request.app[IN_FLIGHT], asyncio.current_task()
    in_flight.add(task)
    try:
        if given := request.headers.get("x-request-id"):
            request[REQUEST_ID] = check_id("x-request-id", given)
        response = await handler(request)
    except (TierserveError, web.HTTPException) as error:
        response = refusal(error)
    except ConnectionError:
        raise  # the caller is gone: nobody to answer
    except asyncio.CancelledError:
        if not request.app[CUT_OFF].is_set():
            raise  # likewise
        response = refusal(TierUnavailable(CUT_OFF_MESSAGE))
    except RequestPayloadError as error:  # chunks that can't be read
        response = refusal(RequestError(f"the body can't be read: {error}"))
    except Exception as error:
        _log_fault(request, error)
        response = fault()
    finally:
        in_flight.discard(task)
    if response.status >= HTTPStatus.BAD_REQUEST:
        request.app[METRICS].count_refusal(response.status)
    if not response.prepared:
        _finish_headers(request, response)
    return response


def _log_fault(request: web.Request, error: Exception) -> None:
    """Where it happened, but not the error's text, which may quote the prompt; that is in the log at level debug."""
    frames = "".join(traceback.format_tb(error.__traceback__))
    log.error("request %s failed: %s\n%s", request[REQUEST_ID], type(error).__name__, frames)
    log.debug("request %s: %s", request[REQUEST_ID], error)


def _finish_headers(request: web.Request, response: web.StreamResponse) -> None:
    response.headers["x-request-id"] = request[REQUEST_ID]
    if TICKET in request:
        response.headers.update(request[TICKET].headers())
    if request.app[DRAINING].is_set():
        response.force_close()


def _is_ready(tier: Tier) -> bool:
    return tier.state is TierState.READY


def _waiting(pipeline: Pipeline, role: Role) -> int:
    """Before the tier and in it. None can be said of one that is away."""
    queue = pipeline.admission.load()[role]
    return queue.waiting if queue else 0


def _queued(admission: Admission, role: Role) -> int:
    return sum(admission.waiting(role).values())


def _cards(request: web.Request) -> list[dict[str, object]]:
    """Of what the caller may have."""
    tiers = [request.app[TIERS][role] for role in Role if role in request[TICKET].caller.tiers]
    lengths = [tier.max_model_len for tier in tiers if tier.max_model_len is not None]
    return [_card(AUTO, max(lengths, default=None)), *(_card(tier.name, tier.max_model_len) for tier in tiers)]


def _card(name: str, max_model_len: int | None) -> dict[str, object]:
    return {
        "id": name,
        "object": "model",
        "created": _STARTED,
        "owned_by": "tierserve",
        "max_model_len": max_model_len,
    }


def _state(state: TierState, waiting_for: str) -> dict[str, str]:
    return {"state": state} | ({"waiting_for": waiting_for} if state is TierState.LOADING else {})
