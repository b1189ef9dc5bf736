"""The node's life: listen, load, serve, drain, end. One process, one event loop; the engines are its children.

Its listening socket is its own, or the service manager's: then it takes connections only once it is ready, and callers
who come before wait in the socket's queue.
"""

import asyncio
import logging
import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path

import psutil
from aiohttp import web

from tierserve.config import NodeConfig, ServerConfig
from tierserve.core import Call, Kind, Prompt
from tierserve.errors import TierserveError
from tierserve.router.router import Router
from tierserve.server.api import DRAINING, IN_FLIGHT
from tierserve.server.exposure import check_exposure, warn_of_plain_text
from tierserve.server.guard import ACCESS
from tierserve.server.listening import BACKLOG, inherited_listener, listen
from tierserve.server.node import Node, settle
from tierserve.server.notify import Manager
from tierserve.server.reloading import Reloading
from tierserve.server.supervision import Supervision
from tierserve.server.tls import TlsSite
from tierserve.telemetry.logs import configured
from tierserve.tiers import processes
from tierserve.tiers.pair import TierPair

log = logging.getLogger(__name__)

_POLL_S = 0.02
# A request that is already on its way over an open connection is read within a few turns of the loop.
_QUIET_POLLS = 3
_CHILDREN_S = 0.5
# EX_TEMPFAIL of sysexits.h: no tier could answer any more; to be started again.
_NO_TIER_LEFT = 75


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

    if inherited is not None:
        check_exposure(config.server, inherited.getsockname()[0])
    with (
        configured(config.log),
        closing(inherited or listen(config.server)) as listener,
        tempfile.TemporaryDirectory(prefix="tierserve-", ignore_cleanup_errors=True) as scratch,
    ):
        life = _Life(Node(config), path, listener, inherited is not None, manager)
        _keep_in(scratch)
        try:
            status: int = uvloop.run(_until_signalled(life))
            return status
        finally:
            _end_children()


def _keep_in(scratch: str) -> None:
    """vLLM leaves sockets and files of its processes lying where it made them; this folder goes when the node does.
    What torch compiles is worth keeping, where it would have kept it."""
    compiled = os.path.join(tempfile.gettempdir(), f"torchinductor_{os.getuid()}")
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", compiled)
    os.environ.setdefault("VLLM_RPC_BASE_PATH", scratch)
    os.environ["TMPDIR"] = scratch


async def _until_signalled(life: "_Life") -> int:
    """The first signal lets the node finish what it runs; a second one ends it at once. SIGHUP reloads."""
    second = asyncio.Event()
    at_terminal = _has_terminal() and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN  # as nohup has it
    received: list[int] = []

    def on_signal(number: int) -> None:
        received.append(number)
        (second if life.end.is_set() else life.end).set()

    def on_hangup() -> None:
        if at_terminal and not _has_terminal():
            on_signal(signal.SIGHUP)  # the terminal was closed, nobody asks for a reload
        else:
            life.reload.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    loop.add_signal_handler(signal.SIGHUP, on_hangup)
    living = asyncio.create_task(life.live())
    hurry = asyncio.create_task(second.wait())
    await asyncio.wait({living, hurry}, return_when=asyncio.FIRST_COMPLETED)
    hurry.cancel()
    if living.done():
        return living.result()
    log.warning("second signal: ending at once")
    living.cancel()
    with suppress(asyncio.CancelledError):
        await living
    return 128 + received[-1]


class _Life:
    """`end` and `reload` are set by signals. `inherited`: the listener is the service manager's."""

    def __init__(self, node: Node, path: Path, listener: socket.socket, inherited: bool, manager: Manager) -> None:
        self.end, self.reload = asyncio.Event(), asyncio.Event()
        self._node = node
        self._listener, self._inherited = listener, inherited
        self._supervision = Supervision(
            manager,
            lambda: node.router.ready,
            list(node.tiers),
            node.engines,
            lambda: node.in_flight,
            node.config.server.load_s,
        )
        self._reloading = Reloading(path, node.config, node.parts(), self.reload, manager, self._supervision.status)

    async def live(self) -> int:
        """Returns the exit status."""
        node = self._node
        if node.decisions is not None:
            node.decisions.start()
        try:
            await node.runner.setup()
            site = self._site()
            if self._inherited:
                log.info("listening on the service manager's socket; server.host and server.port do not count")
            else:
                await site.start()
            async with self._supervision.running():
                if await _load(node.router, node.tiers, self.end):
                    settle()
                    if self._inherited:
                        await site.start()
                    await self._serve(site)
                self._supervision.end()
            return _NO_TIER_LEFT if node.supervisor.gave_up.is_set() else 0
        finally:
            await node.close()
            log.info("ended")

    async def _serve(self, site: web.SockSite) -> None:
        """Until the end: what was accepted by then is answered, or had its time."""
        node, server = self._node, self._node.config.server
        self._supervision.serve()
        _announce(server, self._listener, node.tiers, await _routed(server.examples, node.router, node.tiers))
        async with node.supervisor.watching():
            async with self._reloading.running(), node.watching():
                await _first(self.end, node.supervisor.gave_up)
            self._supervision.drain()
            node.supervisor.drain()
            await _drain(node.app, site, self._reloading.current.server.drain_s)

    def _site(self) -> web.SockSite:
        context = self._node.app[ACCESS].ssl_context
        kind = TlsSite if context else web.SockSite
        return kind(self._node.runner, self._listener, ssl_context=context, backlog=BACKLOG)


async def _first(*events: asyncio.Event) -> None:
    """Wait until one of them is set."""
    waiting = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()


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
