"""What callers lose when engines are killed under load, and how soon an engine is back.

    python benchmarks/faults.py              20 kills
    python benchmarks/faults.py --kills 4

A node on the embedded default is asked by eight callers, each again a quarter of a second after its answer, every other
one streaming. Then a process of an engine gets SIGKILL, in turns the core or the worker of the small or of the large
tier; the next one follows once both tiers are ready again and have served for a while. Last, unless it is not wanted
(`--no-hang`), a worker is stopped (SIGSTOP), so that its engine hangs. The callers ask for `auto`, so each of them can
be answered by either tier.

An engine that dies again within a minute is rebuilt after a wait, twice as long each time: up to a minute as the node
is configured by default, which the tenth kill would measure, and not the rebuild. Here it is at most a second.

A request is lost when it was not streaming yet and got no answer. A stream that had begun may end with an error event,
which says that the tier failed; silent is one that ends with neither that nor a finish reason.
"""

import asyncio
import json
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import psutil
from measurement import Measurement, Target, arguments
from node import Node, lab_config
from tqdm import tqdm

_CALLERS = 8
_PAUSE_S = 0.25  # of a caller between two requests: some of the cores is left for the rebuild
_SERVE_S = 2.0  # between two kills, with both tiers up
_POLL_S = 0.05
_GIVE_UP_S = 300
_HANG_S = 5.0
_BACKOFF_S = 1.0
# The first two are simple, the others hard, by the head of the lab.
_PROMPTS = ("What is Python?", "Repeat: red blue.", "What is 384 times 27?", "Sort: pear kiwi fig plum date lime.")
_VICTIMS = (("small", "core"), ("large", "worker"), ("small", "worker"), ("large", "core"))


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--kills", type=int, help="how many; 20, or 2 with --quick")
    parser.add_argument("--no-hang", dest="hang", action="store_false", help="stop no worker at the end")
    options = parser.parse_args()
    kills = options.kills or (2 if options.quick else 20)
    victims = [_VICTIMS[number % len(_VICTIMS)] + ("SIGKILL",) for number in range(kills)]
    victims += [("small", "worker", "SIGSTOP")] if options.hang else []
    print("starting the embedded default ...", file=sys.stderr)
    config = lab_config() | {"faults": {"hang_s": _HANG_S, "backoff_max_s": _BACKOFF_S}}
    with tempfile.TemporaryDirectory() as folder, Node(config, Path(folder)) as node:
        node.wait_until_ready()
        results = asyncio.run(_measure(node, victims))
    killed = [row for row in results if row["signal"] == "SIGKILL"]
    targets = [
        Target("kills", len(killed), 20, "higher"),
        Target("non_streaming_lost", sum(row["lost"] for row in results), 0, "lower"),
        Target("silent_streams", sum(row["silent"] for row in results), 0, "lower"),
        Target("recovery_s", statistics.median(row["recovery_s"] for row in killed), 30, "lower"),
    ]
    Measurement("faults", results, targets).show(options)


def engines(node: int) -> dict[int, int]:
    """The engines of the node with this process id: of each the process id of its core, and that of its first
    worker."""
    found = {}
    for core in psutil.Process(node).children():
        workers = [child.pid for child in core.children() if "resource_tracker" not in " ".join(child.cmdline())]
        if workers:
            found[core.pid] = min(workers)
    return found


async def _measure(node: Node, victims: list[tuple[str, str, str]]) -> list[dict[str, Any]]:
    cores = dict(zip(("small", "large"), sorted(engines(node.process.pid)), strict=True))  # started in this order
    rows = []
    async with _load(node.url) as counts, aiohttp.ClientSession() as session:
        for number, (role, part, how) in enumerate(tqdm(victims, desc="kills", file=sys.stderr, disable=None)):
            await asyncio.sleep(_SERVE_S)
            running = engines(node.process.pid)
            counts.clear()
            victim = cores[role] if part == "core" else running[cores[role]]
            began = time.perf_counter()
            psutil.Process(victim).send_signal(getattr(signal, how))
            await _until(session, node.url, role, up=False)
            noticed_s = time.perf_counter() - began
            await _until(session, node.url, role, up=True)
            recovery_s = time.perf_counter() - began
            await asyncio.sleep(_SERVE_S)  # for those who were answered elsewhere to come to their end
            (cores[role],) = set(engines(node.process.pid)) - set(running)
            rows.append(
                {"number": number + 1, "tier": role, "process": part, "signal": how}
                | {"noticed_s": noticed_s, "recovery_s": recovery_s}
                | {name: counts[name] for name in ("answered", "failover", "told", "lost", "silent")}
            )
    return rows


async def _until(session: aiohttp.ClientSession, url: str, role: str, up: bool) -> None:
    """Wait until the tier is ready, or until it is not."""
    deadline = time.perf_counter() + _GIVE_UP_S
    while True:
        async with session.get(f"{url}/ready") as response:
            states = [tier["state"] for tier in (await response.json())["tiers"].values()]
        if (states[("small", "large").index(role)] == "ready") == up:
            return
        if time.perf_counter() > deadline:
            sys.exit(f"the {role} tier is not {'ready' if up else 'away'} after {_GIVE_UP_S} s")
        await asyncio.sleep(_POLL_S)


@asynccontextmanager
async def _load(url: str) -> AsyncIterator[Counter[str]]:
    """Callers who ask for as long as the block runs, and what became of their requests."""
    counts: Counter[str] = Counter()
    end = asyncio.Event()
    async with aiohttp.ClientSession() as session:
        callers = [asyncio.create_task(_ask_on(session, url, number, counts, end)) for number in range(_CALLERS)]
        try:
            yield counts
        finally:
            end.set()
            await asyncio.gather(*callers)


async def _ask_on(
    session: aiohttp.ClientSession, url: str, caller: int, counts: Counter[str], end: asyncio.Event
) -> None:
    number = caller
    while not end.is_set():
        stream = bool(caller % 2)
        prompt = _PROMPTS[number // 2 % len(_PROMPTS)]
        body = {"model": "auto", "messages": [{"role": "user", "content": prompt}], "stream": stream}
        number += _CALLERS + 2
        try:
            async with session.post(
                f"{url}/v1/chat/completions", json=body | {"max_tokens": 64, "ignore_eos": True}
            ) as response:
                failover = response.headers.get("x-tierserve-cause") == "failover"
                counts["failover"] += failover
                text = await response.text()
                counts[_became(response.status, text) if stream else _whole(response.status, text)] += 1
        except (aiohttp.ClientError, TimeoutError):
            counts["silent" if stream else "lost"] += 1
        await asyncio.sleep(_PAUSE_S)


def _whole(status: int, text: str) -> str:
    return "answered" if status == 200 and json.loads(text)["choices"][0]["finish_reason"] else "lost"


def _became(status: int, text: str) -> str:
    """Of a stream: what it came to."""
    if status != 200:
        return "lost"  # an error before the first event
    events = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    if events[-1:] != ["[DONE]"]:
        return "silent"
    told = [json.loads(event) for event in events[:-1]]
    if any("error" in event for event in told):
        return "told"
    return "answered" if any(choice["finish_reason"] for each in told for choice in each["choices"]) else "silent"


if __name__ == "__main__":
    main()
