"""Routing by length: what the article warns of, and what every other scorer has to beat."""

import numpy as np
from numpy.typing import NDArray

from tierserve.core import Prompt

# The article's example sends prompts of 200 characters and more to the large model: there this score is 4.
_HALF_WAY = 300


class LengthScorer:
    """Score = 10 n / (n + 300), with n the characters of the prompt."""

    def score(self, prompt: Prompt, vector: NDArray[np.float32]) -> float:
        """The text alone counts."""
        return 10 * len(prompt.text) / (len(prompt.text) + _HALF_WAY)
