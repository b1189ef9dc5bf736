"""Which answers can be compared, and what the large tier is asked then."""

from dataclasses import replace
from typing import Any

import pytest

from tierserve.core import Call, Caller, Cause, Decision, Kind, Outcome, Prompt, Role, Sent, Status, Usage
from tierserve.quality.shadow.sample import can_be_drawn, large_call, request_text, was_answered


def chat(content: Any = "Why?", **fields: Any) -> Call:
    return Call("id", Kind.CHAT, {"messages": [{"role": "user", "content": content}]} | fields, (Prompt("Why?"),))


def outcome(call: Call, role: Role = Role.SMALL, cause: Cause = Cause.SCORE) -> Outcome:
    return Outcome(call, decision=Decision(role, cause, 1.0))


@pytest.mark.parametrize("cause", [Cause.SCORE, Cause.CACHE, Cause.FOLLOW_UP, Cause.LOAD, Cause.BUDGET])
def test_an_answer_that_the_router_gave_to_the_small_tier_can_be_compared(cause: Cause) -> None:
    assert can_be_drawn(outcome(chat(), cause=cause), 100)


@pytest.mark.parametrize(
    "other",
    [
        outcome(chat(), Role.LARGE),
        outcome(chat(), cause=Cause.FAILOVER),
        outcome(replace(chat(), forced=(Role.SMALL, Cause.MODEL)), cause=Cause.MODEL),
        outcome(replace(chat(), caller=Caller("app", tiers=frozenset({Role.SMALL})))),
        Outcome(chat()),
        outcome(chat("x" * 101)),
        outcome(chat(n=2)),
        outcome(chat(tools=[{"type": "function", "function": {"name": "f"}}])),
        outcome(chat([{"type": "image_url", "image_url": {"url": "data:,"}}])),
        outcome(chat(None)),
        outcome(Call("id", Kind.CHAT, {"messages": "nonsense"}, (Prompt("-"),))),
        outcome(Call("id", Kind.COMPLETION, {"prompt": ["a", "b"]}, (Prompt("a"), Prompt("b")))),
        outcome(Call("id", Kind.COMPLETION, {"prompt": [1, 2]}, (Prompt("a"),))),
    ],
)
def test_what_can_t_or_must_not_be_compared_is_not_drawn(other: Outcome) -> None:
    assert not can_be_drawn(other, 100)


def test_a_judge_reads_the_conversation() -> None:
    assert request_text(chat("Why?")) == "Why?"
    assert request_text(chat([{"type": "text", "text": "Wh"}, {"type": "text", "text": "y?"}])) == "Why?"
    messages = [("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello"), ("user", "Why?")]
    body = {"messages": [{"role": role, "content": content} for role, content in messages]}
    said = request_text(Call("id", Kind.CHAT, body, (Prompt("Why?"),)))
    assert said == "system: Be brief.\n\nuser: Hi\n\nassistant: Hello\n\nuser: Why?"
    assert request_text(Call("id", Kind.COMPLETION, {"prompt": "Once"}, (Prompt("Once"),))) == "Once"


@pytest.mark.parametrize(
    ("limits", "limit", "ours"),
    [
        ({}, 50, True),
        ({"max_tokens": 20}, 20, False),
        ({"max_tokens": 50}, 50, False),
        ({"max_tokens": 70}, 50, True),
        ({"max_completion_tokens": 30, "max_tokens": 20}, 30, False),
    ],
)
def test_the_large_tier_is_asked_the_same_in_the_background_and_as_a_whole(
    limits: dict[str, int], limit: int, ours: bool
) -> None:
    form = {"stream_options": {"include_usage": True}, "logprobs": True, "top_logprobs": 2, "n": 1}
    asked, limited = large_call(replace(chat(temperature=0.5, **form, **limits), stream=True), 50)
    assert asked.body == chat(temperature=0.5).body | {"max_tokens": limit}
    assert limited is ours
    assert asked.background and not asked.stream and asked.parsed is None
    assert asked.caller == Caller()


def test_only_a_whole_answer_that_ended_well_is_compared() -> None:
    good = outcome(chat())
    good.status, good.sent, good.usage = Status.OK, Sent([b"{}"], 2), Usage(1, 10)
    assert was_answered(good, 10)
    assert not was_answered(good, 9)
    for change in ({"status": Status.CANCELLED}, {"status": Status.ERROR}, {"sent": None}, {"sent": Sent([], 9, 8)}):
        assert not was_answered(replace(good, **change), 10)
