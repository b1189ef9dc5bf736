"""What the encoder made of recent prompts, for who keeps them elsewhere: the decision log. Without prompt text."""

from typing import Any

from cachetools import LRUCache
from numpy import float16
from numpy.typing import NDArray

from tierserve.core import Prompt
from tierserve.router.rules.cache import digest


class Vectors:
    """Prompt -> its vector, as float16: half a mebibyte for each thousand of MiniLM's 256."""

    def __init__(self, entries: int) -> None:
        self._kept: LRUCache[bytes, NDArray[float16]] = LRUCache(entries)

    def keep(self, prompt: Prompt, vector: NDArray[Any]) -> None:
        self._kept[digest(prompt)] = vector.astype(float16)

    def find(self, prompt: Prompt) -> NDArray[float16] | None:
        """None where the prompt was not encoded, or that is long ago."""
        return self._kept.get(digest(prompt))
