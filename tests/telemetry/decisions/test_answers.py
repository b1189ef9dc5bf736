import json

import pytest

from tierserve.core import Sent
from tierserve.telemetry.decisions.answers import text_of


def sent(*chunks: bytes) -> Sent:
    kept = Sent()
    for chunk in chunks:
        kept.add(chunk)
    return kept


def event(**choice: object) -> bytes:
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


def test_a_chat_s_body() -> None:
    body = {"choices": [{"index": 0, "message": {"content": "one"}}, {"index": 1, "message": {"content": "two"}}]}
    assert text_of(sent(json.dumps(body).encode()), stream=False) == "one"


def test_a_completion_s_body() -> None:
    assert text_of(sent(b'{"choices": [{"index": 0, "text": "one"}]}'), stream=False) == "one"


def test_a_body_that_calls_tools() -> None:
    call = {"type": "function", "function": {"name": "look", "arguments": "{}"}}
    body = {"choices": [{"message": {"content": None, "tool_calls": [call]}}]}
    assert json.loads(text_of(sent(json.dumps(body).encode()), stream=False)) == [call]


def test_events_of_several_choices_that_came_together_and_apart() -> None:
    first = event(index=0, delta={"content": "o"})
    other, last = (
        event(index=1, delta={"content": "two"}),
        event(index=0, delta={"content": "ne"}, finish_reason="stop"),
    )
    assert text_of(sent(first + other, last, b"data: [DONE]\n\n"), stream=True) == "one"
    assert text_of(sent(first[:20], first[20:]), stream=True) == "o"


def test_events_that_call_tools() -> None:
    begun = event(index=0, delta={"tool_calls": [{"index": 0, "function": {"name": "look", "arguments": ""}}]})
    goes_on = event(index=0, delta={"tool_calls": [{"index": 0, "function": {"arguments": '{"at": 1}'}}]})
    assert text_of(sent(begun, goes_on), stream=True) == 'look{"at": 1}'


def test_more_than_is_kept_is_said() -> None:
    kept = Sent(limit=100)
    for _ in range(5):
        kept.add(event(index=0, delta={"content": "x"}))
    assert not kept.whole
    assert text_of(kept, stream=True) == "x [the rest was not kept]"


@pytest.mark.parametrize("raw", [b"", b"null", b"[1]", b"{", b'{"choices": null}', b"data: {", b'data: {"error": {}}'])
@pytest.mark.parametrize("stream", [True, False])
def test_bytes_that_say_nothing(raw: bytes, stream: bool) -> None:
    assert text_of(sent(raw), stream) == ""
