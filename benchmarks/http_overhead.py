"""What a request costs the serving process: tierserve beside vLLM's own FastAPI server, on the same tiny checkpoint.

    python benchmarks/http_overhead.py                          starts both, on lab-small, idle beside each other
    python benchmarks/http_overhead.py --url http://host:port   a node that is running on this machine

The model is so small that the process which speaks HTTP is what takes the time. Its CPU time is read before and after
each trial, user and system, with all of its threads; the engines' processes are not in it. The load comes in turns:

vllm          vLLM's server, as it comes but without its access log (tierserve's line for each request is written)
explicit      tierserve, model lab-small
auto          tierserve routes: every prompt is a new one, so each is embedded and scored in the process
auto, known   the same prompts again and again: the router remembers their scores

Every answer has 32 tokens; prompts are the lab's questions, about 73 tokens. Figures are medians over the rounds, and
ratios medians of each round's own ratio to vLLM.
"""

import argparse
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from statistics import median
from typing import Any

import psutil
import uvloop
from loadgen import Closed, Endpoint, Plan, Prompt, Trial, run, summarise
from measurement import Measurement, Target, arguments
from node import ALL_WAIT, lab_config, running_node
from tqdm import tqdm

from tierserve.lab.question import Split
from tierserve.lab.tasks import mix

_AT_ONCE = {1: 100, 8: 160, 32: 320, 128: 512}  # and how many requests a trial has
_QUICK_AT_ONCE = {2: 16, 32: 32}
_TOKENS = 32
_BODY = {"temperature": 0, "ignore_eos": True}
_KNOWN = 32
_START_S = 300
_VLLM, _EXPLICIT, _AUTO, _AUTO_KNOWN = "vllm", "explicit", "auto", "auto, known"


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--url", help="a node with the lab's tiers on this machine; by default one is started")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    # 128 at once are more than the engines' slots: vLLM's server lets them wait, too.
    with running_node(options.url, admission=ALL_WAIT) as node, _vllm() as vllm:
        rows = _measure(_Servers(node, vllm), _QUICK_AT_ONCE if options.quick else _AT_ONCE, options)
    Measurement("http_overhead", rows, _targets(rows)).show(options)


def _targets(rows: list[dict[str, Any]]) -> list[Target]:
    ratio = {(row["server"], row["streamed"], row["at_once"]): row["cpu_ratio"] for row in rows}
    return [
        Target("cpu_ratio_stream_32", ratio[_EXPLICIT, True, 32], 0.6, "lower"),
        Target("cpu_ratio_nostream_32", ratio[_EXPLICIT, False, 32], 0.75, "lower"),
        Target("cpu_ratio_auto_stream_32", ratio[_AUTO, True, 32], 1.0, "lower"),
    ]


# --- measuring


class _Servers:
    """Both servers' models, and the processes that answer for them."""

    def __init__(self, node: str, vllm: str) -> None:
        self.endpoints = [
            Endpoint(vllm, "lab-small", _VLLM),
            Endpoint(node, "lab-small", _EXPLICIT),
            Endpoint(node, "auto", _AUTO),
            Endpoint(node, "auto", _AUTO_KNOWN),
        ]
        self._processes = {url: _listening(url) for url in (node, vllm)}

    def cpu_s(self, endpoint: Endpoint) -> float:
        times = self._processes[endpoint.url].cpu_times()
        return times.user + times.system


def _measure(servers: _Servers, at_once: dict[int, int], options: argparse.Namespace) -> list[dict[str, Any]]:
    rounds = 1 if options.quick else options.rounds
    prompts = _prompts((rounds + 1) * 2 * sum(at_once.values()) * len(servers.endpoints) + _KNOWN)
    known = list(islice(prompts, _KNOWN))
    kinds = [(stream, count) for stream in (True, False) for count in at_once]
    found: dict[tuple[bool, int, str], list[tuple[Trial, float]]] = {}
    trials = [(number, *kind) for number in range(-1, rounds) for kind in kinds]  # -1: everything once, not counted
    for number, stream, concurrency in tqdm(trials, desc="rounds", file=sys.stderr, disable=None):
        requests = at_once[concurrency] if number >= 0 else min(at_once[concurrency], _KNOWN)
        turn = number % len(servers.endpoints)
        for endpoint in servers.endpoints[turn:] + servers.endpoints[:turn]:
            asked = known if endpoint.name == _AUTO_KNOWN else list(islice(prompts, requests))
            trial, cpu_s = _trial(servers, endpoint, asked, stream, concurrency, requests)
            if number >= 0:
                found.setdefault((stream, concurrency, endpoint.name), []).append((trial, cpu_s))
    return [_row(kind, endpoint.name, found) for kind in kinds for endpoint in servers.endpoints]


def _trial(
    servers: _Servers, endpoint: Endpoint, prompts: list[Prompt], stream: bool, concurrency: int, requests: int
) -> tuple[Trial, float]:
    """The trial, and seconds of CPU that the serving process took for it."""
    plan = Plan(
        [endpoint], prompts, [Closed(concurrency)], count=requests, stream=stream, max_tokens=_TOKENS, body=_BODY
    )
    before = servers.cpu_s(endpoint)
    (trial,) = uvloop.run(run(plan))
    cpu_s = servers.cpu_s(endpoint) - before
    wrong = {sample.error or f"{sample.output_tokens} tokens" for sample in trial.samples} - {f"{_TOKENS} tokens"}
    if wrong:
        sys.exit(f"{endpoint.name} at {endpoint.url} did not answer as asked: {', '.join(sorted(wrong))}")
    return trial, cpu_s


def _row(
    kind: tuple[bool, int], server: str, found: dict[tuple[bool, int, str], list[tuple[Trial, float]]]
) -> dict[str, Any]:
    mine, vllms = found[*kind, server], found[*kind, _VLLM]
    (times,) = summarise(trial for trial, _ in mine)
    each_ms = [_cpu_ms(*measured) for measured in mine]
    ratios = [own / _cpu_ms(*other) for own, other in zip(each_ms, vllms, strict=True)]
    return {
        "server": server,
        "streamed": kind[0],
        "at_once": kind[1],
        "cpu_ms": median(each_ms),
        "cpu_ms_least": min(each_ms),
        "cpu_ms_most": max(each_ms),
        "cpu_ratio": median(ratios),
        "requests_per_s": times["requests_per_s"],
        "ttft_p50_ms": times["ttft_p50_ms"],
        "ttft_p99_ms": times["ttft_p99_ms"],
        "e2e_p50_ms": times["e2e_p50_ms"],
        "requests": times["requests"],
        "client_cpu_share": times["client_cpu_share"],
    }


def _cpu_ms(trial: Trial, cpu_s: float) -> float:
    return cpu_s * 1000 / len(trial.samples)


def _prompts(count: int) -> Iterator[Prompt]:
    """All different."""
    return (Prompt.of(question.prompt) for question in mix(Split.TRAIN, count, seed=8))


# --- the servers


def _listening(url: str) -> psutil.Process:
    """The process of this machine that listens at the URL's port."""
    port = int(url.rsplit(":", 1)[1])
    for connection in psutil.net_connections("tcp"):
        if connection.status == psutil.CONN_LISTEN and connection.laddr[1:] == (port,) and connection.pid:
            return psutil.Process(connection.pid)
    sys.exit(f"no process of this machine and user listens at {url}")


@contextmanager
def _vllm() -> Iterator[str]:
    """vLLM's own server with the options that the lab's small tier has. Its URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    print("starting vLLM's own server ...", file=sys.stderr)
    # `vllm serve` asks for a distribution named vllm, which the CPU build is not; this is the module behind it.
    command = [sys.executable, "-m", "vllm.entrypoints.launchers.api_server.entry", *_vllm_options(), f"--port={port}"]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | _VLLM_ENVIRONMENT)
        try:
            _until_healthy(f"http://127.0.0.1:{port}", process, log)
            yield f"http://127.0.0.1:{port}"
        finally:
            _end(process)


_VLLM_ENVIRONMENT = {
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


def _vllm_options() -> list[str]:
    engine = lab_config()["tiers"]["small"]["engine"]
    given = {f"--{name.replace('_', '-')}": value for name, value in engine.items()}
    flags = [name if value is True else f"{name}={value}" for name, value in given.items()]
    return [*flags, "--served-model-name=lab-small", "--host=127.0.0.1", "--disable-uvicorn-access-log"]


def _until_healthy(url: str, process: subprocess.Popen[bytes], log: Any) -> None:
    deadline = time.monotonic() + _START_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    log.seek(0)
    sys.exit(f"vLLM's server did not start:\n{log.read()[-4000:].decode(errors='replace')}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """It, and what it started."""
    family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.terminate()
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for left in psutil.wait_procs(family, timeout=10)[1]:
        left.kill()


if __name__ == "__main__":
    main()
