"""What an answer says, read from the bytes that its caller got. Pure."""

import json
from collections.abc import Iterator
from typing import Any, Final

from tierserve.core import Sent

_DATA: Final = b"data:"
_CUT: Final = " [the rest was not kept]"


def text_of(sent: Sent, stream: bool) -> str:
    """The first choice's text; where it has none but calls tools, those, as JSON. Empty where the bytes say nothing.

    Of several choices the others are left out: what is kept is for a person who looks up what was said.
    """
    raw = b"".join(sent.chunks)
    said = "".join(_said_in_events(raw)) if stream else _said_in_body(raw)
    return said if sent.whole else said + _CUT


def _said_in_body(raw: bytes) -> str:
    body = _parsed(raw)
    for choice in _first_choices(body):
        message = choice.get("message") or {}
        calls = message.get("tool_calls")
        return message.get("content") or choice.get("text") or (json.dumps(calls) if calls else "")
    return ""


def _said_in_events(raw: bytes) -> Iterator[str]:
    for line in raw.split(b"\n"):
        if not line.startswith(_DATA):
            continue
        for choice in _first_choices(_parsed(line[len(_DATA) :])):
            delta = choice.get("delta") or {}
            yield delta.get("content") or choice.get("text") or ""
            for call in delta.get("tool_calls") or ():
                function = call.get("function") or {}
                yield (function.get("name") or "") + (function.get("arguments") or "")


def _first_choices(body: Any) -> Iterator[dict[str, Any]]:
    choices = body.get("choices") if isinstance(body, dict) else None
    return (choice for choice in choices or () if not choice.get("index"))


def _parsed(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except ValueError:  # the end of a stream, or what was cut off
        return None
