"""The structured form (confidence/structured.py) as the lab writes it, and as it reads it, to the letter. Pure."""

import json
import re
from typing import NamedTuple

from tierserve.confidence import structured
from tierserve.confidence.structured import INSTRUCTIONS, PATTERNS, Position

__all__ = ["INSTRUCTIONS", "PATTERNS", "Answer", "Position", "is_in_form", "read", "up_to_confidence", "write"]


class Answer(NamedTuple):
    content: str
    confidence: float


def write(position: Position, answer: Answer) -> str:
    content, confidence = json.dumps(answer.content, ensure_ascii=False), f"{answer.confidence:.2f}"
    if position is Position.FIRST:
        return f'{{"confidence": {confidence}, "content": {content}}}'
    return f'{{"content": {content}, "confidence": {confidence}}}'


def read(text: str) -> Answer | None:
    """The answer, whichever its order; None where the text is not one, or its confidence is not in 0..1."""
    answer = structured.read(text)
    return Answer(answer.content, answer.confidence) if answer and answer.confidence is not None else None


def is_in_form(position: Position, text: str) -> bool:
    return re.fullmatch(PATTERNS[position], text) is not None


def up_to_confidence(position: Position, text: str) -> str:
    """What stands before the number. A content may hold the same words, so the search begins at the safe end."""
    key = '"confidence": '
    return text[: (text.find(key) if position is Position.FIRST else text.rfind(key)) + len(key)]
