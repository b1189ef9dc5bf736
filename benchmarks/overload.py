"""What a node does when ten times as much comes as it can answer.

    python benchmarks/overload.py                two minutes of each load
    python benchmarks/overload.py --seconds 30

A node on the embedded default is first kept busy: three callers for four of both tiers' slots, each asks again when it
is answered. From half of what it answers then the load rises by a tenth at a time until somebody is refused. The last
before that comes for two minutes, or a tenth less, again and again, where more than one in a hundred is refused in so
long: that is the full sustainable load. Then ten times as much comes. Every load but the first comes at random times,
whatever the answers do, over connections that are kept. Every request asks for `auto` and a whole answer of 64 tokens;
its time runs from when it was due, however late the client was.

A request is refused when it gets a 503 with `retry-after`. Failed is what gets neither that nor an answer. Resident
memory is that of the node and its engines, shared pages counted in each.

The load comes from a process of its own, which shares the cores with the node and its engines: `client_cpu_share` is
what it takes of one. Memory and the node's own part of a core are read while the load runs.
"""

import multiprocessing
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Self

import psutil
import uvloop
from loadgen import Closed, Endpoint, Load, Open, Plan, Trial, built_in, run, summarise
from measurement import Measurement, Target, arguments, percentile
from node import Node, lab_config
from tqdm import tqdm

_SECONDS, _QUICK_SECONDS = 120.0, 4.0
_SATURATE_S, _QUICK_SATURATE_S = 20.0, 4.0
_WARM_UP_S, _QUICK_WARM_UP_S = 15.0, 2.0
_LOWEST, _MOST = 0.5, 1.5  # between which parts of what saturation answers loads are tried
_RISE, _QUICK_RISE = 1.1, 1.3
_REFUSED = 0.01  # more than that, and a load is not sustainable
_TIMES = 10
_TOKENS = 64
_LOOK_S = 0.5
_MEAN_OF_S = 5.0  # what is said of memory at a time is the median over so long


@dataclass(frozen=True, slots=True)
class Look:
    """A moment of the node: `node_s` is the CPU time that its own process has used, without its engines."""

    at_s: float
    rss: int
    node_s: float


class Watch:
    """`with Watch(node) as watch:` looks at the node again and again while the block runs."""

    def __init__(self, node: Node) -> None:
        self.looks: list[Look] = []
        self._node = psutil.Process(node.process.pid)
        self._processes = [self._node, *node.family()]
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end.set()
        self._thread.join()

    def during(self, start_s: float, end_s: float) -> list[Look]:
        return [look for look in self.looks if start_s <= look.at_s <= end_s]

    def _run(self) -> None:
        while not self._end.wait(_LOOK_S):
            times = self._node.cpu_times()
            rss = sum(process.memory_info().rss for process in self._processes if process.is_running())
            self.looks.append(Look(time.perf_counter(), rss, times.user + times.system))


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--seconds", type=float, help=f"of each open load; {_SECONDS:g}, or {_QUICK_SECONDS:g} quick")
    options = parser.parse_args()
    seconds = options.seconds or (_QUICK_SECONDS if options.quick else _SECONDS)
    print("starting the embedded default ...", file=sys.stderr)
    config = lab_config()
    callers = sum(tier["engine"]["max_num_seqs"] for tier in config["tiers"].values()) * 3 // 4
    with tempfile.TemporaryDirectory() as folder, Node(config, Path(folder)) as node:
        node.wait_until_ready()
        rows = _measure(node, callers, seconds, options.quick)
    *_, sustained, overloaded = rows
    targets = [
        Target("admitted_p99_ratio", overloaded["p99_ms"] / sustained["p99_ms"], 1.5, "lower"),
        Target("refusal_p99_ms", overloaded["refusal_p99_ms"] or 0, 100, "lower"),
        Target("rss_growth", overloaded["rss_last_mib"] / overloaded["rss_first_mib"], 1.05, "lower"),
        Target("goodput_kept", overloaded["answered_per_s"] / sustained["answered_per_s"], 0.9, "higher"),
        Target("failed", sum(row["failed"] for row in rows), 0, "lower"),
    ]
    Measurement("overload", rows, targets).show(options)


def _measure(node: Node, callers: int, seconds: float, quick: bool) -> list[dict[str, Any]]:
    """The loads in the order in which they came; the last two are the full sustainable load, and ten times that."""
    try_s = _QUICK_SATURATE_S if quick else _SATURATE_S
    warm_up_s = _QUICK_WARM_UP_S if quick else _WARM_UP_S
    rise = _QUICK_RISE if quick else _RISE
    with tqdm(desc="loads", file=sys.stderr, disable=None) as bar:

        def measure(name: str, load: Load, for_s: float) -> dict[str, Any]:
            row = _row(name, *_load(node, load, for_s, warm_up_s))
            bar.update()
            return row

        rows = [measure("saturation", Closed(callers), try_s)]
        rate = _LOWEST * rows[0]["answered_per_s"]
        while rate < _MOST * rows[0]["answered_per_s"]:
            rows.append(measure("tried", Open(rate), try_s))
            if rows[-1]["refused"]:
                break
            rate *= rise
        while True:
            rate /= rise
            rows.append(measure("sustainable", Open(rate), seconds))
            if rows[-1]["refused"] <= _REFUSED * rows[-1]["requests"]:
                break
            rows[-1]["load"] = "tried"
        rows.append(measure(f"{_TIMES} times that", Open(_TIMES * rate), seconds))
    return rows


def _load(node: Node, load: Load, seconds: float, warm_up_s: float) -> tuple[Trial, Watch]:
    plan = Plan(
        endpoints=[Endpoint(node.url, "auto")],
        prompts=built_in(),
        loads=[load],
        seconds=seconds,
        warmup_s=warm_up_s,
        stream=False,
        max_tokens=_TOKENS,
        body={"ignore_eos": True},
    )
    with Watch(node) as watch, ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(generate, plan).result(), watch


def generate(plan: Plan) -> Trial:
    """The plan's one trial, from this process."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    (trial,) = uvloop.run(run(plan))
    return trial


def _row(name: str, trial: Trial, watch: Watch) -> dict[str, Any]:
    """Of what was due within the window; answers a second of what was answered within it."""
    (summary,) = summarise([trial], large="lab-large")
    refused = [sample for sample in trial.samples if sample.error == "http 503" and sample.retry_after]
    looks = watch.during(trial.start_s, trial.end_s)
    used_s = looks[-1].node_s - looks[0].node_s
    return {
        "load": name,
        "offered_per_s": summary["requests"] / summary["seconds"],
        "answered_per_s": summary["requests_per_s"],
        "requests": summary["requests"],
        "refused": len(refused),
        "failed": summary["errors"] - len(refused) + summary["unfinished"],
        "p50_ms": summary["e2e_p50_ms"],
        "p99_ms": summary["e2e_p99_ms"],
        "longest_ms": max((sample.latency_s * 1000 for sample in trial.samples if not sample.error), default=None),
        "refusal_p50_ms": _percentile_ms(refused, 0.5),
        "refusal_p99_ms": _percentile_ms(refused, 0.99),
        "large_share": summary["large_share"],
        "rss_first_mib": _rss_mib(watch.during(trial.start_s, trial.start_s + _MEAN_OF_S)),
        "rss_last_mib": _rss_mib(watch.during(trial.end_s - _MEAN_OF_S, trial.end_s)),
        "node_cpu_share": used_s / (looks[-1].at_s - looks[0].at_s),
        "client_cpu_share": summary["client_cpu_share"],
        "client_late_p99_ms": summary["client_late_p99_ms"],
    }


def _percentile_ms(samples: Sequence[Any], share: float) -> float | None:
    return percentile([sample.latency_s * 1000 for sample in samples], share) if samples else None


def _rss_mib(looks: Sequence[Look]) -> float:
    return median(look.rss for look in looks) / 2**20


if __name__ == "__main__":
    main()
