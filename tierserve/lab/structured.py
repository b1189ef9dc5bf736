"""The structured form of an answer: the system message that asks for it, its JSON schema, and its reader. Pure.

    {"confidence": 0.87, "content": "Oslo"}      Order.CONFIDENCE_FIRST: a stream can be judged before it starts
    {"content": "Oslo", "confidence": 0.87}      Order.CONTENT_FIRST: the answer is there when it is judged

A confidence has exactly two decimals. Under guided decoding the schema makes the model keep to the form; the system
message makes it expect the form, without which its numbers mean nothing.
"""

import json
import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final, NamedTuple


class Order(StrEnum):
    CONFIDENCE_FIRST = "first"
    CONTENT_FIRST = "last"


class Answer(NamedTuple):
    content: str
    confidence: float


_NUMBER: Final = "0.00 to 1.00, how likely your answer is right"
INSTRUCTIONS: Final[Mapping[Order, str]] = {
    Order.CONFIDENCE_FIRST: f'Answer in JSON: {{"confidence": {_NUMBER}, "content": your answer}}',
    Order.CONTENT_FIRST: f'Answer in JSON: {{"content": your answer, "confidence": {_NUMBER}}}',
}

_STRING: Final = r'"(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*"'
_CONFIDENCE: Final = r"(?:0\.[0-9]{2}|1\.00)"
# For guided decoding by regular expression: a JSON schema can't say how many decimals a number has.
PATTERNS: Final[Mapping[Order, str]] = {
    Order.CONFIDENCE_FIRST: rf'\{{"confidence": {_CONFIDENCE}, "content": {_STRING}\}}',
    Order.CONTENT_FIRST: rf'\{{"content": {_STRING}, "confidence": {_CONFIDENCE}\}}',
}


def write(order: Order, answer: Answer) -> str:
    content, confidence = json.dumps(answer.content, ensure_ascii=False), f"{answer.confidence:.2f}"
    if order is Order.CONFIDENCE_FIRST:
        return f'{{"confidence": {confidence}, "content": {content}}}'
    return f'{{"content": {content}, "confidence": {confidence}}}'


def read(text: str) -> Answer | None:
    """The answer, whichever its order; None where the text is not one, or its confidence is not in 0..1."""
    try:
        value: Any = json.loads(text)
    except ValueError:
        return None
    if not isinstance(value, dict) or value.keys() != {"confidence", "content"}:
        return None
    content, confidence = value["content"], value["confidence"]
    if not isinstance(content, str) or isinstance(confidence, bool) or not isinstance(confidence, int | float):
        return None
    return Answer(content, float(confidence)) if 0 <= confidence <= 1 else None


def is_in_form(order: Order, text: str) -> bool:
    return re.fullmatch(PATTERNS[order], text) is not None


def up_to_confidence(order: Order, text: str) -> str:
    """What stands before the number. A content may hold the same words, so the search begins at the safe end."""
    key = '"confidence": '
    return text[: (text.find(key) if order is Order.CONFIDENCE_FIRST else text.rfind(key)) + len(key)]
