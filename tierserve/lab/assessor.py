"""The self-assessment prompt, and how the answer to it is read. Pure: it loads no model.

A rating is one next-token distribution over the numbers 0 to 10. The lab's tokenizer has a token for each of them;
Qwen2.5's has none for "10", which there starts as "1" does. `rating_tokens` leaves out what is not one token, so with
Qwen2.5 the scale ends at 9: the prompt's examples use 9 for the hardest, and a 10 would be read as 1.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

RATINGS: Final = range(11)
SYSTEM: Final = """Rate how hard the user's request is for a small language model. 0 is trivial, 10 is beyond it. \
Do not answer the request; reply with the number alone.

Request: What colour is the table? The table is red.
Rating: 0
Request: I forgot my password. What is the intent of this message?
Rating: 0
Request: Format this JSON
Rating: 1
Request: Add 48 and 75.
Rating: 4
Request: Sort the letters of KPDAZWBE.
Rating: 6
Request: Refactor this recursive algorithm to iterative with O(1) space
Rating: 8
Request: Prove that there are infinitely many primes of the form 4k + 3.
Rating: 9"""


def messages(request: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": f"Request: {request}\nRating:"}]


def rating_tokens(tokenizer: "PreTrainedTokenizerBase") -> dict[int, int]:
    """Rating -> token id, for each rating that is one token."""
    encoded = {rating: tokenizer.encode(str(rating), add_special_tokens=False) for rating in RATINGS}
    return {rating: tokens[0] for rating, tokens in encoded.items() if len(tokens) == 1}


def expectation(weights: Mapping[int, float]) -> float:
    """The mean rating; `weights` need not sum to one, but not all may be zero."""
    total = sum(weights.values())
    return sum(rating * weight for rating, weight in weights.items()) / total


def soft_rating(score: float, chance: float) -> int:
    """One of the two numbers around `score`, such that over chances in 0..1 the mean is the score."""
    whole = int(score)
    return min(whole + (chance < score - whole), RATINGS[-1])
