"""One load against one way to share traffic among engines, and whether it was borne.

All times are seconds; rates are requests a second, of the traffic as it is: with its split, and its lengths.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count, takewhile
from random import Random
from statistics import median

from loadgen import Open
from loadgen.asking import Sample

from direct.engines import Engine
from direct.lengths import Traffic, is_large

# As in comparison/trials.py: of the requests, within the SLO; and of those due, as many answered within the window.
KEPT, KEPT_UP = 0.95, 0.9
_LONGER = 10
_SETTLE_S = 0.5  # for engines to end what was broken off


@dataclass(frozen=True)
class Way:
    """Who answers: `large` the part `large_share` of the requests, `small` the others; None where it has none."""

    name: str
    small: Engine | None
    large: Engine | None
    large_share: float

    def engine(self, number: int) -> Engine:
        chosen = self.large if is_large(number, self.large_share) else self.small
        assert chosen is not None, f"{self.name} has no engine for a part of its traffic"
        return chosen

    @property
    def parts(self) -> list[tuple[Engine, float]]:
        """The engines, with the part of the requests that each answers."""
        pairs = ((self.small, 1 - self.large_share), (self.large, self.large_share))
        return [(engine, part) for engine, part in pairs if engine is not None and part > 0]


@dataclass(frozen=True)
class Promise:
    """The SLO: `factor` times what the large model takes for an answer of that length with nothing beside it."""

    ttft_s: float
    tpot_s: float
    factor: float

    def limit_s(self, output_tokens: float) -> float:
        return self.factor * (self.ttft_s + (output_tokens - 1) * self.tpot_s)

    def kept(self, sample: Sample) -> bool:
        return sample.latency_s <= self.limit_s(sample.output_tokens)


@dataclass(frozen=True)
class Window:
    """What was due within the window and has been answered; `missed` of all `due` kept no promise."""

    due: int
    samples: Sequence[Sample]
    ended: int  # within the window, whenever it was due
    missed: int

    @property
    def held(self) -> bool:
        return self.missed <= (1 - KEPT) * self.due and self.ended >= KEPT_UP * self.due


async def alone(way: Way, traffic: Traffic, asked: int) -> tuple[float, float]:
    """Time to first token, and time per token after it, of answers with nothing beside them: the medians."""
    samples = [await _ask(way, traffic, number, time.perf_counter()) for number in range(asked)]
    ttft_s = [sample.ttft_s for sample in samples if sample.ttft_s is not None]
    tpot_s = [sample.tpot_s for sample in samples if sample.tpot_s is not None]
    return median(ttft_s), median(tpot_s)


async def saturated(way: Way, traffic: Traffic, at_once: int, seconds: float, warm_s: float) -> float:
    """The rate that `at_once` callers get, each asking again when it is answered.

    Counted in tokens, as answers are few in a short window. With two engines it is the rate that both sustain: callers
    gather at the slower one only after a while, and what the faster one does meanwhile is no rate of this split.
    """
    numbers = count()

    async def caller() -> None:
        for number in numbers:
            await _ask(way, traffic, number, time.perf_counter())

    async with asyncio.TaskGroup() as group:
        callers = [group.create_task(caller()) for _ in range(at_once)]
        await asyncio.sleep(warm_s)
        before, began = [engine.tokens for engine, _ in way.parts], time.perf_counter()
        made = [0]
        while not all(made) and time.perf_counter() < began + _LONGER * seconds:
            await asyncio.sleep(seconds)  # again where the window is too short for a slow engine's first tokens
            made = [engine.tokens - old for (engine, _), old in zip(way.parts, before, strict=True)]
        made_s = time.perf_counter() - began
        for task in callers:
            task.cancel()
    await asyncio.sleep(_SETTLE_S)
    answers = [tokens / traffic.mean_output_tokens for tokens in made]
    return min(number / part for number, (_, part) in zip(answers, way.parts, strict=True)) / made_s


async def offered(
    way: Way, traffic: Traffic, load: Open, seconds: float, warm_s: float, promise: Promise, whole: bool
) -> Window:
    """Requests that come whatever becomes of those before. Unless `whole`, it ends when too many kept no promise."""
    start_s = time.perf_counter()
    opens_s, closes_s = start_s + warm_s, start_s + warm_s + seconds
    # By their place in the plan, not by the clock, whose rounding would decide about those on the window's edges.
    planned = list(takewhile(lambda each: each < warm_s + seconds, load.due_s(Random(traffic.seed))))
    due_s = [start_s + each for each in planned]
    due = sum(each >= warm_s for each in planned)
    first_s = due_s[-due] if due else closes_s
    done: list[Sample] = []

    async def one(number: int) -> None:
        done.append(await _ask(way, traffic, number, due_s[number]))
        missed = sum(not promise.kept(sample) for sample in done if sample.due_s >= first_s)
        if not whole and missed > (1 - KEPT) * due:
            raise _Broken

    try:
        async with asyncio.TaskGroup() as group:
            for number, each in enumerate(due_s):
                await asyncio.sleep(each - time.perf_counter())
                group.create_task(one(number))
    except* _Broken:
        await asyncio.sleep(_SETTLE_S)
    samples = [sample for sample in done if sample.due_s >= first_s]
    return Window(
        due=due,
        samples=samples,
        ended=sum(opens_s <= sample.end_s <= closes_s for sample in done),
        missed=due - sum(map(promise.kept, samples)),
    )


class _Broken(Exception):
    """Too many missed the promise: whatever follows, the rate does not hold."""


async def _ask(way: Way, traffic: Traffic, number: int, due_s: float) -> Sample:
    engine = way.engine(number)
    prompt = traffic.prompt(number, engine.model.vocab)
    return await engine.answer(prompt, traffic.request(number).output_tokens, due_s)
