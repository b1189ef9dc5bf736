"""A node for which no tier answers any more: how it ends, and that systemd starts such a one again."""

import asyncio
import socket
from pathlib import Path

import aiohttp
import yaml

from tests.conftest import ROOT
from tests.server.test_notify import Heard
from tests.server.test_service import Service, elsewhere, start


async def test_it_ends_with_a_status_for_which_the_unit_starts_it_again(tmp_path: Path) -> None:
    heard, answers, gone = Heard(str(tmp_path / "notify")), asyncio.Event(), asyncio.Event()
    answers.set()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        async for url in elsewhere(answers, gone):
            tiers = {role: {"name": f"the-{role}", "remote": {"url": url, "model": "m"}} for role in ("small", "large")}
            config = {"tiers": tiers, "escalation": "off", "faults": {"exit_after_s": 1}}
            (tmp_path / "node.yaml").write_text(yaml.safe_dump(config))
            service = Service(tmp_path, config, heard, listener, start(tmp_path, heard, listener), [])
            try:
                await service.came("READY=1")
                gone.set()
                async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as session:
                    status, answer = await service.ask(session)
                assert (status, answer["error"]["type"]) == (503, "service_unavailable")
                assert await asyncio.to_thread(service.process.wait) == 75
            finally:
                service.process.kill()
                service.process.wait()
    heard.socket.close()
    assert "faults.exit_after_s" in service.log
    unit = (ROOT / "systemd" / "tierserve.service").read_text()
    assert "Restart=on-failure\n" in unit and "RestartPreventExitStatus=2\n" in unit and "SuccessExitStatus" not in unit
