"""Callers who take their time, come in crowds, or don't speak HTTP: none holds anything for long."""

import asyncio
import json
import resource
import socket

import pytest

from tests.server.running import Caller, Surface, chat, request, surface, until
from tierserve.core import Status
from tierserve.server import connection
from tierserve.server.api import IN_FLIGHT

GET = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"
# Of what a server writes here, some lies in the system's buffers; an answer of this many deltas outgrows them.
LONG = ["x" * 60_000] * 400


async def idle(node: Surface) -> None:
    await until(lambda: not (node.small.running or node.app[IN_FLIGHT] or node.runner.connections.open))


async def test_a_head_that_drips_in_is_cut_off() -> None:
    async with surface(head_s=0.2) as node:
        caller = await node.connect()

        async def drip() -> None:
            await caller.send(b"POST /v1/chat/completions HTTP/1.1\r\n")
            while True:
                await caller.send(b"x: y\r\n")
                await asyncio.sleep(0.02)

        dripping = asyncio.create_task(drip())
        assert await caller.hung_up()
        dripping.cancel()
        await asyncio.gather(dripping, return_exceptions=True)
        await caller.close()
        await idle(node)
        assert node.runner.connections.cut_off == {"head": 1, "answer": 0, "full": 0}


async def test_so_it_is_on_a_connection_that_was_used_before() -> None:
    async with surface(head_s=0.2) as node:
        caller = await node.connect()
        await caller.send(GET)
        assert (await caller.answer()).status == 200
        await caller.send(GET[:-2])
        assert await caller.hung_up()
        await caller.close()


async def test_a_head_in_pieces_that_comes_in_time_is_answered() -> None:
    async with surface() as node:
        caller = await node.connect()
        for place in range(len(GET)):
            await caller.send(GET[place : place + 1])
            await asyncio.sleep(0)
        assert (await caller.answer()).status == 200
        await caller.close()


async def test_a_connection_without_a_request_is_closed_after_a_while() -> None:
    async with surface(idle_s=1) as node:
        silent, used = await node.connect(), await node.connect()
        await used.send(GET)
        assert (await used.answer()).status == 200
        assert await silent.hung_up()
        assert await used.hung_up()
        await silent.close()
        await used.close()


async def never_reads(node: Surface, sent: bytes) -> Caller:
    """Like Surface.connect, with little room for what it does not read."""
    end = socket.socket()
    end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    end.setblocking(False)
    await asyncio.get_running_loop().sock_connect(end, ("127.0.0.1", node.port))
    reader, writer = await asyncio.open_connection(sock=end, limit=4096)
    caller = Caller(reader, writer)
    await caller.send(sent)
    return caller


@pytest.mark.parametrize("stream", [True, False])
async def test_a_caller_who_does_not_take_an_answer_loses_it_and_its_slot(stream: bool) -> None:
    async with surface(write_s=0.2) as node:
        node.small.script = LONG
        caller = await never_reads(node, request(chat(stream=stream, model="s")))
        await until(lambda: node.outcomes)
        await idle(node)
        assert [outcome.status for outcome in node.outcomes] == [Status.CANCELLED if stream else Status.OK]
        await caller.close()


async def test_a_slow_caller_who_takes_enough_gets_all_of_it() -> None:
    async with surface(write_s=60) as node:
        node.small.script = ["x" * 60_000] * 40
        caller = await never_reads(node, request(chat(stream=True, model="s")))
        answer = await caller.answer()
        assert answer.body.endswith(b"data: [DONE]\n\n")
        assert answer.body.count(b"chat.completion.chunk") == 40
        await caller.close()


async def test_what_is_left_to_write_to_a_connection_that_was_closed_does_not_keep_it() -> None:
    """The node is done with it and has closed it, but the caller does not take the last bytes."""
    async with surface(write_s=0.2) as node:
        node.small.script = LONG
        caller = await never_reads(node, request(chat(model="s"), "/v1/chat/completions", "connection: close"))
        await until(lambda: node.outcomes)
        await idle(node)
        await caller.close()


async def test_beyond_the_bound_a_connection_is_told_so_and_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_TURN_AWAY_S", 60)
    async with surface(max_connections=2) as node:
        inside = [await node.connect() for _ in range(2)]
        for caller in inside:
            await caller.send(GET)
            assert (await caller.answer()).status == 200
        outside = await node.connect()
        await outside.send(request(chat()))
        answer = await outside.answer()
        assert answer.status == 503
        assert json.loads(answer.body)["error"]["type"] == "service_unavailable"
        assert answer.headers["retry-after"] == "1"
        assert await outside.hung_up()
        await outside.close()
        await inside[0].close()
        await until(lambda: not node.runner.connections.full)
        metrics = (await node.exchange(GET.replace(b"health", b"metrics"))).body.decode()
        assert "tierserve_connections 2.0" in metrics
        assert 'tierserve_connections_cut_off_total{why="full"} 1.0' in metrics
        await inside[1].close()
        await until(lambda: not node.runner.connections.turned_away)


async def test_a_crowd_is_turned_away_without_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who says nothing is not kept either, and beyond so many nobody is told anything."""
    monkeypatch.setattr(connection, "_TURN_AWAY_S", 0.2)
    monkeypatch.setattr(connection, "_TURNED_AWAY", 20)
    async with surface(max_connections=1) as node:
        inside = await node.connect()
        await inside.send(GET)
        assert (await inside.answer()).status == 200
        crowd = [await node.connect() for _ in range(100)]
        assert all(await asyncio.gather(*(caller.hung_up() for caller in crowd)))
        await asyncio.gather(*(caller.close() for caller in crowd))
        await inside.send(GET)
        assert (await inside.answer()).status == 200, "who was inside is none the worse"
        await inside.close()


def test_a_process_asks_for_the_descriptors_that_its_connections_need(caplog: pytest.LogCaptureFixture) -> None:
    before = soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    low = min(soft, 1024)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (low, hard))
        connection._make_room(low)
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == low + 512
        assert not caplog.records
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


async def test_too_long_or_too_many_headers_are_a_431() -> None:
    async with surface(limits={"headers": 16, "head_line_bytes": 1024}) as node:
        for sent in (
            b"GET /" + b"x" * 1100 + b" HTTP/1.1\r\nhost: x\r\n\r\n",
            b"GET / HTTP/1.1\r\nhost: x\r\nx: " + b"y" * 1100 + b"\r\n\r\n",
            b"GET / HTTP/1.1\r\nhost: x\r\n" + b"".join(b"x%d: y\r\n" % n for n in range(20)) + b"\r\n",
        ):
            caller = await node.connect()
            await caller.send(sent)
            answer = await caller.answer()
            assert answer.status == 431
            assert "server.limits.head" in answer.error["message"]
            assert await caller.hung_up()
            await caller.close()
