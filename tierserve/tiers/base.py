"""The interface that every tier has. tests/tiers/test_contract.py holds each implementation to it."""

from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from prometheus_client import Metric

from tierserve.core import Call, Heard, Queue, Usage


class TierState(StrEnum):
    """A tier's life, in order; `failed` can follow any of the others."""

    STOPPED = "stopped"
    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"


@dataclass(slots=True)
class Reply:
    """What a tier gives back: `body`, the whole answer as JSON, or `events`, pieces of one or more server-sent events,
    as they are made.

    `usage` is complete once the body is there or the events have ended; of a stream that is closed before, it is a
    lower bound. `broken` is set when the events ended with an error: they have then told the caller themselves.
    """

    body: bytes = b""
    events: AsyncGenerator[bytes, None] | None = None
    usage: Usage = field(default_factory=Usage)
    broken: bool = False


@dataclass(frozen=True, slots=True)
class Pulse:
    """What an engine shows of its work: requests that it has not finished; steps that it has done, ever; whether one of
    its processes is gone."""

    unfinished: int = 0
    steps: int = 0
    gone: bool = False


@dataclass(frozen=True, slots=True)
class Occupancy:
    """`unfinished`: requests that a tier has. `kv_used`: the part of its KV cache that they take, 0 to 1; None where
    nobody tells."""

    unfinished: int = 0
    kv_used: float | None = None


class Listener(Protocol):
    """Hears an answer as it is generated, before its events or its body are there.

    `alternatives` is how many of the likeliest tokens' logprobs it wants beside each sampled one's; None: no logprobs.
    `impatient`: it wants to hear an answer grow that is asked for as a whole, where the tier can let it.
    """

    alternatives: int | None
    impatient: bool

    def hear(self, heard: Heard) -> None: ...


class Tier(Protocol):
    name: str  # on the wire
    max_model_len: int | None  # tokens of prompt and answer together; None where it is not known

    @property
    def state(self) -> TierState: ...

    @property
    def waiting_for(self) -> str:
        """What a tier that is loading is busy with, in the operator's words."""

    @property
    def slots(self) -> int | None:
        """Requests that it works on at once; None: nobody knows."""

    @property
    def queue(self) -> Queue:
        """How busy it is. Cheap: asked for each decision."""

    @property
    def occupancy(self) -> Occupancy:
        """For people to see."""

    async def find_weights(self) -> None:
        """Make sure that there is something to load, in seconds. Raises ConfigError."""

    async def start(self) -> None:
        """Load and warm up; ready when it returns. Raises ConfigError or TierStartError."""

    async def stop(self) -> None:
        """End it and whatever processes it has, at once; harmless when it never started."""

    async def fits(self, call: Call) -> bool:
        """Whether prompt and requested output fit the context."""

    async def generate(self, call: Call, listener: Listener | None = None) -> Reply:
        """Answer, and let `listener` hear it, of which the caller sees nothing. A streamed reply's first event is there
        when this returns, so until then another tier can still take over; closing `events`, or cancelling this call,
        frees the tier's slot at once.

        Raises RequestError (the caller's fault) or TierUnavailable.
        """

    async def prewarm(self, call: Call) -> bool:
        """Read the prompt in advance, after everything else that the tier has to do, so that an answer to the call
        starts sooner. False where the tier can't, or the call is at fault. Cancelling it stops that."""

    def metrics(self) -> Iterator[Metric]:
        """The engine's own metrics."""


def queue_of(unfinished: int, slots: int | None) -> Queue:
    """The queue of a tier that works on `slots` requests at once; None: nobody knows, so nobody waits."""
    if slots is None:
        return Queue()
    return Queue(waiting=max(0, unfinished - slots), has_room=unfinished < slots)


async def armed(events: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """Run a generator up to its first yield, which must be an empty one.

    Closing a generator that nobody has begun to read skips its `finally`, and with it the end of what it reads from.
    """
    await anext(events)
    return events
