"""What comparing the tiers' answers does to callers, and what the verdicts are worth.

    python benchmarks/shadow.py

On the lab's pair (configs/lab.yaml), whose two engines share this machine's cores with each other and with the node:

- callers: how long they wait, end to end and to the first token, at a Poisson load of the lab's traffic, with nothing
  and with everything of the small tier's drawn to be compared (without a budget by the hour), in alternation on one
  node, which is told by SIGHUP. Beside it what became of the samples. The interval of the ratio is a bootstrap's.
- judge: questions whose right answer the lab knows, all to the small tier, each compared. How often the large tier as a
  judge says what the grader says: small, large or, where both are right or both wrong, a tie; in 95 % intervals
  (Wilson). "differ": of pairs whose answers differ, which it was asked about; "one right": of those where just one
  is right. Beside it, what similarity would have said: a tie from 0.9 on, else large.
"""

import argparse
import asyncio
import random
import signal
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
import numpy as np
import yaml
from loadgen.asking import Sample
from loadgen.plan import Endpoint, Open, Plan, Prompt
from loadgen.runner import run
from measurement import Measurement, Target, arguments, percentile
from node import Node, lab_config
from tqdm import tqdm

from tierserve.lab.question import Question, Split
from tierserve.lab.tasks import mix
from tierserve.quality.answers import wilson
from tierserve.telemetry.families.shadow import RESULTS

_NONE: Final = 1e-9  # a share
_LONGEST: Final = 96
_AT_ONCE: Final = 16
_AS_GOOD: Final = 0.9
_QUIET_S: Final = 1.5
_SETTLE_S: Final = 300
Row = dict[str, Any]
_ROW: Final = (
    *("measured", "by", "of", "count", "agreement", "low", "high"),
    *("p50_ms", "p99_ms", "ttft_p50_ms", "ttft_p99_ms", "rate_per_s", "samples"),
)


@dataclass(frozen=True, slots=True)
class Pair:
    """`verdict` is None for the same answer twice, of which no judge was asked."""

    small_right: bool
    large_right: bool
    verdict: str | None
    first_order: str | None
    second_order: str | None
    similarity: float

    @property
    def truth(self) -> str:
        return _better(self.small_right, self.large_right)


class Shadowed:
    """A node whose comparisons can be changed while it runs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.log = folder / "decisions.sqlite"
        self._config = lab_config() | {
            "shadow": {"share": _NONE, "per_hour": 10**9, "max_tokens": _LONGEST, "queue": 16},
            "decisions": {"path": str(self.log), "text": True},
            "log": {"level": "info", "format": "json"},
        }
        self.node = Node(self._config, folder)

    def change(self, **sections: Any) -> None:
        """Options of these sections, in force when this returns; None: the section is off."""
        for name, options in sections.items():
            self._config[name] = "off" if options is None else self._config.get(name, {}) | options
        said = self.node.err.count("reloaded ")
        (self._folder / "node.yaml").write_text(yaml.safe_dump(self._config))
        self.node.signal(signal.SIGHUP)
        self.node.wait_for(lambda: self.node.err.count("reloaded ") > said, "the reload")

    def results(self) -> dict[str, int]:
        return {name: int(self.node.metric("tierserve_shadow_total", f'result="{name}"')) for name in RESULTS}

    def settle(self) -> None:
        """Until no comparison is under way any more."""
        deadline, before, since = time.monotonic() + _SETTLE_S, self.results(), time.monotonic()
        while time.monotonic() < deadline and time.monotonic() - since < _QUIET_S:
            time.sleep(0.1)
            now = self.results()
            if now != before:
                before, since = now, time.monotonic()


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--rate", type=float, default=6, help="requests a second")
    parser.add_argument("--seconds", type=float, default=12, help="a trial, of which there are --rounds of each kind")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--questions", type=int, default=500, help="for the judge")
    options = parser.parse_args()
    if options.quick:
        options.seconds, options.rounds, options.questions = 2, 1, 24
    with tempfile.TemporaryDirectory() as folder:
        shadowed = Shadowed(Path(folder))
        print("starting the embedded default ...", file=sys.stderr)
        with shadowed.node as node:
            node.wait_until_ready()
            rows, p99_ratio = _of_callers(shadowed, options)
            pairs = _pairs(shadowed, mix(Split.HELD_OUT, options.questions, seed=9))
    judged, agreement = _of_the_judge(pairs)
    targets = [Target("p99_ratio", p99_ratio, 1.05, "lower"), Target("judge_agreement", agreement, 0.8, "higher")]
    Measurement("shadow", rows + judged, targets, table=_readable(rows + judged)).show(options)


def _of_callers(shadowed: Shadowed, options: argparse.Namespace) -> tuple[list[Row], float]:
    """Rows, and the ratio of the 99th percentiles."""
    prompts = [Prompt.of(question.prompt) for question in mix(Split.HELD_OUT, 400, seed=8)]
    endpoint = Endpoint(shadowed.node.url, "auto")
    samples: dict[str, list[Sample]] = {"off": [], "on": []}
    became = dict.fromkeys(RESULTS, 0)
    for number in tqdm(range(options.rounds), desc="callers", file=sys.stderr, disable=None):
        random.Random(number).shuffle(prompts)
        for state in ("off", "on") if number % 2 else ("on", "off"):
            shadowed.change(shadow={"share": 1.0 if state == "on" else _NONE})
            before = shadowed.results()
            load = Open(options.rate)
            plan = Plan([endpoint], prompts, [load], options.seconds, warmup_s=1, max_tokens=_LONGEST, seed=number)
            (trial,) = asyncio.run(run(plan))
            samples[state] += trial.samples
            if state == "on":
                became = {name: became[name] + count - before[name] for name, count in shadowed.results().items()}
            shadowed.change(shadow={"share": _NONE})
            shadowed.settle()
    return _caller_rows(samples, became, options.rate)


def _caller_rows(samples: dict[str, list[Sample]], became: dict[str, int], rate: float) -> tuple[list[Row], float]:
    failed = [sample.error for each in samples.values() for sample in each if sample.error]
    if failed:
        raise RuntimeError(f"{len(failed)} requests failed: {failed[0]}")
    times = {state: [1000 * sample.latency_s for sample in each] for state, each in samples.items()}
    firsts = {state: [1000 * (sample.ttft_s or 0) for sample in each] for state, each in samples.items()}
    rows = [
        _row(
            measured="callers",
            by=f"shadow {state}",
            count=len(times[state]),
            p50_ms=percentile(times[state], 0.5),
            p99_ms=percentile(times[state], 0.99),
            ttft_p50_ms=percentile(firsts[state], 0.5),
            ttft_p99_ms=percentile(firsts[state], 0.99),
            rate_per_s=rate,
            samples=became if state == "on" else None,
        )
        for state in ("off", "on")
    ]
    p50_ratio, p99_ratio = (rows[1][name] / rows[0][name] for name in ("p50_ms", "p99_ms"))
    low, high = _interval(times["on"], times["off"], 0.99)
    rows.append(_row(measured="callers", by="on / off", p50_ms=p50_ratio, p99_ms=p99_ratio, low=low, high=high))
    return rows, p99_ratio


def _interval(on: Sequence[float], off: Sequence[float], share: float) -> tuple[float, float]:
    """The ratio of percentiles, over samples drawn anew; 95 %."""
    rng = np.random.default_rng(0)
    ratios = []
    for _ in range(1000):
        drawn = [np.sort(rng.choice(times, len(times))) for times in (on, off)]
        one, other = (times[min(int(share * len(times)), len(times) - 1)] for times in drawn)
        ratios.append(one / other)
    low, high = np.quantile(ratios, (0.025, 0.975))
    return float(low), float(high)


def _pairs(shadowed: Shadowed, questions: Sequence[Question]) -> list[Pair]:
    """Every question to the small tier, whose answer stands whatever it is, and compared."""
    shadowed.change(shadow={"share": 1.0, "queue": len(questions)}, escalation=None, router={"threshold": 10.0})
    asyncio.run(_ask_all(shadowed.node.url, questions))
    shadowed.settle()
    time.sleep(1)  # the log's writer looks five times a second
    with sqlite3.connect(f"file:{shadowed.log}?mode=ro", uri=True) as log:
        columns = "request_id, small_answer, large_answer, verdict, first_order, second_order, similarity"
        rows = log.execute(f"SELECT {columns} FROM comparisons WHERE request_id LIKE 'judged-%'").fetchall()
    log.close()
    pairs = []
    for id, small, large, verdict, first, second, similarity in rows:
        question = questions[int(id.removeprefix("judged-"))]
        right = question.is_right(small), question.is_right(large)
        pairs.append(Pair(*right, verdict if first is not None else None, first, second, similarity))
    return pairs


async def _ask_all(url: str, questions: Sequence[Question]) -> None:
    slots = asyncio.Semaphore(_AT_ONCE)
    async with aiohttp.ClientSession() as session:

        async def one(number: int, question: Question) -> None:
            body = {"model": "auto", "messages": [{"role": "user", "content": question.prompt}]}
            body |= {"temperature": 0, "max_tokens": _LONGEST}
            async with (
                slots,
                session.post(
                    f"{url}/v1/chat/completions", json=body, headers={"x-request-id": f"judged-{number}"}
                ) as response,
            ):
                response.raise_for_status()
                await response.read()

        await asyncio.gather(*(one(number, question) for number, question in enumerate(questions)))


def _of_the_judge(pairs: Sequence[Pair]) -> tuple[list[Row], float]:
    """Rows, and how often the judge agrees with the grader where the answers differ."""
    differ = [pair for pair in pairs if pair.verdict is not None]
    one_right = [pair for pair in differ if pair.small_right != pair.large_right]
    agreed = [pair.verdict == pair.truth for pair in differ]
    rows = [
        _share("judge", "all pairs", [(pair.verdict or "tie") == pair.truth for pair in pairs]),
        _share("judge", "differ", agreed),
        _share("judge", "one right", [pair.verdict == pair.truth for pair in one_right]),
        _share("judge: orders agree", "differ", [pair.first_order == pair.second_order for pair in differ]),
        _share("always a tie", "differ", [pair.truth == "tie" for pair in differ]),
        _share("always large", "differ", [pair.truth == "large" for pair in differ]),
        _share("similarity", "all pairs", [_by_similarity(pair) == pair.truth for pair in pairs]),
        _share("similarity", "differ", [_by_similarity(pair) == pair.truth for pair in differ]),
        _share("similarity", "one right", [_by_similarity(pair) == pair.truth for pair in one_right]),
        _share("grader: small as good", "all pairs", [pair.truth != "large" for pair in pairs]),
        _share("judge: small as good", "all pairs", [pair.verdict != "large" for pair in pairs]),
    ]
    return rows, sum(agreed) / max(1, len(agreed))


def _by_similarity(pair: Pair) -> str:
    return "tie" if pair.similarity >= _AS_GOOD else "large"


def _better(small_right: bool, large_right: bool) -> str:
    if small_right == large_right:
        return "tie"
    return "small" if small_right else "large"


def _share(by: str, of: str, agreed: Sequence[bool]) -> Row:
    low, high = wilson(sum(agreed), len(agreed))
    share = sum(agreed) / len(agreed) if agreed else None
    return _row(measured="verdicts", by=by, of=of, count=len(agreed), agreement=share, low=low, high=high)


def _row(**values: Any) -> Row:
    return dict.fromkeys(_ROW) | values


def _readable(rows: Iterable[Row]) -> list[Row]:
    """For people: nothing where there is nothing, and what became of the samples in words."""
    told = []
    for row in rows:
        samples = ", ".join(f"{count} {name}" for name, count in (row["samples"] or {}).items())
        told.append({name: "" if value is None else value for name, value in row.items()} | {"samples": samples})
    return told


if __name__ == "__main__":
    main()
