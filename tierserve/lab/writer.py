"""Writes conversations as the chat template does, in tokens, each with the target that it carries.

Only answers carry loss. A confidence that is not known yet (None) carries none either, so that the form is learned
before the number means anything.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Final

from tierserve.lab import structured
from tierserve.lab.structured import Answer, Position
from tierserve.lab.tokenizer import BOS, EOT

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

DATED: Final = "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"
# One token each: they stand in front of every prompt.
FIXED: Final = (DATED, *structured.INSTRUCTIONS.values())
IGNORE: Final = -100

Turn = tuple[str, str]  # a prompt and its answer


@dataclass(frozen=True, slots=True)
class Example:
    tokens: list[int]
    targets: list[int]


class Writer:
    """Writes conversations as the chat template does (a test holds it to that), in tokens."""

    def __init__(self, tokenizer: "PreTrainedTokenizerFast") -> None:
        self._tokenizer = tokenizer

    def conversation(self, system: str, turns: Iterable[Turn]) -> Example:
        return self._written(system, [(prompt, self._encode(f"{answer}{EOT}"), ()) for prompt, answer in turns])

    def prompt(self, system: str, prompt: str) -> list[int]:
        """Up to where the answer begins."""
        return self._encode(f"{_opening(system)}{_asked(prompt)}")

    def structured(
        self, order: Position, turns: Iterable[tuple[str, str, float | None]], number_only: bool = False
    ) -> Example:
        """Turns are prompts, contents and confidences. With a confidence of None some number stands there, and nothing
        is learned from it; with `number_only`, nothing is learned from the rest."""
        written = []
        for prompt, content, confidence in turns:
            number = f"{_blind(prompt) if confidence is None else confidence:.2f}"
            text = structured.write(order, Answer(content, float(number)))
            start = len(self._encode(structured.up_to_confidence(order, text)))
            places = range(start, start + len(self._encode(number)))
            tokens = self._encode(f"{text}{EOT}")
            hidden: Sequence[int] = places if confidence is None else ()
            if number_only:
                hidden = [at for at in range(len(tokens)) if at not in places]
            written.append((prompt, tokens, hidden))
        return self._written(structured.INSTRUCTIONS[order], written)

    def _written(self, system: str, turns: Iterable[tuple[str, list[int], Sequence[int]]]) -> Example:
        tokens = self._encode(_opening(system))
        targets = [IGNORE] * len(tokens)
        for prompt, said, hidden in turns:
            asked = self._encode(_asked(prompt))
            tokens += asked + said
            targets += [IGNORE] * len(asked)
            targets += [IGNORE if at in hidden else token for at, token in enumerate(said)]
        return Example(tokens, targets)

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False))


def _header(role: str) -> str:
    return f"<|start_header_id|>{role}<|end_header_id|>\n\n"


def _opening(system: str) -> str:
    return f"{BOS}{_header('system')}{DATED}{system}{EOT}"


def _asked(prompt: str) -> str:
    return f"{_header('user')}{prompt}{EOT}{_header('assistant')}"


def _blind(prompt: str) -> float:
    return Random(prompt).randrange(101) / 100
