"""The node's life: listen, load, serve, drain, end. One process, one event loop; the engines are its children.

Its listening socket is its own, or the service manager's: then it takes connections only once it is ready, and callers
who come before wait in the socket's queue.
"""

import asyncio
import errno
import gc
import logging
import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from aiohttp import web

from tierserve.config import NodeConfig, ServerConfig
from tierserve.core import Call, Kind, Outcome, Prompt, Role
from tierserve.errors import ConfigError, TierserveError
from tierserve.escalation.escalator import Escalator, build_escalator
from tierserve.pipeline import Pipeline
from tierserve.quality.shadow.shadow import Shadow, build_shadow
from tierserve.router.router import Router, build_router
from tierserve.server.api import BODIES, CUT_OFF, DASHBOARD, DRAINING, IN_FLIGHT, create_app
from tierserve.server.connection import Runner
from tierserve.server.costing import Costing
from tierserve.server.dashboard.window import Window
from tierserve.server.deciding import build_decision_log
from tierserve.server.drifting import Drifting
from tierserve.server.exposure import check_exposure, warn_of_plain_text
from tierserve.server.guard import ACCESS
from tierserve.server.inherited import inherited_listener
from tierserve.server.notify import Manager
from tierserve.server.reloading import (
    Reloading,
    admitting,
    bounding,
    comparing,
    draining,
    entering,
    judging,
    logging_level,
    pricing,
    routing,
    warning,
)
from tierserve.server.supervision import Supervision
from tierserve.server.tls import TlsSite
from tierserve.telemetry.decisions.log import DecisionLog
from tierserve.telemetry.logs import configured, log_outcome
from tierserve.telemetry.metrics import Metrics
from tierserve.telemetry.share import LargeShare
from tierserve.tiers import processes
from tierserve.tiers.admission import Admission
from tierserve.tiers.pair import TierPair, build_tiers
from tierserve.tiers.supervisor import Supervisor

if TYPE_CHECKING:
    from tierserve.telemetry.tracing import Tracing

log = logging.getLogger(__name__)

_BACKLOG = 1024
_POLL_S = 0.02
# A request that is already on its way over an open connection is read within a few turns of the loop.
_QUIET_POLLS = 3
# For answers that are complete and still on their way to a slow reader.
_LAST_BYTES_S = 5.0
_CHILDREN_S = 0.5
# EX_TEMPFAIL of sysexits.h: no tier could answer any more; to be started again.
_NO_TIER_LEFT = 75


@dataclass(frozen=True, slots=True)
class _Node:
    """What is there before anything is loaded. `inherited`: the listener is the service manager's."""

    config: NodeConfig
    path: Path
    router: Router
    tiers: TierPair
    escalator: Escalator | None
    listener: socket.socket
    inherited: bool
    manager: Manager
    decisions: DecisionLog | None
    admission: Admission
    shadow: Shadow | None


def run(config: NodeConfig, path: Path) -> int:
    """Serve until a signal says otherwise; returns the exit status. `path` is where the configuration was read.

    Raises ConfigError or TierStartError.
    """
    # First of all: no process that is started from here on may speak to the service manager, or have its socket.
    manager = Manager.from_environment()
    try:
        return _run(config, path, manager, inherited_listener())
    except TierserveError as error:
        manager.status(f"failed: {error}")
        raise


def _run(config: NodeConfig, path: Path, manager: Manager, inherited: socket.socket | None) -> int:
    import uvloop

    tiers, router = build_tiers(config.tiers), build_router(config.router)
    escalator = build_escalator(config.escalation, tiers, lambda: router.threshold)
    if inherited is not None:
        check_exposure(config.server, inherited.getsockname()[0])
    decisions, admission = build_decision_log(config, router), Admission(tiers, config.admission)
    shadow = build_shadow(
        config.shadow, admission, tiers, router.embed, decisions.record_comparison if decisions else None
    )
    listener = inherited or _listen(config.server)
    node = _Node(
        config,
        path,
        router,
        tiers,
        escalator,
        listener,
        inherited is not None,
        manager,
        decisions,
        admission,
        shadow,
    )
    with (
        configured(config.log),
        tempfile.TemporaryDirectory(prefix="tierserve-", ignore_cleanup_errors=True) as scratch,
    ):
        _keep_in(scratch)
        try:
            status: int = uvloop.run(_until_signalled(node))
            return status
        finally:
            listener.close()
            _end_children()


def _keep_in(scratch: str) -> None:
    """vLLM leaves sockets and files of its processes lying where it made them; this folder goes when the node does.
    What torch compiles is worth keeping, where it would have kept it."""
    compiled = os.path.join(tempfile.gettempdir(), f"torchinductor_{os.getuid()}")
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", compiled)
    os.environ.setdefault("VLLM_RPC_BASE_PATH", scratch)
    os.environ["TMPDIR"] = scratch


async def _until_signalled(node: _Node) -> int:
    """The first signal lets the node finish what it runs; a second one ends it at once. SIGHUP reloads."""
    first, second, reload = asyncio.Event(), asyncio.Event(), asyncio.Event()
    at_terminal = _has_terminal() and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN  # as nohup has it
    received: list[int] = []

    def on_signal(number: int) -> None:
        received.append(number)
        (second if first.is_set() else first).set()

    def on_hangup() -> None:
        if at_terminal and not _has_terminal():
            on_signal(signal.SIGHUP)  # the terminal was closed, nobody asks for a reload
        else:
            reload.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    loop.add_signal_handler(signal.SIGHUP, on_hangup)
    life = asyncio.create_task(_live(node, first, reload))
    hurry = asyncio.create_task(second.wait())
    await asyncio.wait({life, hurry}, return_when=asyncio.FIRST_COMPLETED)
    hurry.cancel()
    if life.done():
        return life.result()
    log.warning("second signal: ending at once")
    life.cancel()
    with suppress(asyncio.CancelledError):
        await life
    return 128 + received[-1]


async def _live(node: _Node, end: asyncio.Event, reload: asyncio.Event) -> int:
    """Returns the exit status. `end` and `reload` are set by signals."""
    config, router, tiers, decisions = node.config, node.router, node.tiers, node.decisions
    shadow = node.shadow
    metrics = Metrics(tier.name for tier in tiers)

    share = LargeShare(config.router.warn_large_share)
    metrics.watch_share(share)
    costing, window = Costing(config, metrics), Window()
    tracing = _tracing(config)
    if shadow is not None:
        shadow.observe = metrics.watch_shadow(shadow.counts)
    if decisions is not None:
        metrics.watch_decisions(*decisions.counts)
        decisions.start()

    def record(outcome: Outcome) -> None:
        costing.record(outcome)
        metrics.record(outcome)
        share.record(outcome)
        window.record(outcome)
        log_outcome(outcome)
        if tracing is not None:
            tracing.record(outcome)
        if decisions is not None:
            decisions.record(outcome)
        if shadow is not None:
            shadow.record(outcome)

    keep_answers = decisions is not None and decisions.keeps_answers
    admission, draw = node.admission, shadow.draws if shadow is not None else None
    pipeline = Pipeline(
        router, tiers, record, node.escalator, admission=admission, keep_answers=keep_answers, draw=draw
    )
    app = create_app(config, pipeline, router, tiers, metrics, window)
    runner = Runner(app, config.server, metrics.count_refusal, _LAST_BYTES_S)
    metrics.watch_connections(lambda: len(runner.connections.open), runner.connections.cut_off)
    await runner.setup()
    context = app[ACCESS].ssl_context
    site = (TlsSite if context else web.SockSite)(runner, node.listener, ssl_context=context, backlog=_BACKLOG)
    if node.inherited:
        log.info("listening on the service manager's socket; server.host and server.port do not count")
    else:
        await site.start()
    engines = [tiers[role] for role in Role if config.tiers[role].engine is not None]
    supervision = Supervision(
        node.manager, lambda: router.ready, list(tiers), engines, lambda: len(app[IN_FLIGHT]), config.server.load_s
    )
    supervisor = Supervisor(config.faults, tiers, _settle)
    metrics.watch_engines(supervisor.restarts, {tier.name: partial(supervisor.down_s, tier.name) for tier in tiers})
    parts = [
        routing(router),
        judging(pipeline, tiers, router),
        warning(share),
        comparing(shadow),
        pricing(costing),
        admitting(admission),
        bounding(app[BODIES], runner.connections),
        logging_level(),
        draining(),
        entering(app[ACCESS]),
    ]
    drifting = Drifting(config, metrics.drift)
    app[DASHBOARD].feed.drift = lambda: drifting.brief
    reloading = Reloading(node.path, config, parts, reload, node.manager, supervision.status)
    try:
        async with supervision.running():
            if await _load(router, tiers, end):
                _settle()
                if node.inherited:
                    await site.start()
                supervision.serve()
                _announce(config.server, node.listener, tiers, await _routed(config.server.examples, router, tiers))
                async with supervisor.watching():
                    async with reloading.running(), drifting.watching(), _running(shadow):
                        await _first(end, supervisor.gave_up)
                    supervision.drain()
                    supervisor.drain()
                    await _drain(app, site, reloading.current.server.drain_s)
            supervision.end()
        return _NO_TIER_LEFT if supervisor.gave_up.is_set() else 0
    finally:
        try:
            # Whatever is still running now had its time, or was told to end at once.
            app[CUT_OFF].set()
            for task in app[IN_FLIGHT]:
                if task is not None:
                    task.cancel()
            await runner.cleanup()
        finally:
            await tiers.stop()
            await router.close()
            if tracing is not None:
                await tracing.close()
            if decisions is not None:
                await decisions.close()
        log.info("ended")


def _running(shadow: Shadow | None) -> AbstractAsyncContextManager[None]:
    return shadow.running() if shadow is not None else nullcontext()


async def _first(*events: asyncio.Event) -> None:
    """Wait until one of them is set."""
    waiting = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()


def _tracing(config: NodeConfig) -> "Tracing | None":
    """None where no collector is configured: OpenTelemetry is then not imported."""
    options = config.telemetry.tracing
    if options is None:
        return None
    from tierserve.telemetry.tracing import Tracing

    return Tracing(options, {role: config.tiers[role].name for role in Role})


async def _load(router: Router, tiers: TierPair, end: asyncio.Event) -> bool:
    """Load everything; False when the node was told to end before that was done."""

    async def load() -> None:
        await tiers.find_weights()
        # One after the other: both import torch, and two threads that import one library wait for each other anyway.
        log.info("loading the router")
        await router.start()
        await tiers.start()

    loading, ending = asyncio.create_task(load()), asyncio.create_task(end.wait())
    await asyncio.wait({loading, ending}, return_when=asyncio.FIRST_COMPLETED)
    ending.cancel()
    if loading.done():
        loading.result()
        return True
    log.info("told to end while loading")
    loading.cancel()
    await asyncio.wait({loading})
    return False


def _settle() -> None:
    """What was loaded stays: the garbage collector need not spend 0.3 s, in which no stream moves, on it again.

    After a rebuild it does, once: the engine that died was among what stays.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()


async def _drain(app: web.Application, site: web.SockSite, limit_s: float) -> None:
    """Stop accepting; wait until what was accepted is answered, or the deadline has passed."""
    log.info("draining: %d requests in flight, at most %g s", len(app[IN_FLIGHT]), limit_s)
    app[DRAINING].set()
    await asyncio.sleep(0)  # connections that the system has taken for us already are ours
    await site.stop()
    deadline = time.monotonic() + limit_s
    quiet = 0
    while quiet < _QUIET_POLLS and time.monotonic() < deadline:
        await asyncio.sleep(_POLL_S)
        quiet = 0 if app[IN_FLIGHT] else quiet + 1
    if app[IN_FLIGHT]:
        log.warning("%d requests cut off after %g s of draining", len(app[IN_FLIGHT]), limit_s)


def _listen(config: ServerConfig) -> socket.socket:
    """A bound socket, before anything is loaded: a port that is taken is said at once. Raises ConfigError."""
    try:
        address = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM)[0]
        check_exposure(config, str(address[4][0]))
        listener = socket.socket(address[0], socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address[4])
        listener.listen(_BACKLOG)
        return listener
    except UnicodeError:
        raise ConfigError("server.host", f"{config.host!r} is no host's name or address", "correct it") from None
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            remedy = "stop what listens there, or choose another port"
            raise ConfigError("server.port", f"{config.host}:{config.port} is in use", remedy) from None
        where = "server.port" if error.errno == errno.EACCES else "server.host"
        raise ConfigError(
            where, f"can't listen on {config.host}:{config.port} ({error.strerror})", "choose another"
        ) from None


async def _routed(examples: Sequence[str], router: Router, tiers: TierPair) -> str:
    """Which tier each example goes to, a line each."""
    decisions = [await router.look(Call("example", Kind.CHAT, {}, (Prompt(example),))) for example in examples]
    width = max((len(tier.name) for tier in tiers), default=0)
    lines = [
        f"  {tiers[decision.role].name:<{width}}  {decision.score or 0:5.2f}  {example}\n"
        for decision, example in zip(decisions, examples, strict=True)
    ]
    return "".join(["\n", *lines]) if lines else ""


def _announce(config: ServerConfig, listener: socket.socket, tiers: TierPair, routed: str) -> None:
    host, port = listener.getsockname()[:2]
    warn_of_plain_text(config, host)
    base = f"{'https' if config.tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"
    log.info("ready at %s/v1", base)
    names = ", ".join(tier.name for tier in tiers)
    key = ' -H "authorization: Bearer $KEY"' if config.keys else ""
    print(
        f"""
tierserve is ready at {base}/v1 (models: auto, {names})
{routed}
  curl -i {base}/v1/chat/completions -H 'content-type: application/json'{key} \\
       -d '{{"model": "auto", "messages": [{{"role": "user", "content": "Hello"}}]}}'

Ctrl-C ends it.
""",
        flush=True,
    )


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
        return True
    except OSError:
        return False


def _end_children() -> None:
    """The engines end with their tiers; whatever is left, after a start that was broken off, is ended here."""
    timeout = 0 if _loading_threads() else _CHILDREN_S
    _, left = psutil.wait_procs(processes.children(), timeout=timeout)
    processes.end(left, _CHILDREN_S)


def _loading_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("loading")]
