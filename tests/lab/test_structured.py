import re

import pytest

from tierserve.lab.structured import INSTRUCTIONS, Answer, Position, is_in_form, read, up_to_confidence, write

CONTENTS = ["", "Oslo", 'a "quoted" \\ word', "two\nlines", "Häß 漢字 😀", '{"name": "Anna"}', 'x "confidence": 0.99']


@pytest.mark.parametrize("order", Position)
@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("confidence", [0.0, 0.05, 0.87, 1.0])
def test_what_is_written_is_in_form_and_reads_the_same(order: Position, content: str, confidence: float) -> None:
    text = write(order, Answer(content, confidence))
    assert is_in_form(order, text)
    assert read(text) == Answer(content, confidence)
    before = up_to_confidence(order, text)
    assert re.match(r"[01]\.\d\d", text[len(before) :])
    assert float(text[len(before) :][:4]) == confidence


def test_the_orders_differ() -> None:
    answer = Answer("Oslo", 0.5)
    assert not is_in_form(Position.LAST, write(Position.FIRST, answer))
    assert not is_in_form(Position.FIRST, write(Position.LAST, answer))
    assert INSTRUCTIONS[Position.FIRST] != INSTRUCTIONS[Position.LAST]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Oslo",
        '{"confidence": 0.87, "content": "Os',
        '{"confidence": 0.87}',
        '{"content": "Oslo"}',
        '{"confidence": 1.01, "content": "Oslo"}',
        '{"confidence": -0.1, "content": "Oslo"}',
        '{"confidence": "0.87", "content": "Oslo"}',
        '{"confidence": true, "content": "Oslo"}',
        '{"confidence": NaN, "content": "Oslo"}',
        '{"confidence": 0.87, "content": 3}',
        '{"confidence": 0.87, "content": "Oslo", "more": 1}',
        '[0.87, "Oslo"]',
    ],
)
def test_what_is_no_answer_is_none(text: str) -> None:
    assert read(text) is None


def test_a_confidence_has_two_decimals() -> None:
    assert not is_in_form(Position.FIRST, '{"confidence": 0.9, "content": ""}')
    assert not is_in_form(Position.FIRST, '{"confidence": 1.20, "content": ""}')
