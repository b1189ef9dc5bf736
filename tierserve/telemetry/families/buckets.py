"""Bounds of histograms that several subjects share, in seconds."""

from typing import Final

# From a cached route to a long answer of a large model.
ANSWER_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
