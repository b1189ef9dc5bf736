"""Decides which tier a prompt goes to, and names the one rule that decided."""

import asyncio
import hashlib
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
from cachetools import LRUCache
from numpy.typing import NDArray

from tierserve.core import Cause, Decision, Prompt, Role
from tierserve.errors import TierUnavailable
from tierserve.router.encoder import Encoder, EncoderThread, load_encoder
from tierserve.router.seeds import SeedScorer
from tierserve.threads import load_beside

if TYPE_CHECKING:
    from tierserve.config import RouterConfig


log = logging.getLogger(__name__)


class Scorer(Protocol):
    def score(self, prompt: Prompt, vector: NDArray[np.float32]) -> float:
        """Complexity, 0 (trivial) to 10 (hard), finite; `vector` is the text's, unit, shape (dimensions,)."""


class Router:
    """`decide` is: what the caller forced, else the score seen before, else embedding and scorer.

    The cache keeps scores, not tiers, so that it outlives a change of the threshold; its keys are digests, so that it
    holds no prompt text.
    """

    def __init__(
        self, load: Callable[[], tuple[Encoder, Scorer]], threshold: float = 4.0, cache_entries: int = 10_000
    ) -> None:
        """`load` gives encoder and scorer; it may take seconds, and is called once, by `start`."""
        self.threshold = threshold
        self._load = load
        self._encoder: EncoderThread | None = None
        self._scorer: Scorer | None = None
        self._scores: LRUCache[bytes, float] = LRUCache(maxsize=cache_entries)

    @property
    def ready(self) -> bool:
        return self._encoder is not None

    async def start(self) -> None:
        """Raises ConfigError when the encoder can't be had."""
        encoder, self._scorer = await load_beside(self._load)
        self._encoder = EncoderThread(encoder)

    async def decide(self, prompts: Sequence[Prompt], forced: tuple[Role, Cause] | None = None) -> Decision:
        """The decision for a request; of several prompts the hardest counts. Raises TierUnavailable while loading."""
        if forced is not None:
            return Decision(*forced)
        try:
            results = await asyncio.gather(*(self._score(prompt) for prompt in prompts))
        except TierUnavailable:
            raise
        except Exception:
            log.exception("scoring failed")
            return Decision(Role.LARGE, Cause.UNSCORED)
        score = max(score for score, _ in results)
        cached = all(hit for _, hit in results)
        role = Role.SMALL if score <= self.threshold else Role.LARGE
        return Decision(role, Cause.CACHE if cached else Cause.SCORE, score)

    async def close(self) -> None:
        if self._encoder is not None:
            await self._encoder.close()

    async def _score(self, prompt: Prompt) -> tuple[float, bool]:
        """The prompt's score, and whether it was known."""
        key = hashlib.blake2b(f"{prompt.turns} {prompt.text}".encode("utf-8", "surrogatepass"), digest_size=16).digest()
        known = self._scores.get(key)
        if known is not None:
            return known, True
        if self._encoder is None or self._scorer is None:
            raise TierUnavailable("the router is loading")
        score = self._scorer.score(prompt, await self._encoder.embed(prompt.text))
        if self._scores.maxsize:
            self._scores[key] = score
        return score, False


def build_router(config: "RouterConfig") -> Router:
    """The router, not yet started."""

    def load() -> tuple[Encoder, Scorer]:
        encoder = load_encoder(config.encoder)
        return encoder, SeedScorer(encoder)

    return Router(load, config.threshold, config.cache_entries)
