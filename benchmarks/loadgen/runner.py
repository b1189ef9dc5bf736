"""When each request is sent: trials one after the other, each endpoint in turn.

Nobody is spared the waiting. Under an open load a request counts from the moment it was due, whether the server
stalled, the connection was refused or this process was late (`client` tells how late it runs).
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from random import Random

import aiohttp
import yarl

from loadgen.asking import Sample, ask, refusal, session
from loadgen.plan import Closed, Endpoint, Load, Open, Plan, PlanError

_TICK_S = 0.02


@dataclass
class Client:
    """How hard this process worked: its share of one core, and how late its event loop woke."""

    cpu_share: float = 0
    lags_s: list[float] = field(default_factory=list)


@dataclass
class Trial:
    """One load against one endpoint."""

    endpoint: Endpoint
    load: Load
    round: int
    start_s: float = 0  # of the window
    end_s: float = 0
    samples: list[Sample] = field(default_factory=list)  # of what was due in the window, as they ended
    warm_up: list[Sample] = field(default_factory=list)  # of what was due before; some end within the window
    unfinished: int = 0  # broken off by `stop`
    client: Client = field(default_factory=Client)


Progress = Callable[[Trial, Sample], None]


async def check(plan: Plan) -> None:
    """Ask each endpoint the first prompt. Raises PlanError with the server's own words where it does not answer."""
    async with session(plan.timeout_s) as client:
        for endpoint in plan.endpoints:
            body, *_ = plan.bodies(endpoint)
            if said := await refusal(client, yarl.URL(endpoint.address), body, _headers(endpoint)):
                raise PlanError(f"{endpoint.name} at {endpoint.address} does not answer: {said}")


async def run(plan: Plan, progress: Progress | None = None, stop: asyncio.Event | None = None) -> list[Trial]:
    """Every trial of the plan, in order. When `stop` is set the one that runs ends at once, and is the last."""
    stop = stop or asyncio.Event()
    trials: list[Trial] = []
    async with session(plan.timeout_s) as client:
        for trial in _trials(plan):
            trials.append(trial)
            await _Sender(plan, trial, client, progress).run(stop)
            if stop.is_set():
                break
    return trials


def _trials(plan: Plan) -> Iterator[Trial]:
    for number in range(plan.rounds):
        for load in plan.loads:
            turn = number % len(plan.endpoints)  # who is first changes, so that none always follows the same one
            for endpoint in [*plan.endpoints[turn:], *plan.endpoints[:turn]]:
                yield Trial(endpoint, load, number)


def _headers(endpoint: Endpoint) -> dict[str, str]:
    return {"content-type": "application/json"} | dict(endpoint.headers)


class _Sender:
    """Runs one trial."""

    def __init__(self, plan: Plan, trial: Trial, client: aiohttp.ClientSession, progress: Progress | None) -> None:
        self._plan = plan
        self._trial = trial
        self._client = client
        self._progress = progress
        self._address = yarl.URL(trial.endpoint.address)
        self._headers = _headers(trial.endpoint)
        self._random = Random(f"{plan.seed}, {trial.round}")  # the same for every endpoint
        self._bodies = self._random.sample(bodies := plan.bodies(trial.endpoint), len(bodies))
        self._sent = count()
        self._counted = count(1)  # requests that were sent in the window

    async def run(self, stop: asyncio.Event) -> None:
        trial = self._trial
        began_s = time.perf_counter()
        trial.start_s = began_s + self._plan.warmup_s
        async with _watched(trial.client):
            sending, stopping = asyncio.create_task(self._send(began_s)), asyncio.create_task(stop.wait())
            try:
                await asyncio.wait((sending, stopping), return_when=asyncio.FIRST_COMPLETED)
            finally:
                broken_off_s = time.perf_counter()
                sending.cancel()
                stopping.cancel()
                await asyncio.gather(sending, stopping, return_exceptions=True)
            if not sending.cancelled():
                sending.result()  # raises what is wrong here; what the server does wrong is in the samples
        trial.end_s = self._end_s(broken_off_s)

    async def _send(self, began_s: float) -> None:
        async with asyncio.TaskGroup() as group:
            match self._trial.load:
                case Closed(concurrency):
                    for _ in range(concurrency):
                        group.create_task(self._ask_again())
                case Open() as load:
                    for due_s in load.due_s(self._random):
                        due_s += began_s
                        # Beforehand: whether a request belongs to the window is known from when it is due.
                        if not self._wanted(due_s):
                            break
                        await asyncio.sleep(max(due_s - time.perf_counter(), 0))
                        group.create_task(self._ask(due_s))

    async def _ask_again(self) -> None:
        while self._wanted(now := time.perf_counter()):
            await self._ask(now)

    def _wanted(self, due_s: float) -> bool:
        """Whether a request that is due then is still to be sent."""
        if due_s < self._trial.start_s:
            return True
        if self._plan.seconds is not None:
            return due_s < self._trial.start_s + self._plan.seconds
        assert self._plan.count is not None
        return next(self._counted) <= self._plan.count

    async def _ask(self, due_s: float) -> None:
        trial, body = self._trial, self._bodies[next(self._sent) % len(self._bodies)]
        samples = trial.samples if due_s >= trial.start_s else trial.warm_up
        due_s = min(due_s, time.perf_counter())  # uvloop counts whole milliseconds, and may wake a fraction too soon
        try:
            sample = await ask(self._client, self._address, body, self._headers, due_s)
        except asyncio.CancelledError:
            trial.unfinished += 1
            raise
        samples.append(sample)
        if self._progress is not None:
            self._progress(trial, sample)

    def _end_s(self, broken_off_s: float) -> float:
        """With a duration what came after it is not of the window; with a count the last answer ends it."""
        if self._plan.seconds is not None:
            return min(self._trial.start_s + self._plan.seconds, broken_off_s)
        return max((sample.end_s for sample in self._trial.samples), default=broken_off_s)


@asynccontextmanager
async def _watched(client: Client) -> AsyncIterator[None]:
    async def tick() -> None:
        while True:
            due_s = time.perf_counter() + _TICK_S
            await asyncio.sleep(_TICK_S)
            client.lags_s.append(max(time.perf_counter() - due_s, 0))

    ticking = asyncio.create_task(tick())
    began_s, cpu_s = time.perf_counter(), time.process_time()
    try:
        yield
    finally:
        client.cpu_share = (time.process_time() - cpu_s) / (time.perf_counter() - began_s)
        ticking.cancel()
        await asyncio.gather(ticking, return_exceptions=True)
