"""Scores seen before: bounded, expiring, without prompt text."""

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple, TypeVar

from cachetools import TTLCache

from tierserve.core import Cause, Prompt

# Characters at each end; no less than the encoder's (embedding/tokens.py: 512 tokens of 16) and the features'.
_READ: Final = 4_096


Value = TypeVar("Value")


class Scored(NamedTuple):
    """A score, and what it rests on. `lasts`: the same prompt would be scored so again."""

    score: float
    cause: Cause = Cause.SCORE
    lasts: bool = True


class ScoreCache:
    """Prompt -> score. Keeps scores, not tiers, so that it outlives a move of the threshold.

    A key is a digest of all that is scored. Whoever asks for a score that is being computed waits for that one. Scores
    that do not last are handed on and not kept.
    """

    def __init__(self, entries: int, ttl_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.hits = 0
        self.misses = 0
        self._clock = clock
        self._scores: TTLCache[bytes, float] = TTLCache(entries, ttl_s, clock)
        self._computing: dict[bytes, asyncio.Task[Scored]] = {}

    def peek(self, prompt: Prompt) -> float | None:
        """The score, if it is known; uncounted."""
        return self._scores.get(digest(prompt))

    def find(self, prompt: Prompt) -> float | None:
        known = self.peek(prompt)
        if known is None:
            self.misses += 1
        else:
            self.hits += 1
        return known

    async def compute(self, prompt: Prompt, score: Callable[[Prompt], Awaitable[Scored]]) -> Scored:
        """Score a prompt that is not known, once for all who wait for it, and keep it."""
        key = digest(prompt)
        task = self._computing.get(key)
        if task is None:
            task = self._computing[key] = asyncio.create_task(self._keep(key, prompt, score), name="score")
            task.add_done_callback(lambda done: self._forget(key, done))
        return await asyncio.shield(task)  # one of them may go away; the others still wait

    def resize(self, entries: int, ttl_s: float) -> None:
        """Go on with other bounds; the time of what is known begins anew."""
        self._scores = resized(self._scores, entries, ttl_s, self._clock)

    async def close(self) -> None:
        for task in self._computing.values():
            task.cancel()
        await asyncio.gather(*self._computing.values(), return_exceptions=True)

    async def _keep(self, key: bytes, prompt: Prompt, score: Callable[[Prompt], Awaitable[Scored]]) -> Scored:
        found = await score(prompt)
        if self._scores.maxsize and found.lasts:
            self._scores[key] = found.score
        return found

    def _forget(self, key: bytes, done: asyncio.Task[Scored]) -> None:
        del self._computing[key]
        if not done.cancelled():
            done.exception()  # seen, also where nobody waits any more


def resized(
    cache: TTLCache[bytes, Value], entries: int, ttl_s: float, clock: Callable[[], float]
) -> TTLCache[bytes, Value]:
    """The cache within other bounds; of too much the oldest is left behind."""
    if (cache.maxsize, cache.ttl) == (entries, ttl_s):
        return cache
    other: TTLCache[bytes, Value] = TTLCache(entries, ttl_s, clock)
    for key in list(cache) if entries else ():
        value = cache.get(key)
        if value is not None:  # it may expire between the two
            other[key] = value
    return other


def digest(prompt: Prompt) -> bytes:
    """Of all that a score can depend on: of megabytes neither encoder nor features read the middle."""
    text = prompt.text if len(prompt.text) <= 2 * _READ else prompt.text[:_READ] + prompt.text[-_READ:]
    said = f"{prompt.turns} {len(prompt.text)} {text}".encode("utf-8", "surrogatepass")
    return hashlib.blake2b(said, digest_size=16).digest()
