"""A node's whole HTTP surface over scripted tiers, on a port of the loopback, for callers who speak raw bytes."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import uvloop
from aiohttp import web

from tests.test_pipeline import word_router
from tierserve.config import EscalationConfig, NodeConfig
from tierserve.core import Outcome
from tierserve.escalation.escalator import Escalator
from tierserve.pipeline import Pipeline
from tierserve.router.router import Router
from tierserve.server.api import DRAINING, PIPELINE, create_app
from tierserve.server.connection import Runner
from tierserve.server.dashboard.window import Window
from tierserve.telemetry.metrics import Metrics
from tierserve.tiers.admission import Admission
from tierserve.tiers.pair import TierPair
from tierserve.tiers.scripted import ScriptedTier

T = TypeVar("T")


@dataclass
class Surface:
    port: int
    app: web.Application
    runner: Runner
    router: Router
    small: ScriptedTier
    large: ScriptedTier
    window: Window
    loop: asyncio.AbstractEventLoop
    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def draining(self) -> asyncio.Event:
        """To be set and cleared in `loop`."""
        return self.app[DRAINING]

    @property
    def admission(self) -> Admission:
        return self.app[PIPELINE].admission

    async def connect(self) -> "Caller":
        return Caller(*await asyncio.open_connection("127.0.0.1", self.port))

    async def exchange(self, sent: bytes) -> "Answer":
        """One answer to these bytes, over a connection of their own."""
        caller = await self.connect()
        try:
            await caller.send(sent)
            return await caller.answer()
        finally:
            await caller.close()


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        """In OpenAI's form, or this fails."""
        body = json.loads(self.body)
        assert set(body) == {"error"} and set(body["error"]) == {"message", "type", "param", "code"}
        assert self.headers["x-request-id"]
        return body["error"]  # type: ignore[no-any-return]


@dataclass
class Caller:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self, without_body: bool = False) -> Answer:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in head[1:] if line)}
        body = b"" if without_body else await self._body(headers)
        return Answer(int(head[0].split()[1]), headers, body)

    async def _body(self, headers: dict[str, str]) -> bytes:
        if "content-length" in headers:
            return await self.reader.readexactly(int(headers["content-length"]))
        if headers.get("transfer-encoding") != "chunked":
            return await self.reader.read()
        body = b""
        while size := int(await self.reader.readline(), 16):
            body += (await self.reader.readexactly(size + 2))[:-2]
        await self.reader.readline()
        return body

    async def hung_up(self) -> bool:
        """Waits for the other end to end the connection; what it still said is dropped."""
        try:
            while await self.reader.read(1 << 16):
                pass
        except ConnectionError:
            pass
        return True

    async def close(self) -> None:
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except ConnectionError:
            pass


async def until(condition: Callable[[], object]) -> None:
    """Wait; that it never comes true is a test's timeout."""
    while True:
        if condition():
            return
        await asyncio.sleep(0.01)


@asynccontextmanager
async def surface(
    admission: dict[str, Any] | None = None, escalation: EscalationConfig | None = None, **server: Any
) -> AsyncIterator[Surface]:
    """With these options of `admission:` and `server:`, judging as `escalation` says, or not at all.

    In a thread of its own, on the loop that a node has, as transports differ.
    """
    loop = uvloop.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def there(work: Coroutine[Any, Any, T]) -> T:
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, loop))

    try:
        node = await there(_started(server, admission or {}, escalation))
        try:
            yield node
        finally:
            await there(node.runner.cleanup())
            await there(node.router.close())
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _started(server: dict[str, Any], admission: dict[str, Any], escalation: EscalationConfig | None) -> Surface:
    tier = {"engine": {"model": "m"}}
    tiers = {"small": {"name": "s", **tier}, "large": {"name": "l", **tier}}
    config = NodeConfig.model_validate({"server": server, "admission": admission, "tiers": tiers})
    small, large, outcomes, window = ScriptedTier("s"), ScriptedTier("l"), list[Outcome](), Window()
    pair, router, metrics = TierPair(small, large), word_router(), Metrics(["s", "l"])
    escalator = Escalator(escalation, small, large, lambda: router.threshold) if escalation else None

    def record(outcome: Outcome) -> None:
        outcomes.append(outcome)
        window.record(outcome)

    await router.start()
    await pair.start()
    pipeline = Pipeline(router, pair, record, escalator, admission=Admission(pair, config.admission))
    app = create_app(config, pipeline, router, pair, metrics, window)
    runner = Runner(app, config.server, metrics.count_refusal, 1)
    metrics.watch_connections(lambda: len(runner.connections.open), runner.connections.cut_off)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return Surface(
        runner.addresses[0][1], app, runner, router, small, large, window, asyncio.get_running_loop(), outcomes
    )


def request(body: bytes | dict[str, Any], path: str = "/v1/chat/completions", *headers: str) -> bytes:
    """A POST as bytes, with its length."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"POST {path} HTTP/1.1", "host: x", "content-type: application/json", f"content-length: {len(raw)}"]
    return "\r\n".join([*lines, *headers, "", ""]).encode() + raw


def chat(text: str = "a simple prompt", **options: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}]} | options
