"""What the decision log costs the event loop, per request.

    python benchmarks/log_overhead.py

Finished requests are handed to a log that writes to a real file all the while, a thousand a second. `cpu_us` is what
the loop's thread itself takes for a request's record, and for keeping its answer's bytes where text is kept;
`wall_us` the time that passes meanwhile, with what the loop waits for the writer's thread to give the interpreter
back. Medians of the rounds; each round's figure is a mean. The target is that of the dearest row's `wall_us`.
"""

import argparse
import asyncio
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from measurement import Measurement, Target, arguments

from tierserve.config import DecisionsConfig
from tierserve.core import (
    Call,
    Caller,
    Cause,
    Cost,
    Decision,
    Judgement,
    Kind,
    Outcome,
    Prompt,
    Role,
    Sent,
    Status,
    Usage,
)
from tierserve.router.scoring.features import features
from tierserve.router.vectors import Vectors
from tierserve.telemetry.decisions.log import DecisionLog

_BOUND_US = 50.0
_PER_S = 1000
_BURST = 10  # requests that end in one turn of the loop
_PROMPT = "What does the second paragraph say about the ship that left Oslo on Friday? " * 8
_EVENT = b'data: {"id":"chatcmpl-0","choices":[{"index":0,"delta":{"content":" word"},"finish_reason":null}]}\n\n'
_CASES: dict[str, tuple[int, dict[str, bool]]] = {
    "as by default": (0, {}),
    "text, whole answers": (1, {"text": True}),
    "text, streams of 100 events": (100, {"text": True}),
    "embeddings": (0, {"embeddings": True}),
    "text, streams of 100 events, embeddings": (100, {"text": True, "embeddings": True}),
}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--seconds", type=float, default=5, help="length of each round")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    if options.quick:
        options.seconds, options.rounds = 0.3, 1
    rows = [_row(name, options) for name in _CASES]
    target = Target("loop_us_per_request", max(row["wall_us"] for row in rows), _BOUND_US, "lower")
    Measurement("log_overhead", rows, [target]).show(options)


def _row(name: str, options: argparse.Namespace) -> dict[str, Any]:
    events, choices = _CASES[name]
    rounds = [asyncio.run(_round(events, choices, options.seconds)) for _ in range(options.rounds)]
    cpu, wall, requests, dropped = zip(*rounds, strict=True)
    return {
        "log": name,
        "cpu_us": median(cpu),
        "wall_us": median(wall),
        "wall_us_max": max(wall),
        "requests": sum(requests),
        "dropped": sum(dropped),
    }


async def _round(events: int, choices: dict[str, bool], seconds: float) -> tuple[float, float, int, int]:
    """CPU and wall time for a request in microseconds, how many requests there were, how many rows were dropped."""
    vectors = Vectors(1000)
    prompts = [Prompt(f"{n} {_PROMPT}") for n in range(1000)]
    for prompt in prompts:
        vectors.keep(prompt, np.random.default_rng(0).normal(size=408))
    with tempfile.TemporaryDirectory(prefix="tierserve-") as folder:
        config = DecisionsConfig(path=str(Path(folder) / "decisions.sqlite"), **choices)
        log = DecisionLog(config, lambda: 4.0, vectors.find, features)
        log.start()
        cpu_s, wall_s, requests = await _feed(log, events, prompts, seconds)
        await log.close()
        assert log.rows + log.lost == requests
        return 1e6 * cpu_s / requests, 1e6 * wall_s / requests, requests, log.lost


async def _feed(log: DecisionLog, events: int, prompts: list[Prompt], seconds: float) -> tuple[float, float, int]:
    cpu_s = wall_s = 0.0
    requests, started = 0, time.perf_counter()
    while (due := started + requests / _PER_S) < started + seconds:
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        outcomes = [_outcome(requests + n, prompts) for n in range(_BURST)]
        cpu, wall = time.thread_time(), time.perf_counter()
        for outcome in outcomes:
            _end(log, outcome, events)
        cpu_s += time.thread_time() - cpu
        wall_s += time.perf_counter() - wall
        requests += _BURST
    return cpu_s, wall_s, requests


def _end(log: DecisionLog, outcome: Outcome, events: int) -> None:
    """What the log adds to a request: each event is kept, then the record."""
    if events:
        add: Callable[[bytes], None] = (sent := Sent()).add
        for _ in range(events):
            add(_EVENT)
        outcome.sent = sent
    log.record(outcome)


def _outcome(number: int, prompts: list[Prompt]) -> Outcome:
    call = Call(f"{number:032x}", Kind.CHAT, {}, (prompts[number % len(prompts)],), stream=True, caller=Caller("alice"))
    judgement = Judgement(0.93, held_s=0.05)
    decision, cost = Decision(Role.SMALL, Cause.SCORE, 2.5), Cost(1e-4, 1e-3)
    return Outcome(call, Status.OK, decision, "small", Usage(120, 100), 0.004, 0.06, 0.8, judgement, 0.0, cost)


if __name__ == "__main__":
    main()
