"""Texts to token ids, cut so that beginning and end both count, and put together in batches.

    tokenizer = SentenceTokenizer(folder, max_tokens=256)
    sequences = tokenizer.ids(texts)
    for rows, ids, mask in batches(sequences):
        vectors[rows] = network(ids, mask)

Every backend reads the same ids.
"""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from tierserve.router.cutting import cut, ends
from tierserve.router.embedding.network import Ids

# Lengths are padded to these and then to multiples of the last step, so that a network meets few shapes, and has seen
# them all before it is used.
_LENGTHS = (8, 16, 24, 32, 48, 64, 96, 128)
_STEP = 32
# Where all-MiniLM-L6-v2 is at its fastest per text, whatever their length; more spills the core's caches.
_BATCH_TOKENS = 256
_BATCH_TEXTS = 8
# What one more call costs, in tokens: reading the weights. Padding beyond it is dearer than a batch more.
_CALL_TOKENS = 32


class SentenceTokenizer:
    def __init__(self, folder: Path, max_tokens: int) -> None:
        """`max_tokens` counts the special ones too."""
        # Several texts would be shared out to every core. Read by the library, which has no other way to say it.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()  # all-MiniLM-L6-v2's file pads every text to 128 tokens, and cuts it there
        self._tokenizer.no_truncation()
        self._first, self._last = self._frame()
        self._room = max_tokens - len(self._first) - len(self._last)
        self._max_tokens = max_tokens
        # Of the network that reads the ids.
        self.hidden_size: int = json.loads((folder / "config.json").read_text())["hidden_size"]

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """The texts' token ids, at most max_tokens each: of a longer text the first half and the last half of that."""
        parts = [ends(text, self._max_tokens) for text in texts]
        inner = iter(self._inner([part for several in parts for part in several]))
        return [self._first + cut([next(inner) for _ in several], self._room) + self._last for several in parts]

    def _inner(self, texts: list[str]) -> list[list[int]]:
        # Unlike `encode` it lets go of the interpreter's lock, and so of the event loop: 4,000 characters take 1.2 ms.
        found = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [encoding.ids for encoding in found]

    def _frame(self) -> tuple[list[int], list[int]]:
        """The special tokens before and after a text."""
        (inner,) = self._inner(["a"])
        framed: list[int] = self._tokenizer.encode("a").ids
        start = framed.index(inner[0])
        return framed[:start], framed[start + len(inner) :]


def batches(sequences: Sequence[Sequence[int]]) -> Iterator[tuple[list[int], Ids, Ids]]:
    """Rows of similar length together, shortest first: their indices, ids and mask, both padded with zeros."""
    rows: list[int] = []
    longest = 0
    for row in sorted(range(len(sequences)), key=lambda row: len(sequences[row])):
        length = _rounded(len(sequences[row]))
        if rows and (len(rows) >= _texts_at_once(length) or len(rows) * (length - longest) > _CALL_TOKENS):
            yield rows, *_padded([sequences[row] for row in rows])
            rows = []
        rows.append(row)
        longest = length
    if rows:
        yield rows, *_padded([sequences[row] for row in rows])


def shapes(max_tokens: int) -> Iterator[tuple[int, int]]:
    """Every shape (texts, tokens) that `batches` gives for sequences of at most max_tokens."""
    for tokens in sorted({_rounded(tokens) for tokens in range(1, max_tokens + 1)}):
        for texts in range(1, _texts_at_once(tokens) + 1):
            yield texts, tokens


def _padded(sequences: Sequence[Sequence[int]]) -> tuple[Ids, Ids]:
    shape = len(sequences), _rounded(max(len(sequence) for sequence in sequences))
    ids, mask = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = sequence
        mask[row, : len(sequence)] = 1
    return ids, mask


def _rounded(tokens: int) -> int:
    return next((length for length in _LENGTHS if length >= tokens), -(-tokens // _STEP) * _STEP)


def _texts_at_once(tokens: int) -> int:
    return min(max(_BATCH_TOKENS // tokens, 1), _BATCH_TEXTS)
