"""The assessment prompt in one model's tokens: what is the same for every text, and what a text adds.

    frame = Frame(tokenizer, stops, max_tokens=128)
    frame.prefix                      # computed once
    frame.ids(["What is Python?"])    # the rest of the prompt, for each text

The model's own chat template frames it. What the text itself holds is plain text: a caller can't end the prompt early.
"""

import os
from collections.abc import Sequence
from typing import Any

from tierserve.errors import ConfigError
from tierserve.router.assessing.prompt import AFTER, BEFORE, RATINGS, messages
from tierserve.router.assessing.scale import Scale
from tierserve.router.cutting import cut, ends

WHERE = "router.assess.model"
_REMEDY = "name another model, e.g. Qwen/Qwen2.5-1.5B-Instruct, or write `assess: off`"


class Frame:
    def __init__(self, tokenizer: Any, stops: Sequence[int], max_tokens: int) -> None:
        """`tokenizer`: one of transformers' fast ones, the frame's own from here on; `stops`: tokens that end answers;
        `max_tokens` of a text are read. Raises ConfigError where the prompt can't be put to such a model."""
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # as in embedding/tokens.py
        self._tokenizer = tokenizer.backend_tokenizer
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._max_tokens = max_tokens
        start, end = _around(tokenizer)
        self.prefix = self._encode([start])[0]
        self._end = self._encode([end])[0]
        self.scale = self._scale(end, stops)
        self._tokenizer.encode_special_tokens = True  # as text, from here on
        self._room = max_tokens + len(self._encode([BEFORE + AFTER])[0])

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """What follows the prefix; where 10 is two tokens, with a 1 behind it, as one pass then tells what follows."""
        parts = [_framed(ends(text, self._max_tokens)) for text in texts]
        inner = iter(self._encode([part for several in parts for part in several]))
        tail = self._end + ([self.scale.one] if self.scale.after_one else [])
        return [cut([next(inner) for _ in several], self._room) + tail for several in parts]

    def _scale(self, end: str, stops: Sequence[int]) -> Scale:
        """Ratings as they are written behind the prompt: some tokenizers join them to what stands before."""
        ratings = [ids[len(self._end) :] for ids in self._encode([f"{end}{rating}" for rating in RATINGS])]
        *digits, ten = ratings
        if all(len(digit) == 1 for digit in digits):
            first = [token for (token,) in digits]
            if len(ten) == 1 and len({*first, *ten}) == len(RATINGS):
                return Scale([*first, *ten])
            if len(ten) == 2 and ten[0] == first[1] and stops:
                return Scale(first, [ten[1], *stops])
        raise ConfigError(WHERE, "its tokenizer has no token for each digit, so that it can't rate", _REMEDY)

    def _encode(self, texts: list[str]) -> list[list[int]]:
        # The batch form lets go of the interpreter's lock; `encode` does not.
        return [found.ids for found in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)]


def _framed(parts: tuple[str, ...]) -> list[str]:
    """The user's message, in the parts that its text comes in."""
    first, *others = parts
    *before, last = [BEFORE + first, *others]
    return [*before, last + AFTER]


def _around(tokenizer: Any) -> tuple[str, str]:
    """What the chat template writes before and after the user's message."""
    asked = messages("")
    try:
        text = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
        start, found, end = text.rpartition(asked[-1]["content"])
    except Exception as error:  # whatever a template raises: it comes to this
        raise ConfigError(WHERE, f"its chat template can't put the question ({error})", _REMEDY) from None
    if not found:
        raise ConfigError(WHERE, "its chat template changes what the user says", _REMEDY)
    return start, end
