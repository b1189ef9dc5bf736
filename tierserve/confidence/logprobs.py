"""How sure a model was of its own words, from the logprobs of its tokens. 0 to 1.

A token is a sequence of natural logarithms: the sampled token's, then those of the likeliest ones.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final

Token = Sequence[float]

# How many of the likeliest tokens' logprobs the entropy wants. What they leave over counts as one more token, so the
# entropy of a flat distribution is underrated; where it matters, on the way from one choice to a few, it is right.
ALTERNATIVES: Final = 8
# vLLM writes this for a token that it gives no chance at all.
_LEAST: Final = -9999.0


def mean(tokens: Sequence[Token], window: int) -> float:
    """The geometric mean of the tokens' probabilities, 1 / perplexity; `window` does not count."""
    return math.exp(_mean(tokens))


def minimum(tokens: Sequence[Token], window: int) -> float:
    """The same of the `window` consecutive tokens where it is least: one wrong digit is not made up for by a long text.

    It falls, or stays, as the answer grows.
    """
    width = min(window, len(tokens))
    return math.exp(min(_mean(tokens[at : at + width]) for at in range(len(tokens) - width + 1)))


def entropy(tokens: Sequence[Token], window: int) -> float:
    """exp(-H), H the mean entropy of what could have stood in the place of the first `window` tokens, in nats: one over
    how many choices the model saw there."""
    beginning = tokens[:window]
    return math.exp(-sum(_entropy(token[1:]) for token in beginning) / len(beginning))


STATISTICS: Final[Mapping[str, Callable[[Sequence[Token], int], float]]] = {
    "mean": mean,
    "minimum": minimum,
    "entropy": entropy,
}


def _mean(tokens: Sequence[Token]) -> float:
    return sum(max(token[0], _LEAST) for token in tokens) / len(tokens)


def _entropy(likeliest: Token) -> float:
    shares = [math.exp(logprob) for logprob in likeliest]
    shares.append(max(0.0, 1.0 - sum(shares)))
    return -sum(share * math.log(share) for share in shares if share > 0)
