"""How a rating is read from what a model would say next: the mean over 0 to 10. Pure numpy."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Scale:
    """The tokens that ratings begin with.

    `first` has those of 0 to 9, and of 10 where that is one token of its own. Qwen2.5's tokenizer writes each digit by
    itself: there 10 begins as 1 does, and `after_one` has what tells them apart, the token that makes it 10 first, then
    those that end the answer. Where 10 is one token it is empty.
    """

    first: Sequence[int]
    after_one: Sequence[int] = ()

    @property
    def one(self) -> int:
        return self.first[1]


def mean_ratings(first: Logits, after_one: Logits) -> NDArray[np.float32]:
    """Mean ratings, shape (n,), each 0..10; logits of a scale's tokens, shapes (n, len(first)) and (n, len(after_one)).

    Of all that a model could say only the ratings count. Where 10 is two tokens, P(10) is P("1") P("0" after "1").
    """
    chances = _softmax(first)
    ratings: NDArray[np.float32] = chances @ np.arange(first.shape[1], dtype=np.float32)
    if after_one.shape[1]:
        ratings = ratings + 9 * chances[:, 1] * _softmax(after_one)[:, 0]  # a 1 that turns out to be a 10
    return np.clip(ratings, 0, 10)  # by rounding a sum may come to a little more


def _softmax(logits: Logits) -> Logits:
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    chances: Logits = exponentials / exponentials.sum(axis=1, keepdims=True)
    return chances
