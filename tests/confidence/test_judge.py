"""Judges, told what they hear: when they come to a finding, which, and what the caller gets of the answer."""

import json
import math
from typing import Any

import pytest

from tierserve.confidence.judge import Finding, Judge, LogprobJudge, StructuredJudge, judge_for
from tierserve.config import EscalationConfig
from tierserve.core import Call, Doubt, Heard, Kind, Prompt

MESSAGES = [{"role": "user", "content": "hi"}]
FORM = '{"confidence": %s, "content": '


def call(stream: bool = False, kind: Kind = Kind.CHAT, prompts: int = 1, **options: Any) -> Call:
    body = {"messages": MESSAGES} | options
    return Call("id", kind, body, (Prompt("hi"),) * prompts, stream)


def judge(call: Call, **options: Any) -> Judge:
    judge = judge_for(EscalationConfig(**options), call)
    assert judge is not None
    return judge


def say(judge: Judge, *tokens: tuple[str, float], choice: int = 0, ended: bool = False) -> None:
    """One token each; the last one ends the choice, where it ended."""
    for number, (text, probability) in enumerate(tokens, 1):
        judge.hear(Heard(choice, text, 1, [[math.log(probability)]], ended and number == len(tokens)))


def found(judge: Judge) -> tuple[float | None, Doubt | None]:
    assert judge.finding is not None
    confidence = judge.finding.confidence
    return confidence and round(confidence, 3), judge.finding.doubt


def test_a_stream_is_judged_by_its_first_tokens_and_what_follows_changes_nothing() -> None:
    judged = judge(call(stream=True), hold_tokens=3)
    say(judged, ("a", 0.9), ("b", 0.9))
    assert judged.finding is None
    say(judged, ("c", 0.9), ("d", 0.001), ended=True)
    judged.end()
    assert found(judged) == (0.9, None)


def test_any_other_answer_is_judged_as_a_whole() -> None:
    judged = judge(call(), hold_tokens=3)
    say(judged, *[("a", 0.9)] * 20)
    assert judged.finding is None
    say(judged, ("b", 0.9), ended=True)
    assert found(judged) == (0.9, None)


def test_a_short_stream_is_judged_when_it_ends() -> None:
    judged = judge(call(stream=True))
    say(judged, ("a", 0.5), ended=True)
    assert found(judged) == (0.5, Doubt.LOW)


@pytest.mark.parametrize("stream", [False, True])
def test_the_worst_choice_counts(stream: bool) -> None:
    judged = judge(call(stream, n=3), hold_tokens=2)
    for choice, probability in enumerate((0.9, 0.4, 0.99)):
        assert judged.finding is None
        say(judged, ("a", probability), ("b", probability), choice=choice, ended=True)
    assert found(judged) == (0.4, Doubt.LOW)


def test_of_several_prompts_each_choice_counts() -> None:
    judged = judge(call(kind=Kind.COMPLETION, prompts=2, n=2))
    for choice in range(4):
        assert judged.finding is None
        say(judged, ("a", 0.8), choice=choice, ended=True)
    assert found(judged) == (0.8, None)


def test_a_stream_s_choice_that_is_ahead_counts_by_its_first_tokens_too() -> None:
    judged = judge(call(stream=True, n=2), hold_tokens=2)
    say(judged, ("a", 0.9), ("b", 0.9), ("c", 0.0001), choice=0)
    say(judged, ("a", 0.9), ("b", 0.9), choice=1)
    assert found(judged) == (0.9, None)


def test_several_tokens_at_once_are_judged_as_they_would_be_one_by_one() -> None:
    judged = judge(call(stream=True), hold_tokens=2)
    judged.hear(Heard(0, "abc", 3, [[math.log(0.9)], [math.log(0.9)], [math.log(0.0001)]]))
    assert found(judged) == (0.9, None)


def test_a_minimum_is_known_to_be_low_before_the_answer_ends() -> None:
    judged = judge(call(), statistic="minimum", window=2)
    say(judged, ("a", 0.9), ("b", 0.6), ("c", 0.9))
    assert judged.finding is None
    say(judged, ("d", 0.4))
    assert found(judged) == (0.6, Doubt.LOW)


def test_a_mean_is_not_for_it_may_rise_again() -> None:
    judged = judge(call())
    say(judged, ("a", 0.1), *[("b", 1.0)] * 30)
    assert judged.finding is None
    say(judged, ("c", 1.0), ended=True)
    assert found(judged)[1] is None


@pytest.mark.parametrize(("statistic", "alternatives"), [("mean", 0), ("minimum", 0), ("entropy", 8)])
def test_alternatives_are_asked_for_where_they_are_needed(statistic: str, alternatives: int) -> None:
    assert judge(call(), statistic=statistic).alternatives == alternatives
    assert judge(call(), estimator="structured").alternatives is None


def test_entropy_hears_the_alternatives() -> None:
    judged = judge(call(), statistic="entropy", window=1)
    judged.hear(Heard(0, "a", 1, [[-9.0, math.log(0.5), math.log(0.5)]], True))
    assert found(judged) == (0.5, Doubt.LOW)


@pytest.mark.parametrize("text", ["", " \n"])
def test_an_answer_that_says_nothing_is_empty_however_sure(text: str) -> None:
    judged = judge(call())
    say(judged, (text, 1.0), ended=True)
    assert found(judged) == (1.0, Doubt.EMPTY)


def test_a_beginning_that_says_nothing_yet_is_not_empty() -> None:
    judged = judge(call(stream=True), hold_tokens=2)
    say(judged, ("", 1.0), ("\n", 1.0), ("a", 1.0))
    assert found(judged) == (1.0, None)


def test_without_logprobs_no_confidence_is_stated() -> None:
    judged = judge(call())
    judged.hear(Heard(0, "Oslo", 1, (), True))
    assert found(judged) == (None, Doubt.UNSTATED)


def test_the_threshold_itself_will_do() -> None:
    for threshold, doubt in ((0.5, None), (0.51, Doubt.LOW), (0.0, None)):
        judged = judge(call(), threshold=threshold)
        judged.hear(Heard(0, "a", 1, [[math.log(0.5)]], True))
        assert found(judged)[1] is doubt


def test_a_calibration_counts_before_the_threshold() -> None:
    config = EscalationConfig(statistic="minimum", window=1)
    for stream in (False, True):
        judged = judge_for(config, call(stream), calibrate=lambda confidence: confidence / 2)
        assert judged is not None
        say(judged, ("a", 0.9))
        assert found(judged) == (0.45, Doubt.LOW)


def test_beam_search_is_not_judged() -> None:
    for estimator in ("logprob", "structured"):
        assert judge_for(EscalationConfig.model_validate({"estimator": estimator}), call(use_beam_search=True)) is None


# Structured.


def form(content: str, confidence: str = "0.90", position: str = "first") -> str:
    if position == "first":
        return FORM % confidence + content + "}"
    return f'{{"content": {content}, "confidence": {confidence}}}'


def hear(judge: Judge, text: str, size: int = 3, ended: bool = True) -> None:
    """In tokens of so many characters."""
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    for number, piece in enumerate(pieces, 1):
        judge.hear(Heard(0, piece, 1, (), ended and number == len(pieces)))


def body(content: str, finish_reason: str = "stop") -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": finish_reason}
    return json.dumps({"id": "i", "choices": [choice]}).encode()


def event(content: str | None = None, finish_reason: str | None = None, **delta: Any) -> bytes:
    choice = {"index": 0, "delta": ({} if content is None else {"content": content}) | delta}
    return b"data: " + json.dumps({"choices": [choice | {"finish_reason": finish_reason}]}).encode() + b"\n\n"


def told(judge: Judge, whole: str) -> tuple[str, str]:
    """Content and finish reason that the caller gets."""
    (choice,) = json.loads(judge.body(body(whole)))["choices"]
    return choice["message"]["content"], choice["finish_reason"]


@pytest.mark.parametrize("position", ["first", "last"])
@pytest.mark.parametrize("stated", ["0.90", "0.10"])
def test_what_is_stated_counts_and_the_content_is_what_the_caller_gets(position: str, stated: str) -> None:
    judged = judge(call(), estimator="structured", position=position)
    whole = form('"Os\\u006co 😀"', stated, position)
    hear(judged, whole)
    judged.end()
    assert found(judged) == (float(stated), Doubt.LOW if stated == "0.10" else None)
    assert judged.content_stands
    assert told(judged, whole) == ("Oslo 😀", "stop")


def test_with_the_confidence_first_it_is_found_at_the_content_s_first_character() -> None:
    judged = judge(call(), estimator="structured")
    hear(judged, FORM % "0.10" + '" ', size=1, ended=False)
    assert judged.finding is None
    hear(judged, "O", ended=False)
    assert found(judged) == (0.1, Doubt.LOW)


@pytest.mark.parametrize("position", ["first", "last"])
@pytest.mark.parametrize(
    ("whole", "doubt", "stands"),
    [
        (form('""'), Doubt.EMPTY, False),
        (form('" "'), Doubt.EMPTY, True),
        (form('"a"', "1.50"), Doubt.UNSTATED, True),
        ("Oslo", Doubt.UNREADABLE, False),
        ("x" * 100, Doubt.UNREADABLE, False),
        (FORM % "0.50", Doubt.UNREADABLE, False),
    ],
)
def test_what_will_not_do_and_what_can_be_served_all_the_same(
    position: str, whole: str, doubt: Doubt, stands: bool
) -> None:
    judged = judge(call(), estimator="structured", position=position)
    hear(judged, whole)
    judged.end()
    assert judged.finding is not None
    assert (judged.finding.doubt, judged.content_stands) == (doubt, stands)


def test_json_that_never_came_to_its_content_can_t_be_served() -> None:
    judged = judge(call(response_format={"type": "json_object"}), estimator="structured")
    hear(judged, '{"confidence": 0.9')
    judged.end()
    assert judged.finding == Finding(None, Doubt.UNREADABLE)
    assert not judged.content_stands


@pytest.mark.parametrize("position", ["first", "last"])
@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_content_beyond_the_caller_s_limit_is_cut_and_said_to_be(position: str, field: str) -> None:
    """What the form takes is not the caller's; what it leaves of the room made for it is not either."""
    for limit, finish in ((3, "length"), (5, "stop"), (9, "stop")):
        judged = judge(call(**{field: limit}), estimator="structured", position=position)
        assert judged.call.body[field] > limit
        before, after = form("|", "0.90", position).split("|")
        for number, piece in enumerate(pieces := [before + '"', "a", "b", "c", "d", "e", '"', after], 1):
            judged.hear(Heard(0, piece, 1, (), number == len(pieces)))
        judged.end()
        assert told(judged, "") == ("abcde"[:limit], finish)


def test_a_stream_s_events_carry_the_content_as_it_comes_and_nothing_of_the_form() -> None:
    judged = judge(call(stream=True), estimator="structured")
    got = [judged.event(event("", role="assistant"))]
    for piece in (FORM % "0.90", '"a\\', "u00e4b", '"', "}"):
        judged.hear(Heard(0, piece, 1, (), piece == "}"))
        got.append(judged.event(event(piece, "stop" if piece == "}" else None)))
    got += [judged.event(b"data: [DONE]\n\n"), judged.event(b'data: {"error": {}}\n\n')]
    deltas = [one and one.startswith(b'data: {"choices"') and json.loads(one[6:])["choices"][0] for one in got]
    assert [delta and delta["delta"].get("content") for delta in deltas[:7]] == ["", None, "a", "äb", None, "", False]
    assert deltas[0]["delta"]["role"] == "assistant"
    assert deltas[5]["finish_reason"] == "stop"
    assert got[6] == b"data: [DONE]\n\n" and b"error" in (got[7] or b"")


def test_a_stream_that_is_judged_at_its_end_comes_at_once() -> None:
    judged = judge(call(stream=True), estimator="structured", position="last")
    whole = form('"Oslo"', "0.90", "last")
    hear(judged, whole)
    judged.end()
    got = [judged.event(event("", role="assistant")), judged.event(event(whole)), judged.event(event("", "stop"))]
    contents = [json.loads(one[6:])["choices"][0]["delta"].get("content") for one in got if one]
    assert "".join(contents) == "Oslo"


SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


@pytest.mark.parametrize(
    "asked",
    [
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}},
        {"structured_outputs": {"json": SCHEMA}},
        {"structured_outputs": {"json": json.dumps(SCHEMA), "regex": None}},
    ],
    ids=str,
)
def test_the_caller_s_schema_is_nested_and_its_json_comes_back_verbatim(asked: dict[str, Any]) -> None:
    judged = judge(call(**asked), estimator="structured")
    assert "response_format" not in judged.call.body
    (tag,) = judged.call.body["structured_outputs"].values()
    assert SCHEMA in [element.get("json_schema") for element in json.loads(tag)["format"]["elements"]]
    whole = form('{ "a": {"b": "}"}}')
    hear(judged, whole)
    assert told(judged, whole)[0] == '{ "a": {"b": "}"}}'


UNFIT: list[dict[str, Any]] = [
    {"tools": [{}]},
    {"n": 2},
    {"logprobs": True},
    {"prompt_logprobs": 1},
    {"stop": ["a"]},
    {"stop": "a"},
    {"stop_token_ids": [1]},
    {"echo": True},
    {"continue_final_message": True},
    {"ignore_eos": True},
    {"min_tokens": 3},
    {"return_token_ids": True},
    {"chat_template": "x"},
    {"reasoning_effort": "low"},
    {"allowed_token_ids": [5]},
    {"bad_words": ["a"]},
    {"logit_bias": {"5": -100}},
    {"truncate_prompt_tokens": 5},
    {"structured_outputs": {"choice": ["a"]}},
    {"structured_outputs": {"regex": "a"}},
    {"structured_outputs": {"json": "{no json"}},
    {"structured_outputs": "x"},
    {"response_format": {"type": "structural_tag"}},
    {"response_format": {"type": "json_schema"}},
    {"response_format": "json"},
    {"max_tokens": "5"},
    {"n": "2"},
]


@pytest.mark.parametrize("unfit", UNFIT, ids=str)
def test_what_can_t_be_said_in_the_form_is_judged_by_its_logprobs_uncalibrated(unfit: dict[str, Any]) -> None:
    """What is wrong with it, where anything is, is the tier's to say."""
    asked = call(**unfit)
    judged = judge_for(EscalationConfig(estimator="structured"), asked, lambda confidence: 0.0)
    assert isinstance(judged, LogprobJudge)
    assert judged.call is asked
    assert judged._calibrated(0.5) == 0.5


def test_a_completion_is_too() -> None:
    judged = judge_for(EscalationConfig(estimator="structured"), call(kind=Kind.COMPLETION))
    assert isinstance(judged, LogprobJudge)


@pytest.mark.parametrize(
    "fit",
    [{}, {"n": 1}, {"stop": []}, {"tools": None}, {"logprobs": False}, {"response_format": {"type": "text"}}],
    ids=str,
)
def test_fields_that_ask_for_nothing_fit(fit: dict[str, Any]) -> None:
    asked = call(**fit)
    judged = judge(asked, estimator="structured")
    assert isinstance(judged, StructuredJudge)
    assert asked.body == {"messages": MESSAGES} | fit, "the caller's body was written into"
