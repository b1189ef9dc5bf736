"""A node under a service manager: its socket, its notifications, its signals; the manager is this test."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from aiohttp import web

from tests.server.test_notify import Heard
from tests.telemetry.decisions.test_log import rows

# Takes the place of systemd between fork and exec: the socket as descriptor 3, and whom it is meant for.
_EXEC = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ["LISTEN_PID"] = os.environ["WATCHDOG_PID"] = str(os.getpid())
os.execv(sys.argv[2], sys.argv[2:])
"""


@dataclass
class Service:
    folder: Path
    config: dict[str, Any]
    heard: Heard
    listener: socket.socket
    process: subprocess.Popen[bytes]
    seen: list[str]

    @property
    def url(self) -> str:
        host, port = self.listener.getsockname()
        return f"http://{host}:{port}"

    @property
    def log(self) -> str:
        return (self.folder / "err").read_text()

    def configure(self, **sections: Any) -> None:
        (self.folder / "node.yaml").write_text(yaml.safe_dump(self.config | sections))

    async def came(self, wanted: str, count: int = 1) -> None:
        """Wait until this was heard that often since the start."""
        while sum(message.startswith(wanted) for message in self.seen) < count:
            assert self.process.poll() is None, self.log
            await asyncio.sleep(0.02)
            self.seen += self.heard.messages()

    async def ask(self, session: aiohttp.ClientSession) -> tuple[int, Any]:
        body = {"messages": [{"role": "user", "content": "What is Python?"}]}
        async with session.post(f"{self.url}/v1/chat/completions", json=body) as response:
            return response.status, await response.json()


async def elsewhere(gate: asyncio.Event, gone: asyncio.Event | None = None) -> AsyncIterator[str]:
    """An OpenAI-compatible server with one model, which answers once the gate is open, and hangs up when it is gone."""

    def hang_up(request: web.Request) -> None:
        if gone is not None and gone.is_set() and request.transport is not None:
            request.transport.abort()

    async def models(request: web.Request) -> web.Response:
        hang_up(request)
        return web.json_response({"object": "list", "data": [{"id": "m", "object": "model"}]})

    async def chat(request: web.Request) -> web.Response:
        hang_up(request)
        await gate.wait()
        message = {"role": "assistant", "content": "A language."}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
        return web.json_response(
            {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}
        )

    app = web.Application()
    app.add_routes([web.get("/v1/models", models), web.post("/v1/chat/completions", chat)])
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    await runner.cleanup()


def start(folder: Path, heard: Heard, listener: socket.socket) -> subprocess.Popen[bytes]:
    """As systemd does: the node's own process is told of the socket and of the watchdog."""
    environment = os.environ | {"NOTIFY_SOCKET": heard.address, "WATCHDOG_USEC": "400000", "LISTEN_FDS": "1"}
    node = [sys.executable, str(Path(sys.executable).with_name("tierserve")), "--config", str(folder / "node.yaml")]
    command = [sys.executable, "-c", _EXEC, str(listener.fileno()), *node]
    with (folder / "err").open("wb") as err:
        return subprocess.Popen(command, stdout=err, stderr=err, env=environment, pass_fds=[listener.fileno()])


@pytest.fixture
async def gate() -> asyncio.Event:
    return asyncio.Event()


@pytest.fixture
async def service(gate: asyncio.Event, tmp_path: Path) -> AsyncIterator[Service]:
    heard = Heard(str(tmp_path / "notify"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        async for url in elsewhere(gate):
            tiers = {role: {"name": f"the-{role}", "remote": {"url": url, "model": "m"}} for role in ("small", "large")}
            config = {"tiers": tiers, "escalation": "off", "decisions": {"path": "decisions.sqlite", "text": True}}
            (tmp_path / "node.yaml").write_text(yaml.safe_dump(config))
            process = start(tmp_path, heard, listener)
            yield Service(tmp_path, config, heard, listener, process, [])
            if process.poll() is None:
                process.kill()
            process.wait()
    heard.socket.close()


async def test_a_life_under_a_service_manager(service: Service, gate: asyncio.Event) -> None:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as session:
        early = asyncio.create_task(service.ask(session))  # before there is anybody to answer
        await service.came("EXTEND_TIMEOUT_USEC=30000000")
        await service.came("READY=1\nSTATUS=ready: the-small, the-large")
        assert service.seen[0].startswith("STATUS=loading: ")
        gate.set()
        status, answer = await early
        assert (status, answer["choices"][0]["message"]["content"]) == (200, "A language.")
        await service.came("WATCHDOG=1", count=2)

        service.configure(router={"threshold": 0.0})
        service.process.send_signal(signal.SIGHUP)
        await service.came("READY=1", count=2)
        assert (await service.ask(session))[1]["model"] == "the-large"
        service.configure(router={"threshold": "low"})
        service.process.send_signal(signal.SIGHUP)
        await service.came("READY=1", count=3)
        assert (await service.ask(session))[1]["model"] == "the-large"
        assert "router.threshold" in service.log and "what was in force stays" in service.log

        gate.clear()
        last = asyncio.create_task(service.ask(session))
        await _until_asked(session, service)
        service.process.send_signal(signal.SIGTERM)
        await service.came("STOPPING=1\nSTATUS=draining: 1 request in flight")
        gate.set()
        assert (await last)[0] == 200
        assert await asyncio.to_thread(service.process.wait) == 0
        # The next caller is not refused, but waits for the next node.
        with socket.create_connection(service.listener.getsockname()):
            service.listener.accept()[0].close()
    assert "server.port do not count" in service.log
    kept = [(row["status"], row["tier"], row["answer"]) for row in rows(service.folder / "decisions.sqlite")]
    assert kept == [("ok", f"the-{role}", "A language.") for role in ("small", "large", "large", "large")]


async def _until_asked(session: aiohttp.ClientSession, service: Service) -> None:
    while True:
        async with session.get(f"{service.url}/metrics") as response:
            if "tierserve_requests_in_flight 1.0" in await response.text():
                return
        await asyncio.sleep(0.02)
