"""Answers judged by the running node: what the caller gets, is told, and what it cost. Everything goes small first."""

import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import openai
import pytest
from node import Node

from tests.server.test_node import HARD, WEATHER, said

pytestmark = pytest.mark.engine

SURE = "The lamp is red. The phone ships to Oslo. Where does the phone ship to?"
# vLLM's logprobs are those before the temperature counts: what is sampled so is improbable. `seed` makes it repeatable.
WILD: dict[str, Any] = {"temperature": 2.0, "seed": 3}
TREE = {
    "$defs": {
        "place": {
            "type": "object",
            "properties": {
                "name": {"enum": ["Oslo", '漢字 "😀"']},
                "within": {"anyOf": [{"$ref": "#/$defs/place"}, {"type": "null"}]},
            },
            "required": ["name", "within"],
            "additionalProperties": False,
        }
    },
    "$ref": "#/$defs/place",
}


@pytest.fixture(scope="module")
def judging(lab: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """Structured; what can't be said so is judged by its logprobs."""
    config = lab | {
        "router": lab["router"] | {"threshold": 10.0},
        "escalation": {"estimator": "structured", "budget": None},
    }
    with Node(config, tmp_path_factory.mktemp("judging")) as running:
        yield running.wait_until_ready()


@pytest.fixture(scope="module")
def judged(judging: Node) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{judging.url}/v1", api_key="unused", max_retries=0, timeout=120) as client:
        yield client


class Got:
    """An answer with its headers, streamed or not."""

    def __init__(self, client: openai.OpenAI, stream: bool, prompt: str, **options: Any) -> None:
        options = {"model": "auto", "messages": said(prompt), "temperature": 0} | options
        if stream:
            options |= {"stream": True, "stream_options": {"include_usage": True}}
        raw = client.chat.completions.with_raw_response.create(**options)
        self.headers = {
            name: raw.headers[f"x-tierserve-{name}"] for name in ("tier", "cause", "confidence", "escalated")
        }
        self.id = raw.headers["x-request-id"]
        if not stream:
            answer = raw.parse()
            (choice,) = answer.choices
            self.text, self.finish, self.usage = choice.message.content or "", choice.finish_reason, answer.usage
            self.model, self.answer_id = answer.model, answer.id
            return
        events = list(raw.parse())
        self.pieces = [event.choices[0].delta.content or "" for event in events if event.choices]
        self.text = "".join(self.pieces)
        (self.model,), (self.answer_id,) = {event.model for event in events}, {event.id for event in events}
        (self.finish,) = [e.choices[0].finish_reason for e in events if e.choices and e.choices[0].finish_reason]
        self.usage = events[-1].usage


STREAMED = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


@STREAMED
def test_an_answer_that_is_sure_is_the_small_tier_s(judged: openai.OpenAI, stream: bool) -> None:
    got = Got(judged, stream, SURE)
    assert (got.text, got.finish, got.model) == ("Oslo", "stop", "lab-small")
    assert got.headers["tier"] == "lab-small" and got.headers["escalated"] == "false"
    assert got.headers["cause"] in ("score", "cache")
    assert 0.7 <= float(got.headers["confidence"]) <= 1
    assert got.id in got.answer_id
    assert got.usage is not None and got.usage.completion_tokens > 0


@STREAMED
def test_an_answer_that_is_doubted_comes_from_the_large_tier_as_if_it_alone_had_been_asked(
    judged: openai.OpenAI, stream: bool
) -> None:
    got, alone = Got(judged, stream, HARD), Got(judged, stream, HARD, model="lab-large")
    assert (got.text, got.finish, got.usage) == (alone.text, alone.finish, alone.usage)
    assert got.model == got.headers["tier"] == "lab-large"
    assert (got.headers["cause"], got.headers["escalated"]) == ("escalation", "true")
    assert float(got.headers["confidence"]) < 0.7
    assert alone.headers["confidence"] == "none"
    assert got.id in got.answer_id


def test_a_tier_that_was_asked_for_by_name_is_not_judged(judged: openai.OpenAI) -> None:
    got = Got(judged, False, HARD, model="lab-small")
    assert (got.model, got.headers["escalated"], got.headers["confidence"]) == ("lab-small", "false", "none")
    assert "confidence" not in got.text


@STREAMED
@pytest.mark.parametrize("prompt", [SURE, HARD])
def test_the_caller_s_schema_with_references_is_kept_to(judged: openai.OpenAI, prompt: str, stream: bool) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "place", "schema": TREE, "strict": True}}
    got = Got(judged, stream, prompt, response_format=form, max_tokens=400)
    if got.finish == "stop":
        jsonschema.validate(json.loads(got.text), TREE)
    assert got.text.startswith("{") and '"confidence"' not in got.text
    assert got.headers["confidence"] != "none"


@STREAMED
def test_characters_of_several_bytes_come_whole(judged: openai.OpenAI, stream: bool) -> None:
    text = '漢字 😀 Häß \\ "q"'
    for options in (
        {"structured_outputs": {"json": {"const": text}}},
        {"structured_outputs": {"choice": [text]}},
    ):
        got = Got(judged, stream, SURE, extra_body=options, max_tokens=200)
        assert got.text in (text, json.dumps(text, ensure_ascii=False), json.dumps(text))
        assert got.finish == "stop"


@STREAMED
def test_an_output_limit_is_the_content_s(judged: openai.OpenAI, stream: bool) -> None:
    """Of a content that can't be short."""
    schema = {"type": "string", "pattern": "^(abc ){40}$"}
    for limit in (1, 5):
        got = Got(judged, stream, SURE, extra_body={"structured_outputs": {"json": schema}}, max_tokens=limit)
        assert got.finish == "length"
        assert len(got.text) <= 1 + 4 * limit
        assert json.dumps("abc " * 40).startswith(got.text)


@STREAMED
def test_several_choices_are_judged_by_the_worst_and_all_come_from_one_tier(
    judged: openai.OpenAI, stream: bool
) -> None:
    for options, tier in (({"temperature": 0.1}, "lab-small"), (WILD, "lab-large")):
        raw = judged.chat.completions.with_raw_response.create(
            model="auto", messages=said(SURE), n=3, max_tokens=12, stream=stream, **options
        )
        parsed = raw.parse()
        answers = list(parsed) if stream else [parsed]
        assert {choice.index for answer in answers for choice in answer.choices} == {0, 1, 2}
        assert {answer.model for answer in answers} == {raw.headers["x-tierserve-tier"]} == {tier}
        assert (raw.headers["x-tierserve-escalated"] == "true") == (tier == "lab-large")


@STREAMED
def test_a_tool_s_call_is_judged_by_its_logprobs(judged: openai.OpenAI, stream: bool) -> None:
    raw = judged.chat.completions.with_raw_response.create(
        model="auto",
        messages=said("weather?"),
        tools=[WEATHER],
        tool_choice="required",
        parallel_tool_calls=False,
        max_tokens=64,
        stream=stream,
    )
    parsed = raw.parse()
    messages = [e.choices[0].delta for e in parsed if e.choices] if stream else [parsed.choices[0].message]
    arguments = "".join(
        call.function.arguments or "" for message in messages for call in message.tool_calls or [] if call.function
    )
    assert json.loads(arguments)["city"] in ("Oslo", "Rome")
    assert 0 <= float(raw.headers["x-tierserve-confidence"]) <= 1


def test_logprobs_that_were_asked_for_come_as_asked_for(judged: openai.OpenAI) -> None:
    options: dict[str, Any] = {"messages": said(SURE), "temperature": 0, "logprobs": True, "top_logprobs": 2}
    ours = judged.chat.completions.create(model="auto", **options)
    assert ours.model == "lab-small"
    alone = judged.chat.completions.create(model="lab-small", **options)
    assert ours.choices[0].logprobs is not None and alone.choices[0].logprobs is not None

    def shown(answer: Any) -> Any:
        return [
            (token.token, [top.token for top in token.top_logprobs]) for token in answer.choices[0].logprobs.content
        ]

    assert shown(ours) == shown(alone)
    assert judged.chat.completions.create(model="auto", messages=said(SURE), n=2).choices[0].logprobs is None


def test_a_schema_that_only_the_form_makes_too_large_is_kept_to(judged: openai.OpenAI) -> None:
    """Each quote in it is escaped again inside the form. What is judged then is the plain answer's logprobs."""
    schema = {"enum": ['"' * 20_000, "Oslo"]}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    got = Got(judged, False, SURE, response_format=form, max_tokens=16)
    assert json.loads(got.text) == "Oslo" if got.finish == "stop" else got.text.startswith('"')
    assert got.headers["confidence"] != "none"


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "array", "items": {"enum": [1, 2]}, "minItems": 2, "maxItems": 2, "uniqueItems": True},
        {"allOf": [{"type": "string"}, {"enum": ["yes", "no"]}]},
    ],
    ids=["unique", "all-of"],
)
def test_a_schema_that_can_t_be_kept_to_is_refused_and_not_kept_to_in_part(judged: openai.OpenAI, schema: Any) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    for model in ("lab-small", "auto"):
        with pytest.raises(openai.BadRequestError, match="not supported by xgrammar"):
            Got(judged, False, SURE, model=model, response_format=form, max_tokens=16)


def test_what_is_wrong_with_a_schema_is_still_a_400(judged: openai.OpenAI) -> None:
    for options in ({"json": "{no json"}, {"json": {"type": "wat"}}, {"regex": "("}):
        with pytest.raises(openai.BadRequestError):
            Got(judged, False, SURE, extra_body={"structured_outputs": options}, max_tokens=4)


def test_metrics_and_the_log_say_how_it_was_judged(judged: openai.OpenAI, judging: Node) -> None:
    series = (
        "tierserve_confidence_count",
        'tierserve_escalations_total{doubt="low"}',
        'tierserve_held_seconds_count{committed="true"}',
        'tierserve_held_seconds_count{committed="false"}',
        'tierserve_wasted_tokens_total{direction="prompt"}',
        'tierserve_wasted_tokens_total{direction="completion"}',
    )
    before = [judging.metric(one) for one in series]
    small, large = Got(judged, False, SURE), Got(judged, True, HARD)
    counted = [judging.metric(one) - was for one, was in zip(series, before, strict=True)]
    assert counted[:4] == [2, 1, 1, 1]
    records = {record.get("request_id"): record for record in judging.log}
    kept, doubted = records[small.id], records[large.id]
    assert (kept["escalated"], kept["doubt"], kept["wasted_completion_tokens"]) == (False, None, 0)
    assert (doubted["escalated"], doubted["doubt"], doubted["cause"]) == (True, "low", "escalation")
    assert [doubted["wasted_prompt_tokens"], doubted["wasted_completion_tokens"]] == counted[4:]
    assert doubted["wasted_prompt_tokens"] > 20 and doubted["wasted_completion_tokens"] > 5
    assert 0 < doubted["held_s"] <= doubted["first_byte_s"]
    assert kept["confidence"] == pytest.approx(float(small.headers["confidence"]))


def test_a_doubted_answer_s_slot_is_free_long_before_it_would_have_ended(judged: openai.OpenAI, judging: Node) -> None:
    series = "vllm:generation_tokens_total"
    before = judging.metric(series, "lab-small")
    minimum = {"extra_body": {"ignore_eos": True}, "max_tokens": 1200, **WILD}
    raw = judged.chat.completions.with_raw_response.create(model="auto", messages=said(SURE), stream=True, **minimum)
    assert raw.headers["x-tierserve-escalated"] == "true"
    judging.wait_for(lambda: not judging.metric("vllm:num_requests_running", "lab-small"), "the slot to be free", 30)
    raw.http_response.close()
    assert judging.metric(series, "lab-small") - before < 600
    judging.wait_for(lambda: not judging.metric("vllm:num_requests_running"), "the other to be free", 30)


def test_the_default_estimator_judges_too(client: openai.OpenAI) -> None:
    for stream in (False, True):
        got = Got(client, stream, SURE)
        assert (got.text, got.model, got.headers["escalated"]) == ("Oslo", "lab-small", "false")
        assert 0.7 <= float(got.headers["confidence"]) <= 1
        got = Got(client, stream, SURE, max_tokens=30, **WILD)
        assert got.headers["cause"] in ("escalation", "budget")
        assert (got.model == "lab-large") == (got.headers["escalated"] == "true")
