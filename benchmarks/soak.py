"""Whether a node keeps count of everything, and of itself, over a long and mixed day.

    python benchmarks/soak.py

10,000 requests, 32 at once, against the embedded pair: answers whole and streamed, judged, forced, with tools, of both
endpoints; callers who leave while they are sending, waiting or reading; three dozen kinds of bad input; and between
them SIGHUP with files that are good and files that are not. Then the node is told to end.

`unaccounted` counts what should not be: requests that got no answer, or another than their kind gets; outcomes in the
node's log that no request explains, and requests without their one outcome; metrics that say otherwise than the
callers; requests still in flight, or in the engines, when all are gone; reloads without a word. `rss_growth` is the
resident memory of node and engines together at the end, as a part of that after the first thousand, both idle.
`leftovers`: processes and files that outlive the node, and descriptors that it has more of than after the first
thousand.
"""

import asyncio
import json
import os
import random
import signal
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import yaml
from bad_input import CHAT, Bad, bad_inputs
from measurement import Measurement, Target, arguments
from node import Node, lab_config
from tqdm import tqdm
from yarl import URL

from tierserve.core import Status
from tierserve.lab.question import Split
from tierserve.lab.tasks import mix

_REQUESTS, _QUICK_REQUESTS = 10_000, 300
_FIRST = 10  # of the requests, the part after which memory and descriptors are what the end is compared with
_AT_ONCE = 32
_RELOAD_EVERY = 250
_ANSWER_S = 120.0
_SETTLE_S = 2.0
_TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}}}
# What a request may be, and how often in a hundred.
_KINDS = {
    "whole": 30,
    "streamed": 22,
    "tools": 4,
    "completion": 6,
    "route": 4,
    "forced": 8,
    "left while sending": 2,
    "left while waiting": 4,
    "left while reading": 6,
    "bad": 14,
}
_LEFT = ("left while sending", "left while waiting", "left while reading")


@dataclass
class Kept:
    """What the callers know."""

    kinds: Counter[str] = field(default_factory=Counter)
    answered: set[str] = field(default_factory=set)  # ids of those that must have one outcome, ok
    left: set[str] = field(default_factory=set)  # ids of those that may have one
    refused: Counter[int] = field(default_factory=Counter)  # by status
    wrong: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Idle:
    """A node with nothing to do."""

    rss_node: int
    rss_engines: int
    descriptors: int

    @property
    def rss(self) -> int:
        return self.rss_node + self.rss_engines


class Caller:
    """Sends requests, and keeps what became of them."""

    def __init__(self, url: str, seed: int) -> None:
        self.kept = Kept()
        self._url = url
        self._random = random.Random(seed)
        self._prompts = [question.prompt for question in mix(Split.HELD_OUT, 500, seed)]
        self._bad = bad_inputs()
        self._count = 0

    async def send(self, session: aiohttp.ClientSession) -> None:
        """One request of a kind that chance picks."""
        (kind,) = self._random.choices(list(_KINDS), list(_KINDS.values()))
        self._count += 1
        request_id = f"soak-{self._count}"
        bad = self._bad[self._kept_bad() % len(self._bad)] if kind == "bad" else None
        self.kept.kinds[kind] += 1
        try:
            async with asyncio.timeout(_ANSWER_S):
                if bad is not None:
                    await self._refused(session, bad)
                elif kind in _LEFT:
                    self.kept.left.add(request_id)
                    await self._leave(session, kind, request_id)
                else:
                    await self._answered(session, kind, request_id)
        except Exception as error:
            name = f"{kind}: {bad.name}" if bad else kind
            self.kept.wrong.append(f"{name}: {type(error).__name__}: {error}")

    def _kept_bad(self) -> int:
        return self.kept.kinds["bad"]

    async def _answered(self, session: aiohttp.ClientSession, kind: str, request_id: str) -> None:
        path, body, headers = self._good(kind)
        headers["x-request-id"] = request_id
        async with session.post(f"{self._url}{path}", json=body, headers=headers) as response:
            text = await response.text()
        if response.status != 200:
            self.kept.refused[response.status] += 1
            raise ValueError(f"status {response.status}: {text[:300]}")
        if kind == "route":
            return
        if body.get("stream"):
            if not text.endswith("data: [DONE]\n\n") or '"error"' in text:
                raise ValueError(f"a broken stream: ...{text[-300:]}")
        elif not json.loads(text)["choices"]:
            raise ValueError("no answer in it")
        self.kept.answered.add(request_id)

    async def _refused(self, session: aiohttp.ClientSession, bad: Bad) -> None:
        url = URL(f"{self._url}{bad.path}", encoded=True)
        async with session.request(bad.method, url, data=bad.body, headers=bad.headers) as response:
            text = await response.text()
        if response.status >= 400:
            self.kept.refused[response.status] += 1
        if not 400 <= response.status < 500 or set(json.loads(text)) != {"error"}:
            raise ValueError(f"status {response.status}: {text[:300]}")

    async def _leave(self, session: aiohttp.ClientSession, kind: str, request_id: str) -> None:
        body = self._chat() | {"max_tokens": 150, "ignore_eos": True, "stream": kind == "left while reading"}
        if kind == "left while sending":
            await self._half(json.dumps(body).encode(), request_id)
            return
        # A session of its own, for its connection is closed under it.
        async with aiohttp.ClientSession() as own:
            asking = asyncio.create_task(
                own.post(f"{self._url}{CHAT}", json=body, headers={"x-request-id": request_id})
            )
            if kind == "left while waiting":
                await asyncio.wait({asking}, timeout=self._random.uniform(0, 0.3))
                if not asking.done():
                    asking.cancel()
                    await asyncio.gather(asking, return_exceptions=True)
                    return
            response = await asking
            for _ in range(self._random.randrange(20)):
                if not await response.content.readline():
                    break
            response.close()

    async def _half(self, body: bytes, request_id: str) -> None:
        host, port = self._url.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        lines = [
            f"POST {CHAT} HTTP/1.1",
            f"host: {host}",
            "content-type: application/json",
            f"x-request-id: {request_id}",
            f"content-length: {len(body)}",
        ]
        head = "\r\n".join([*lines, "", ""]).encode()
        sent = head + body
        writer.write(sent[: self._random.randrange(1, len(sent) - 1)])
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    def _good(self, kind: str) -> tuple[str, dict[str, Any], dict[str, str]]:
        match kind:
            case "streamed":
                return CHAT, self._chat() | {"stream": True}, {}
            case "tools":
                return CHAT, self._chat() | {"tools": [_TOOL], "tool_choice": "auto", "stream": self._maybe()}, {}
            case "completion":
                prompt = self._random.choice(self._prompts)
                return "/v1/completions", {"prompt": prompt, "max_tokens": 16, "stream": self._maybe()}, {}
            case "route":
                return "/v1/route", self._chat(), {}
            case "forced":
                tier = self._random.choice(["small", "large"])
                body = self._chat() | {"stream": self._maybe()}
                return (CHAT, body | {"model": tier}, {}) if self._maybe() else (CHAT, body, {"x-tierserve-tier": tier})
        return CHAT, self._chat(), {}

    def _chat(self) -> dict[str, Any]:
        messages = [{"role": "user", "content": self._random.choice(self._prompts)}]
        return {"model": "auto", "messages": messages, "max_tokens": self._random.choice([1, 4, 16, 48])}

    def _maybe(self) -> bool:
        return self._random.random() < 0.5


class Reloads:
    """SIGHUP, with a good file and a bad one in turns."""

    def __init__(self, node: Node, config: dict[str, Any]) -> None:
        self.asked = 0
        self.unheard = 0
        self._node, self._config = node, config

    async def reload(self) -> None:
        self.asked += 1
        good = self.asked % 2 == 1
        threshold = [3.0, 4.0, 5.0][self.asked // 2 % 3] if good else 99
        config = self._config | {"router": self._config["router"] | {"threshold": threshold}}
        (self._node.folder / "node.yaml").write_text(yaml.safe_dump(config))
        self._node.signal(signal.SIGHUP)
        for _ in range(300):
            await asyncio.sleep(0.1)
            if self._heard() >= self.asked:
                return
        self.unheard += 1

    def _heard(self) -> int:
        return sum('"message": "reloaded ' in line or "not reloaded" in line for line in self._node.err.splitlines())


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--requests", type=int, default=_REQUESTS)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    count = _QUICK_REQUESTS if options.quick else options.requests
    with tempfile.TemporaryDirectory() as folder:
        row, targets = _measure(Path(folder), count, options.seed)
    Measurement("soak", [row], targets).show(options)


def _measure(folder: Path, count: int, seed: int) -> tuple[dict[str, Any], list[Target]]:
    scratch = folder / "tmp"
    scratch.mkdir()
    # What torch has compiled is kept on purpose, for the next start; everything else that is left there counts.
    compiled = Path(tempfile.gettempdir()) / f"torchinductor_{os.getuid()}"
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(compiled))
    os.environ["TMPDIR"] = str(scratch)
    config = lab_config() | {"server": {"port": 0, "max_body_mb": 1}}
    print("starting the embedded default ...", file=sys.stderr)
    with Node(config, folder) as node:
        node.wait_until_ready()
        caller, reloads = Caller(node.url, seed), Reloads(node, config)
        first, last, in_flight = asyncio.run(_soak(node, caller, reloads, count))
        status = {name: round(node.metric("tierserve_requests_total", f'status="{name}"')) for name in _STATUSES}
        refused = {code: round(node.metric("tierserve_refusals_total", f'status="{code}"')) for code in _REFUSALS}
        node.signal(signal.SIGTERM)
        ended_well = node.wait() == 0
        processes = len(node.left())
        outcomes = _outcomes(node)
    files = [path for path in scratch.rglob("*") if not path.is_dir()]
    problems = _unaccounted(caller.kept, outcomes, status, refused)
    problems["in flight at the end"] = in_flight
    problems["reloads without a word"] = reloads.unheard
    problems["a bad end"] = not ended_well
    for name, number in problems.items():
        if number:
            print(f"{name}: {number}", file=sys.stderr)
    for said in (*caller.kept.wrong[:20], *files[:20]):
        print(said, file=sys.stderr)
    kept = caller.kept
    row = {
        "requests": sum(kept.kinds.values()),
        "answered": len(kept.answered) + kept.kinds["route"],
        "left": len(kept.left),
        "refused": sum(kept.refused.values()),
        "kinds_of_bad_input": len(bad_inputs()),
        "reloads": reloads.asked,
        "unaccounted": sum(problems.values()),
        "rss_node_first_mib": first.rss_node / 2**20,
        "rss_node_last_mib": last.rss_node / 2**20,
        "rss_engines_first_mib": first.rss_engines / 2**20,
        "rss_engines_last_mib": last.rss_engines / 2**20,
        "descriptors_first": first.descriptors,
        "descriptors_last": last.descriptors,
        "processes_left": processes,
        "files_left": len(files),
    }
    leftovers = processes + len(files) + max(0, last.descriptors - first.descriptors)
    return row, [
        Target("unaccounted", row["unaccounted"], 0, "lower"),
        Target("rss_growth", last.rss / first.rss, 1.05, "lower"),
        Target("leftovers", leftovers, 0, "lower"),
    ]


_STATUSES = tuple(str(status) for status in Status)
_REFUSALS = (400, 401, 403, 404, 405, 408, 411, 413, 415, 422, 429, 431, 500, 503)


async def _soak(node: Node, caller: Caller, reloads: Reloads, count: int) -> tuple[Idle, Idle, int]:
    """All requests; the node as it was after the first of them and after the last, and what was in flight then."""
    first_count = max(count // _FIRST, 1)
    bar = tqdm(total=count, desc="soak", file=sys.stderr, disable=None)
    await _send(caller, reloads, first_count, bar)
    await _settled(node)
    first = _idle(node)
    await _send(caller, reloads, count - first_count, bar)
    in_flight = await _settled(node)
    return first, _idle(node), in_flight


async def _send(caller: Caller, reloads: Reloads, count: int, bar: Any) -> None:
    left = iter(range(count))

    async def work(session: aiohttp.ClientSession) -> None:
        for number in left:
            if number % _RELOAD_EVERY == _RELOAD_EVERY // 2:
                await reloads.reload()
            await caller.send(session)
            bar.update()

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await asyncio.gather(*(work(session) for _ in range(_AT_ONCE)))


async def _settled(node: Node) -> int:
    """Wait until nothing is in flight; returns what still is."""
    for _ in range(100):
        await asyncio.sleep(0.1)
        if not (in_flight := await asyncio.to_thread(_in_flight, node)):
            await asyncio.sleep(_SETTLE_S)
            return 0
    return in_flight


def _in_flight(node: Node) -> int:
    names = ("tierserve_requests_in_flight ", "vllm:num_requests_running{", "vllm:num_requests_waiting{")
    return round(sum(node.metric(name) for name in names))


def _idle(node: Node) -> Idle:
    process = psutil.Process(node.process.pid)
    family = node.family()
    engines = [child for child in family if child.is_running()]
    return Idle(
        process.memory_info().rss,
        sum(child.memory_info().rss for child in engines),
        process.num_fds() + sum(child.num_fds() for child in engines),
    )


def _outcomes(node: Node) -> dict[str, list[str]]:
    """What the log says of each request: one line for every outcome."""
    found: dict[str, list[str]] = {}
    for line in node.log:
        if line.get("logger") == "tierserve.request":
            found.setdefault(line["request_id"], []).append(line["status"])
    return found


def _unaccounted(
    kept: Kept, outcomes: dict[str, list[str]], status: dict[str, int], refused: dict[int, int]
) -> dict[str, int]:
    """What does not add up, by kind; all zero where everything does."""
    named = kept.answered | kept.left
    logged = Counter(status for each in outcomes.values() for status in each)
    half_sent = kept.kinds["left while sending"]  # may have been refused for a body that broke off
    surplus = {code: refused[code] - kept.refused[code] for code in refused}
    return {
        "not answered as their kind is": len(kept.wrong),
        "answered without one outcome": sum(outcomes.get(name) != ["ok"] for name in kept.answered),
        "left with more than one outcome": sum(
            outcomes.get(name, ["ok"]) not in (["ok"], ["cancelled"]) for name in kept.left
        ),
        "outcomes that nobody asked for": sum(
            len(each) for name, each in outcomes.items() if name not in named and set(each) != {"invalid"}
        ),
        "metrics and log differ": sum(abs(status[name] - logged[name]) for name in status),
        "refusals that differ": sum(abs(number) for code, number in surplus.items() if code != 400)
        + max(0, -surplus[400])
        + max(0, surplus[400] - half_sent),
    }


if __name__ == "__main__":
    main()
