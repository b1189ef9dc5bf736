"""What the dashboard costs the node that it shows.

    python benchmarks/dashboard.py
    python benchmarks/dashboard.py --screenshot benchmarks/results/dashboard.png     # needs Chromium and selenium

The embedded pair answers the lab's held-out questions at random times, so that the page has a window full of figures.
Then, with no other traffic, the CPU time of the node's process (not the engines', which have nothing to do) is taken
while nobody watches and while 1 and 4 do, in turns; `core_share` is what one who watches adds, medians. `record_us` is
what a request pays for being counted, whoever watches: this process's time for one outcome, on the window alone.
"""

import asyncio
import json
import shutil
import statistics
import sys
import tempfile
import time
from argparse import Namespace
from itertools import cycle
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
import psutil
from measurement import Measurement, Target, arguments
from node import Node, lab_config

from tierserve.core import Call, Cause, Decision, Judgement, Kind, Outcome, Role, Status, Usage
from tierserve.lab.question import Split
from tierserve.lab.tasks import mix
from tierserve.server.dashboard.window import Window

_WATCHERS = (0, 1, 4)
_PICTURE_S = 15.0  # before the end of the traffic
_PRICE = {"cost": {"price_per_host_hour": 1.0}}


async def traffic(url: str, seconds: float, rate: float) -> int:
    """Questions at random times, as many a second on average, streamed; how many were answered."""
    rng, prompts = Random(7), cycle([question.prompt for question in mix(Split.HELD_OUT, 600, seed=31)])
    end, asking = time.monotonic() + seconds, set[asyncio.Task[None]]()

    async def ask(client: aiohttp.ClientSession, prompt: str) -> None:
        body = {"model": "auto", "messages": [{"role": "user", "content": prompt}], "temperature": 0, "stream": True}
        async with client.post(f"{url}/v1/chat/completions", json=body) as response:
            response.raise_for_status()
            await response.read()

    async with aiohttp.ClientSession() as client:
        count = 0
        while time.monotonic() < end:
            await asyncio.sleep(rng.expovariate(rate))
            asking.add(task := asyncio.create_task(ask(client, next(prompts))))
            task.add_done_callback(asking.discard)
            count += 1
        await asyncio.gather(*asking)
    return count


async def watched(node: Node, watchers: int, seconds: float) -> dict[str, float]:
    """The part of one core that the node's own process takes, and how large an event is."""
    process = psutil.Process(node.process.pid)
    events: list[int] = []

    async def watch(client: aiohttp.ClientSession) -> None:
        async with client.get(f"{node.url}/dashboard/feed") as response:
            while line := await response.content.readuntil(b"\n\n"):
                json.loads(line.removeprefix(b"data: "))
                events.append(len(line))

    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(timeout=timeout, read_bufsize=1 << 20) as client:
        tasks = [asyncio.create_task(watch(client)) for _ in range(watchers)]
        await asyncio.sleep(1.5)  # the first event, which is larger, is behind them
        before, started = sum(process.cpu_times()[:2]), time.monotonic()
        await asyncio.sleep(seconds)
        spent, took = sum(process.cpu_times()[:2]) - before, time.monotonic() - started
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    if watchers and len(events) < watchers * seconds / 2:
        raise SystemExit(f"{watchers} who watched got {len(events)} events in {took:.0f} s")
    return {"core_share": spent / took, "event_bytes": statistics.median(events) if events else 0}


def record_us(count: int) -> float:
    """Microseconds of this process for an outcome, median of five rounds."""
    rng, rounds = Random(1), []
    for _ in range(5):
        window, outcomes = Window(), [_outcome(rng) for _ in range(count)]
        started = time.process_time()
        for outcome in outcomes:
            window.record(outcome)
        rounds.append((time.process_time() - started) / count * 1e6)
    return statistics.median(rounds)


def _outcome(rng: Random) -> Outcome:
    decision = Decision(rng.choice(list(Role)), Cause.SCORE, rng.uniform(0, 10))
    first_s = rng.lognormvariate(-3, 1)
    judgement = Judgement(confidence=rng.random())
    usage = Usage(30, 20)
    call = Call("benchmark", Kind.CHAT, {}, ())
    return Outcome(call, Status.OK, decision, "tier", usage, 0.002, first_s, 4 * first_s, judgement)


async def measure(node: Node, options: Namespace) -> list[dict[str, Any]]:
    busy = asyncio.create_task(traffic(node.url, 3 if options.quick else options.traffic_s, options.rate))
    if options.screenshot:
        await asyncio.sleep(max(0.0, options.traffic_s - _PICTURE_S))
        await asyncio.to_thread(_photograph, node.url, options.screenshot)
    asked = await busy
    rounds, seconds = (1, 3) if options.quick else (3, options.seconds)
    found: dict[int, list[dict[str, float]]] = {watchers: [] for watchers in _WATCHERS}
    for _ in range(rounds):
        for watchers in _WATCHERS:
            found[watchers].append(await watched(node, watchers, seconds))
    return [
        {
            "watchers": watchers,
            "requests_before": asked,
            "core_share": statistics.median(each["core_share"] for each in shares),
            "event_bytes": statistics.median(each["event_bytes"] for each in shares),
        }
        for watchers, shares in found.items()
    ]


def _photograph(url: str, path: Path) -> None:
    """The page in the middle of traffic, 1280 pixels wide."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service
    from selenium.webdriver.support.wait import WebDriverWait

    flags = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars")
    chrome = webdriver.ChromeOptions()
    chrome.binary_location = shutil.which("chromium") or ""
    for flag in flags:
        chrome.add_argument(flag)
    driver = webdriver.Chrome(options=chrome, service=Service(shutil.which("chromedriver")))  # else one is downloaded
    try:
        driver.set_window_size(1280, 1460)
        driver.get(f"{url}/dashboard")
        WebDriverWait(driver, 30).until(lambda _: "Live" in driver.find_element("id", "link").text)
        time.sleep(3)
        driver.save_screenshot(str(path))
    finally:
        driver.quit()


async def run(node: Node, options: Namespace) -> Measurement:
    rows = await measure(node, options)
    share = {row["watchers"]: row["core_share"] for row in rows}
    cost_us = record_us(2000 if options.quick else 20000)
    targets = [
        Target("core_share", max(0.0, share[1] - share[0]), 0.01, "lower"),
        Target("record_us", cost_us, 20, "lower"),
    ]
    return Measurement("dashboard", rows, targets)


def main() -> int:
    parser = arguments(__doc__)
    parser.add_argument("--seconds", type=float, default=20, help="how long each count of CPU time takes (20)")
    parser.add_argument("--traffic-s", type=float, default=100, help="how long requests are sent before (100)")
    parser.add_argument("--rate", type=float, default=6, help="requests a second then, on average (6)")
    parser.add_argument("--screenshot", type=Path, metavar="PNG", help="write a picture of the page, too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Node(lab_config() | _PRICE, Path(folder)) as node:
        measurement = asyncio.run(run(node.wait_until_ready(), options))
    measurement.show(options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
