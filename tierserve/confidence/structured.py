"""The structured form of an answer: how it is asked for, its grammar, and its readers. Pure.

    {"confidence": 0.87, "content": "Oslo"}      Position.FIRST: known before the content, so a stream need not wait
    {"content": "Oslo", "confidence": 0.87}      Position.LAST: the answer is there when it is judged

A confidence has exactly two decimals. Guided decoding makes the model keep to the form; the instructions make it expect
the form, without which its numbers mean nothing. A content is a text or, where the caller asked for JSON, that JSON.
"""

import json
import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, Final, NamedTuple

from tierserve.confidence.json_text import JsonText, without_surrogates


class Position(StrEnum):
    """Where the confidence stands."""

    FIRST = "first"
    LAST = "last"


class Answer(NamedTuple):
    """`confidence` is None where the model did not state one."""

    content: str
    confidence: float | None


_NUMBER: Final = "0.00 to 1.00, how likely your answer is right"
INSTRUCTIONS: Final[Mapping[Position, str]] = {
    Position.FIRST: f'Answer in JSON: {{"confidence": {_NUMBER}, "content": your answer}}',
    Position.LAST: f'Answer in JSON: {{"content": your answer, "confidence": {_NUMBER}}}',
}

_STRING: Final = r'"(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*"'
_CONFIDENCE: Final = r"(?:0\.[0-9]{2}|1\.00)"
_BEFORE: Final = {Position.FIRST: rf'\{{"confidence": {_CONFIDENCE}, "content": ', Position.LAST: r'\{"content": '}
_AFTER: Final = {Position.FIRST: r"\}", Position.LAST: rf', "confidence": {_CONFIDENCE}\}}'}
# For guided decoding by regular expression: a JSON schema can't say how many decimals a number has.
PATTERNS: Final[Mapping[Position, str]] = {
    position: _BEFORE[position] + _STRING + _AFTER[position] for position in Position
}
# What a model without guided decoding may make of the beginning.
_BEGINNING: Final = re.compile(r'\s*\{\s*"confidence"\s*:\s*(-?\d+(?:\.\d+)?)\s*,\s*"content"\s*:\s*')
_LONGEST_BEGINNING: Final = 80  # characters
# Tokens that the form adds to a content, at most: 13 with Llama 3.1's tokenizer, 22 with the lab's.
FORM_TOKENS: Final = 32


def grammar(position: Position, schema: Mapping[str, Any] | None) -> dict[str, Any]:
    """vLLM's `structured_outputs` for the form. With a `schema` the content is JSON of it.

    The schema stands in a structural tag, as an element of its own: it is its own root there, so what its `$ref`s and
    `$defs` say holds as the caller wrote it, and need not be lifted.
    """
    if schema is None:
        return {"regex": PATTERNS[position]}
    elements = [
        {"type": "regex", "pattern": _BEFORE[position]},
        # Small models, free to choose, emit white space for ever.
        {"type": "json_schema", "json_schema": schema, "max_whitespace_cnt": 1},
        {"type": "regex", "pattern": _AFTER[position]},
    ]
    tag = {"type": "structural_tag", "format": {"type": "sequence", "elements": elements}}
    return {"structural_tag": json.dumps(tag)}


def instructed(messages: Sequence[Mapping[str, Any]], position: Position) -> list[Mapping[str, Any]]:
    """The messages, with the instructions at the end of the system's, or before all others where there is none."""
    first, instructions = messages[0], INSTRUCTIONS[position]
    if first["role"] not in ("system", "developer"):
        return [{"role": "system", "content": instructions}, *messages]
    content = first.get("content") or ""
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else list(content)
    said = "\n\n".join(part["text"] for part in parts if part.get("text"))
    return [{**first, "content": f"{said}\n\n{instructions}" if said else instructions}, *messages[1:]]


def read(text: str, is_json: bool = False) -> Answer | None:
    """A whole answer, whichever its order; None where the text is not one.

    A confidence that is missing, or not in 0..1, is None. With `is_json` the content is what stands there, verbatim.
    """
    try:
        value: Any = json.loads(text, parse_constant=lambda _: None)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or not value.keys() <= {"confidence", "content"} or "content" not in value:
        return None
    content = _verbatim(text) if is_json else value["content"]
    return Answer(without_surrogates(content), _in_range(value.get("confidence"))) if isinstance(content, str) else None


class Reader:
    """Reads the form while it is written, where the confidence stands first.

    reader.feed('{"confidence": 0.87, "content": "Os')
    reader.confidence, reader.take()          # 0.87, "Os"

    `broken`: it is not the form. `begun`: the content has a first character. Nothing is given twice, nothing is lost.
    """

    def __init__(self, is_json: bool = False) -> None:
        self.confidence: float | None = None
        self.broken = False
        self.begun = False
        self._is_json = is_json
        self._pending = ""  # read, and not yet understood
        self._content = ""  # understood, and not yet taken
        self._in_content = False
        self._text = JsonText()

    def feed(self, text: str) -> None:
        if self._in_content:
            self._feed_content(text)
            return
        self._pending += text
        beginning = _BEGINNING.match(self._pending)
        if beginning is None:
            self.broken = len(self._pending) > _LONGEST_BEGINNING
            return
        rest = self._pending[beginning.end() :]
        if not rest:
            return  # the white space before the content may go on
        self._in_content = True
        self.confidence = _in_range(float(beginning[1]))
        self._pending = ""
        if self._is_json:
            self._feed_content(rest)
        elif rest[0] == '"':
            self._feed_content(rest[1:])
        else:
            self.broken = True

    def end(self) -> None:
        """Nothing more will come. A content that was cut off is kept as far as it came."""
        self.broken = self.broken or not self._in_content
        if self._is_json and self._pending != "}":
            self._content, self._pending = self._content + self._pending, ""

    def take(self) -> str:
        """The content that was understood since the last time."""
        content, self._content = self._content, ""
        return content

    def _feed_content(self, text: str) -> None:
        if self._is_json:
            # The last character may be the form's own closing brace.
            read, self._pending = (self._pending + text)[:-1], (self._pending + text)[-1:]
        else:
            read = self._text.feed(text)
            self.broken = self.broken or self._text.broken
        self._content += read
        self.begun = self.begun or bool(read.strip())


def _verbatim(text: str) -> str | None:
    """The JSON that stands as content, as it stands there."""
    beginning = re.match(r'\s*\{\s*(?:"confidence"\s*:\s*[^,"]+,\s*)?"content"\s*:\s*', text)
    if beginning is None:
        return None
    _, end = json.JSONDecoder().raw_decode(text, beginning.end())
    return text[beginning.end() : end]


def _in_range(confidence: Any) -> float | None:
    if isinstance(confidence, bool) or not isinstance(confidence, int | float) or not 0 <= confidence <= 1:
        return None
    return float(confidence)
