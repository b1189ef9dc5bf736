"""How much load the load generator itself can make: against a server that does nothing but answer, on one core.

    python benchmarks/load_speed.py

The client is pinned to one core, the server, a process of its own, to another one. Whole answers; streams of 32 tokens,
each an event in a write of its own; closed loop, and open at the rate that is aimed at.
"""

import argparse
import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvloop
from loadgen import Closed, Endpoint, Open, Plan, built_in, run, summarise
from measurement import Measurement, Target, arguments

_TOKENS = 32
_AIM_PER_S = 2000
_SHOWN = (
    *("requests", "errors", "requests_per_s", "output_tokens_per_s", "e2e_p50_ms", "e2e_p99_ms"),
    *("client_cpu_share", "client_late_p99_ms", "client_saturated"),
)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--seconds", type=float, default=5, help="length of each trial")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        uvloop.run(_serve())
        return
    if options.quick:
        options.seconds, options.rounds = 0.5, 1
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[-1:])
    with _server(cores[0]) as url:
        rows = [row for stream in (False, True) for row in uvloop.run(_measure(url, stream, options))]
    Measurement("load_speed", rows, _targets(rows)).show(options)


def _targets(rows: list[dict[str, Any]]) -> list[Target]:
    closed = {row["answers"]: row["requests_per_s"] for row in rows if row["load"] == str(Closed(32))}
    return [
        Target("whole_per_s", closed["whole"], _AIM_PER_S, "higher"),
        Target("streams_per_s", closed["streamed"], _AIM_PER_S, "higher"),
    ]


async def _measure(url: str, stream: bool, options: argparse.Namespace) -> list[dict[str, Any]]:
    plan = Plan(
        [Endpoint(url, "nothing")],
        built_in(),
        [Closed(32), Open(_AIM_PER_S)],
        seconds=options.seconds,
        warmup_s=options.seconds / 5,
        rounds=options.rounds,
        stream=stream,
    )
    rows = summarise(await run(plan))
    answers = "streamed" if stream else "whole"
    return [{"answers": answers, "load": row["load"]} | {key: row[key] for key in _SHOWN} for row in rows]


# --- the server


@contextmanager
def _server(core: int) -> Iterator[str]:
    command = [sys.executable, __file__, "--serve"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            os.sched_setaffinity(process.pid, [core])
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


async def _serve() -> None:
    server = await asyncio.get_running_loop().create_server(_Nothing, "127.0.0.1", 0)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


class _Nothing(asyncio.Protocol):
    """Knows of HTTP what load.py sends: one request after the other, each with its length."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        self._received = b""

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if not found or not length or len(body) < int(length[1]):
            return
        self._received = b""
        if b'"stream": true' in body:
            self._transport.write(_STREAM_HEAD)
            self._write_token(_TOKENS)
        else:
            self._transport.write(_WHOLE)

    def _write_token(self, left: int) -> None:
        if left:
            self._transport.write(_TOKEN)
            asyncio.get_running_loop().call_soon(self._write_token, left - 1)
        else:
            self._transport.write(_STREAM_END)


def _whole() -> bytes:
    body = json.dumps(_answer("message", "word " * _TOKENS) | {"usage": _USAGE}).encode()
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _answer(part: str, text: str) -> dict[str, Any]:
    choice = {"index": 0, part: {"content": text}, "logprobs": None, "finish_reason": None}
    return {"id": "chatcmpl-0", "object": "chat.completion", "created": 0, "model": "nothing", "choices": [choice]}


def _event(data: str) -> bytes:
    """One server-sent event in one chunk."""
    event = f"data: {data}\n\n"
    return f"{len(event):x}\r\n{event}\r\n".encode()


_LENGTH = re.compile(rb"(?i)content-length: (\d+)")
_USAGE = {"prompt_tokens": 9, "completion_tokens": _TOKENS}
_WHOLE = _whole()
_STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_TOKEN = _event(json.dumps(_answer("delta", "word ")))
_STREAM_END = _event(json.dumps({"choices": [], "usage": _USAGE})) + _event("[DONE]") + b"0\r\n\r\n"


if __name__ == "__main__":
    main()
