"""How soon a caller that goes away frees its slot in the engine.

    python benchmarks/disconnect.py                     starts the embedded default and asks it
    python benchmarks/disconnect.py --url http://host:port

A caller asks for a long answer, waits until the engine is at work on it, and closes its connection. The clock runs from
the close until the engine itself counts no running request (its gauge in /metrics, asked as fast as it answers: what
one question takes is in the figure, and stands beside it).
"""

import asyncio
import sys
import time
from typing import Any

import aiohttp
from measurement import Measurement, Target, arguments, percentile
from node import running_node
from tqdm import tqdm

_GIVE_UP_S = 30
_ASK = {"model": "small", "messages": [{"role": "user", "content": "Count."}], "max_tokens": 1900, "ignore_eos": True}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--url", help="a node that is running, without /v1; by default one is started")
    parser.add_argument("--times", type=int, default=100, help="callers of each kind")
    options = parser.parse_args()
    times = 3 if options.quick else options.times
    with running_node(options.url) as url:
        results = asyncio.run(_measure(url, times))
    worst = max(row["p99_ms"] for row in results)
    targets = [Target("slot_free_p99_ms", worst, 1000, "lower")]
    Measurement("disconnect", results, targets).show(options)


async def _measure(url: str, times: int) -> list[dict[str, Any]]:
    rows = []
    async with aiohttp.ClientSession() as session:
        for stream in (True, False):
            freed, asked = [], []
            for _ in tqdm(range(times), desc="streamed" if stream else "whole", file=sys.stderr, disable=None):
                freed_s, asked_s = await _leave(session, url, stream)
                freed.append(freed_s * 1000)
                asked.append(asked_s * 1000)
            rows.append(
                {
                    "caller": "streamed" if stream else "whole",
                    "times": times,
                    "p50_ms": percentile(freed, 0.5),
                    "p99_ms": percentile(freed, 0.99),
                    "question_p50_ms": percentile(asked, 0.5),
                }
            )
    return rows


async def _leave(session: aiohttp.ClientSession, url: str, stream: bool) -> tuple[float, float]:
    """Seconds until the slot was free, and seconds that the last question took."""
    async with aiohttp.ClientSession() as caller:
        asking = asyncio.create_task(caller.post(f"{url}/v1/chat/completions", json=_ASK | {"stream": stream}))
        await _until_running(session, url, 1)
        response = await asking if stream else None  # a stream's headers come with its first event
        left = time.perf_counter()
        if response is not None:
            response.close()
        else:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
        asked_s = await _until_running(session, url, 0)
        return time.perf_counter() - left, asked_s


async def _until_running(session: aiohttp.ClientSession, url: str, count: int) -> float:
    deadline = time.perf_counter() + _GIVE_UP_S
    while True:
        started = time.perf_counter()
        async with session.get(f"{url}/metrics") as response:
            lines = (await response.text()).splitlines()
        running = sum(float(line.split()[-1]) for line in lines if line.startswith("vllm:num_requests_running{"))
        if running == count:
            return time.perf_counter() - started
        if started > deadline:
            sys.exit(f"the engines run {running:g} requests, not {count}: is somebody else asking {url}?")


if __name__ == "__main__":
    main()
