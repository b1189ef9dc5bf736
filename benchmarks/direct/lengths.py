"""What is asked: how many tokens of prompt and of answer, and which tier. Pure; texts do not matter without weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from random import Random
from statistics import fmean

from loadgen import PlanError, Prompt, read_prompts

# Short questions and answers, and some long ones: 190 tokens out on average.
_PROMPT_TOKENS = (24, 48, 96, 192, 384, 768)
_OUTPUT_TOKENS = (48, 96, 160, 208, 272, 352)
_CHARS_PER_TOKEN = 4  # of English, about
_TEMPLATE_TOKENS = 36  # what Llama 3.1's chat template adds to a prompt


@dataclass(frozen=True)
class Request:
    prompt_tokens: int
    output_tokens: int


@dataclass(frozen=True)
class Traffic:
    """Requests in the order in which they are asked, again and again; `context` holds any of them."""

    requests: Sequence[Request]
    seed: int

    @property
    def mean_output_tokens(self) -> float:
        return fmean(request.output_tokens for request in self.requests)

    @property
    def mean_prompt_tokens(self) -> float:
        return fmean(request.prompt_tokens for request in self.requests)

    @property
    def context(self) -> int:
        longest = max(request.prompt_tokens + request.output_tokens for request in self.requests)
        return -(-longest // 64) * 64

    def request(self, number: int) -> Request:
        return self.requests[number % len(self.requests)]

    def prompt(self, number: int, vocab: int) -> list[int]:
        """Token ids at random, the same for each way of serving; the first ones are kept for the special tokens."""
        random = Random(f"{self.seed} {number}")
        return [random.randrange(2, vocab) for _ in range(self.request(number).prompt_tokens)]


def traffic(file: Path | None, length_key: str, longest: int | None, seed: int = 8) -> Traffic:
    """From a file as benchmarks/load.py takes it, whose rows all say `length_key`; without one, built-in lengths.

    Answers end at `longest` tokens. Raises PlanError.
    """
    found = list(map(_request, read_prompts(file, length_key))) if file else _built_in()
    if longest:
        found = [Request(each.prompt_tokens, min(each.output_tokens, longest)) for each in found]
    Random(seed).shuffle(found)
    return Traffic(found, seed)


def is_large(number: int, share: float) -> bool:
    """Whether request `number` goes to the large tier: evenly spread, so that every stretch has the same split."""
    return int((number + 1) * share + 1e-9) > int(number * share + 1e-9)


def _built_in() -> list[Request]:
    return [Request(*each) for each in product(_PROMPT_TOKENS, _OUTPUT_TOKENS)]


def _request(prompt: Prompt) -> Request:
    if prompt.output_tokens is None:
        raise PlanError("a row of the lengths' file does not say how long the answer is: see --length-key")
    chars = sum(len(str(message["content"])) for message in prompt.messages)
    return Request(_TEMPLATE_TOKENS + -(-chars // _CHARS_PER_TOKEN), prompt.output_tokens)
