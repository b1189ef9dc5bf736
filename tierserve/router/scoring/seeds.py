"""The article's scorer: how much nearer a prompt stands to complex examples than to simple ones.

It is the form to compare others with. Alone it is weak: it knows six sentences.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from tierserve.core import Prompt
from tierserve.router.embedding.encoder import Encoder

SIMPLE: Final = ("What is Python?", "Format this JSON", "Summarize this paragraph")
COMPLEX: Final = (
    "Refactor this recursive algorithm to iterative with O(1) space",
    "Explain the CAP theorem trade-offs in distributed databases",
    "Design a rate limiter with sliding window and token bucket",
)


class SeedScorer:
    """Score = 10 c / (s + c + 0.01), with c and s the greatest cosine to a complex and to a simple example.

    The article divides by that sum whatever its sign, and so leaves 0..10 when a cosine is negative. Here a negative
    cosine counts as no similarity, 0: wherever both are positive the score is the article's, and it is finite and
    within 0..10 everywhere.
    """

    def __init__(self, encoder: Encoder) -> None:
        self._simple = encoder.encode(SIMPLE)[:, : encoder.own]
        self._complex = encoder.encode(COMPLEX)[:, : encoder.own]

    def score(self, prompt: Prompt, vector: NDArray[np.float32]) -> float:
        """The sentence's own vector alone counts. One that is not finite, as of no text at all, scores 10."""
        own = vector[: self._simple.shape[1]]
        simple, complex_ = (max(float(np.max(seeds @ own)), 0.0) for seeds in (self._simple, self._complex))
        score = 10 * complex_ / (simple + complex_ + 0.01)
        return min(max(score, 0.0), 10.0) if np.isfinite(score) else 10.0
