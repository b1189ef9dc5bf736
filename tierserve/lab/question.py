"""A question of the lab: what is asked, what counts as right, and which split it belongs to. Draws nothing itself."""

import hashlib
import json
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple


class Split(StrEnum):
    """A content belongs to one split for good, by its hash: whoever draws it, and in whatever wording."""

    TRAIN = "train"
    CALIBRATION = "calibration"
    HELD_OUT = "heldout"


class Draft(NamedTuple):
    """What a family makes. `content` is what is asked without the wording ("add 17 25"); it decides the split."""

    content: str
    prompt: str
    answer: str


@dataclass(frozen=True, slots=True)
class Question:
    family: str
    level: int
    difficulty: float  # 0..10, the family's own estimate; no model has a part in it
    split: Split
    content: str
    prompt: str
    answer: str

    @property
    def turn(self) -> tuple[str, str]:
        return self.prompt, self.answer

    def is_right(self, reply: str) -> bool:
        """Exact, but for white space around it and a full stop; where the answer is a working, its end counts."""
        reply = reply.strip().removesuffix(".")
        if self.answer.startswith("{"):
            return bool(_json(reply) == json.loads(self.answer))
        if ", " in self.answer and self.family == "steps":
            return reply.rpartition(",")[2].strip() == self.answer.rpartition(",")[2].strip()
        return reply == self.answer


def split_of(family: str, content: str) -> Split:
    """8 of 10 contents are for training, one each for calibration and for the figures."""
    bucket = hashlib.sha256(f"{family}\n{content}".encode()).digest()[0] % 10
    return Split.HELD_OUT if bucket == 0 else Split.CALIBRATION if bucket == 1 else Split.TRAIN


def _json(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return None
