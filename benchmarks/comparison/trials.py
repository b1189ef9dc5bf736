"""One load against one way of serving: how it is sent, when it has failed, what the node took for it.

Answers are whole. The same seed sends every way the same prompts in the same order.
"""

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import aiohttp
import uvloop
from loadgen import Closed, Open, Plan, Slo, Trial, run
from loadgen.asking import Sample, session

from comparison.pairs import Pair
from comparison.ways import Way
from tierserve.lab.question import Question

# Of the requests, within the SLO, for a rate to hold. Not 0.99: a short trial has too few requests for that.
KEPT = 0.95
# Of the requests, as many answered within the trial as were due in it: else a backlog grows, which meets the SLO only
# because the trial is short.
_KEPT_UP = 0.9
_WARM_UP_S = 2.0
_AT_ONCE = 32
_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Run:
    """A trial, and seconds of CPU that the node took for it, warm-up included."""

    trial: Trial
    cpu_s: float

    @property
    def cpu_s_per_request(self) -> float:
        return self.cpu_s / (len(self.trial.samples) + len(self.trial.warm_up))


def alone_s(pair: Pair, way: Way, count: int) -> float:
    """What an answer takes with nothing beside it, the median."""
    plan = replace(_plan(pair, way, 1, 0), count=count, seconds=None, warmup_s=0)
    return median(sample.latency_s for sample in _run(way, plan).trial.samples)


def saturated(pair: Pair, way: Way, seconds: float, slo: Slo, seed: int) -> Run:
    plan = _plan(pair, way, seconds, seed)
    return _run(way, replace(plan, loads=[Closed(pair.at_once)], warmup_s=_settled_s(slo, seconds)))


def offered(pair: Pair, way: Way, rate: float, seconds: float, seed: int) -> Run:
    """At random times."""
    return _run(way, replace(_plan(pair, way, seconds, seed), loads=[Open(rate)]))


def holds(pair: Pair, way: Way, rate: float, seconds: float, slo: Slo, seed: int) -> tuple[bool, Run]:
    """Evenly spaced, so that a short trial does not measure the luck of the draw. Ends when too many missed the SLO."""
    plan = _plan(pair, way, seconds, seed)
    plan = replace(plan, loads=[Open(rate, poisson=False)], warmup_s=_settled_s(slo, seconds))
    watch = _Watch(slo, most_missed=(1 - KEPT) * rate * seconds)
    found = _run(way, plan, watch)
    if found.trial.unfinished:
        way.wait_until_idle()  # what was broken off must not weigh on the next trial
    return not watch.failed and keeps_up(found.trial), found


def _settled_s(slo: Slo, seconds: float) -> float:
    """By then as many are being answered as the load needs. No longer than the trial itself."""
    assert slo.e2e_ms is not None
    return min(max(_WARM_UP_S, slo.e2e_ms / 1000), seconds)


def keeps_up(trial: Trial) -> bool:
    ended = sum(trial.start_s <= sample.end_s <= trial.end_s for sample in [*trial.warm_up, *trial.samples])
    due = len(trial.samples)
    # Answers end in bunches, as the engine's batches do: of few, some are always out of step with those that are due.
    return due - ended <= max((1 - _KEPT_UP) * due, math.sqrt(due))


class _Watch:
    def __init__(self, slo: Slo, most_missed: float) -> None:
        self._slo = slo
        self._most_missed = most_missed
        self._missed = 0
        self.stop = asyncio.Event()

    @property
    def failed(self) -> bool:
        return self._missed > self._most_missed

    def __call__(self, trial: Trial, sample: Sample) -> None:
        self._missed += sample.due_s >= trial.start_s and not self._slo.kept(sample)
        if self.failed:
            self.stop.set()


def _plan(pair: Pair, way: Way, seconds: float, seed: int) -> Plan:
    return Plan(
        [way.endpoint],
        pair.prompts,
        [Closed(1)],
        seconds=seconds,
        warmup_s=min(_WARM_UP_S, seconds),
        stream=False,
        max_tokens=pair.max_tokens,
        body=pair.body,
        timeout_s=_TIMEOUT_S,
        seed=seed,
    )


def _run(way: Way, plan: Plan, watch: _Watch | None = None) -> Run:
    before = way.cpu_s()
    (trial,) = uvloop.run(run(plan, watch, watch and watch.stop))
    return Run(trial, way.cpu_s() - before)


# --- quality


def right(pair: Pair, way: Way) -> list[bool]:
    """Which of the pair's questions the way answers right."""
    return uvloop.run(_graded(pair, way))


async def _graded(pair: Pair, way: Way) -> list[bool]:
    slots = asyncio.Semaphore(_AT_ONCE)
    async with session(_TIMEOUT_S) as client:

        async def one(question: Question) -> bool:
            async with slots:
                return question.is_right(await _said(client, pair, way, question))

        return await asyncio.gather(*map(one, pair.questions))


async def _said(client: aiohttp.ClientSession, pair: Pair, way: Way, question: Question) -> str:
    messages: Sequence[dict[str, str]] = [{"role": "user", "content": question.prompt}]
    body: dict[str, Any] = {"model": way.model, "messages": messages, "max_tokens": pair.max_tokens} | dict(pair.body)
    async with client.post(way.endpoint.address, json=body) as response:
        if response.status != 200:
            raise RuntimeError(f"{way.name} does not answer: {response.status} {await response.text()}")
        answer = await response.json()
    return answer["choices"][0]["message"]["content"] or ""
