"""The running node, driven by the openai SDK over HTTP: two real engines, nothing scripted."""

import json
import threading
import time
import urllib.error
import urllib.request
from typing import Any

import openai
import pytest
from node import Node

from tests.conftest import ROOT
from tierserve.config import load

pytestmark = pytest.mark.engine

SIMPLE = "What is Python?"
HARD = "Shift XCIQB by 3 in the alphabet."
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Oslo", "Rome"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


def said(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


def post(node: Node, path: str, body: bytes, headers: dict[str, str] | None = None) -> tuple[int, Any, Any]:
    """Bytes as they stand, which the SDK would not send: status, headers, body."""
    request = urllib.request.Request(f"{node.url}{path}", body, {"content-type": "application/json"} | (headers or {}))
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, response.headers, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, json.load(error)


@pytest.mark.parametrize(("prompt", "tier"), [(SIMPLE, "lab-small"), (HARD, "lab-large")])
def test_a_prompt_is_routed_by_its_score(client: openai.OpenAI, prompt: str, tier: str) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model="auto", messages=said(prompt), max_tokens=8, temperature=0
    )
    answer = raw.parse()
    assert answer.model == raw.headers["x-tierserve-tier"] == tier
    assert (float(raw.headers["x-tierserve-score"]) <= 4) == (tier == "lab-small")
    assert raw.headers["x-tierserve-cause"] in ("score", "cache", "assessed")
    assert raw.headers["x-tierserve-escalated"] == "false"
    assert raw.headers["x-request-id"] in answer.id
    assert answer.usage is not None
    assert answer.usage.prompt_tokens > 0
    assert 0 < answer.usage.completion_tokens <= 8


@pytest.mark.parametrize(
    ("number", "tier", "right"), [(0, "lab-small", "billing"), (1, "lab-small", "Oslo"), (2, "lab-large", "ZEK")]
)
def test_the_demo_s_examples_are_answered_right_by_the_smallest_that_will_do(
    client: openai.OpenAI, number: int, tier: str, right: str
) -> None:
    example = load(ROOT / "configs" / "lab.yaml").server.examples[number]
    answer = client.chat.completions.create(model="auto", messages=said(example), temperature=0)
    assert (answer.model, answer.choices[0].message.content) == (tier, right)


@pytest.mark.parametrize("model", ["lab-small", "lab-large"])
def test_a_tier_s_name_goes_straight_to_it(client: openai.OpenAI, model: str) -> None:
    raw = client.chat.completions.with_raw_response.create(model=model, messages=said(SIMPLE), max_tokens=4)
    assert raw.parse().model == model
    assert raw.headers["x-tierserve-cause"] == "model"
    assert raw.headers["x-tierserve-score"] == "none"


@pytest.mark.parametrize("tier", ["lab-large", "large"])
def test_a_header_forces_the_tier(client: openai.OpenAI, tier: str) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model="lab-small", messages=said(SIMPLE), max_tokens=4, extra_headers={"x-tierserve-tier": tier}
    )
    assert raw.parse().model == "lab-large"
    assert raw.headers["x-tierserve-cause"] == "header"


def test_a_stream_is_the_whole_answer_in_pieces(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {"model": "lab-large", "messages": said(SIMPLE), "max_tokens": 24, "temperature": 0}
    whole = client.chat.completions.create(**options)
    raw = client.chat.completions.with_raw_response.create(
        **options, stream=True, stream_options={"include_usage": True}
    )
    assert raw.headers["x-tierserve-tier"] == "lab-large"
    events = list(raw.parse())
    assert "".join(e.choices[0].delta.content or "" for e in events if e.choices) == whole.choices[0].message.content
    assert {event.model for event in events} == {"lab-large"}
    assert len({event.id for event in events}) == 1
    assert [e.choices[0].finish_reason for e in events if e.choices and e.choices[0].finish_reason] == [
        whole.choices[0].finish_reason
    ]
    assert events[-1].usage == whole.usage


def test_usage_is_not_streamed_to_who_did_not_ask(client: openai.OpenAI) -> None:
    events = list(client.chat.completions.create(model="auto", messages=said(SIMPLE), max_tokens=4, stream=True))
    assert all(event.usage is None and event.choices for event in events)


def test_two_choices_are_two(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="lab-large", messages=said(SIMPLE), max_tokens=12, n=2, temperature=2.0, seed=7
    )
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert answer.choices[0].message.content != answer.choices[1].message.content


def test_a_seed_repeats_an_answer(client: openai.OpenAI) -> None:
    def answer(seed: int) -> str | None:
        options: dict[str, Any] = {"model": "lab-large", "messages": said(SIMPLE), "max_tokens": 16, "temperature": 2.0}
        return client.chat.completions.create(**options, seed=seed).choices[0].message.content

    assert answer(1) == answer(1)
    assert answer(1) != answer(2)


def test_logprobs_come_with_each_token(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="auto", messages=said(SIMPLE), max_completion_tokens=5, logprobs=True, top_logprobs=3
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None and logprobs.content is not None
    assert answer.usage is not None
    assert len(logprobs.content) == answer.usage.completion_tokens <= 5
    assert all(token.logprob <= 0 and len(token.top_logprobs) >= 3 for token in logprobs.content)


def test_a_stop_text_ends_the_answer(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {"model": "lab-large", "messages": said(HARD), "max_tokens": 30, "temperature": 0}
    whole = client.chat.completions.create(**options).choices[0].message.content or ""
    assert len(whole) > 4
    stop = whole[2:4]
    answer = client.chat.completions.create(**options, stop=[stop]).choices[0]
    assert answer.message.content == whole[: whole.index(stop)]
    assert answer.finish_reason == "stop"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
@pytest.mark.parametrize("model", ["lab-small", "lab-large"])
def test_a_tool_that_must_be_called_is_called(client: openai.OpenAI, model: str, choice: Any, stream: bool) -> None:
    options: dict[str, Any] = {
        "model": model,
        "messages": said("weather?"),
        "tools": [WEATHER],
        "tool_choice": choice,
        "parallel_tool_calls": False,
        "max_tokens": 64,
    }
    if stream:
        events = list(client.chat.completions.create(**options, stream=True))
        pieces = [c for e in events if e.choices for c in e.choices[0].delta.tool_calls or []]
        name = "".join(piece.function.name or "" for piece in pieces if piece.function)
        arguments = "".join(piece.function.arguments or "" for piece in pieces if piece.function)
    else:
        (call,) = client.chat.completions.create(**options).choices[0].message.tool_calls or []
        assert call.type == "function"
        name, arguments = call.function.name, call.function.arguments
    assert name == "get_weather"
    assert json.loads(arguments)["city"] in ("Oslo", "Rome")


def test_a_tool_that_may_be_called_need_not_be(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {"model": "auto", "messages": said("weather?"), "tools": [WEATHER], "max_tokens": 24}
    for choice in ("auto", "none"):
        message = client.chat.completions.create(**options, tool_choice=choice).choices[0].message
        assert message.content or message.tool_calls
        assert choice == "auto" or not message.tool_calls


def test_a_tool_s_result_can_be_answered(client: openai.OpenAI) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Oslo"}'}}
    messages = [
        *said("weather?"),
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "rain"},
    ]
    answer = client.chat.completions.create(model="auto", messages=messages, tools=[WEATHER], max_tokens=4)  # type: ignore[call-overload]
    assert answer.usage.completion_tokens > 0


@pytest.mark.parametrize("model", ["lab-small", "lab-large"])
def test_a_json_schema_is_kept_to(client: openai.OpenAI, model: str) -> None:
    schema = {
        "type": "object",
        "properties": {"kind": {"enum": ["bug", "question"]}, "urgent": {"type": "boolean"}},
        "required": ["kind", "urgent"],
        "additionalProperties": False,
    }
    answer = client.chat.completions.create(
        model=model,
        messages=said("My login fails!"),
        max_tokens=64,
        response_format={"type": "json_schema", "json_schema": {"name": "ticket", "schema": schema, "strict": True}},
    )
    assert answer.choices[0].finish_reason == "stop"
    ticket = json.loads(answer.choices[0].message.content or "")
    assert set(ticket) == {"kind", "urgent"}
    assert ticket["kind"] in ("bug", "question")


def test_a_json_object_is_json_as_far_as_it_goes(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="auto", messages=said(SIMPLE), max_tokens=32, response_format={"type": "json_object"}
    )
    assert (answer.choices[0].message.content or "").startswith("{")


def test_completions_take_several_prompts(client: openai.OpenAI) -> None:
    raw = client.completions.with_raw_response.create(model="auto", prompt=["a", HARD], max_tokens=4)
    answer = raw.parse()
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert answer.model == raw.headers["x-tierserve-tier"] == "lab-large", "the hardest of them decides"
    streamed = client.completions.create(model="lab-small", prompt="a", max_tokens=4, stream=True)
    assert {event.model for event in streamed} == {"lab-small"}
    tokens = client.completions.create(model="lab-small", prompt=[[1, 40, 41], [1, 42]], max_tokens=2)
    assert len(tokens.choices) == 2


def test_a_prompt_beyond_the_small_tier_s_context_goes_large(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {
        "model": "auto",
        "messages": [{"role": "system", "content": "a b c d e " * 700}, *said(SIMPLE)],
        "max_tokens": 2,
    }
    raw = client.chat.completions.with_raw_response.create(**options)
    assert raw.parse().usage.prompt_tokens > 2048  # type: ignore[union-attr]
    assert raw.headers["x-tierserve-tier"] == "lab-large"
    assert raw.headers["x-tierserve-cause"] == "context"
    assert float(raw.headers["x-tierserve-score"]) <= 4, "by its score it would have gone small"


def test_output_beyond_the_small_tier_s_context_goes_large(client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model="auto", messages=said(SIMPLE), max_tokens=3000, stop=list("aeit"), stream=True
    )
    raw.http_response.close()
    assert raw.headers["x-tierserve-tier"] == "lab-large"
    assert raw.headers["x-tierserve-cause"] == "context"


def test_the_sdk_lists_the_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["auto", "lab-small", "lab-large"]
    assert client.models.retrieve("lab-small").model_dump()["max_model_len"] == 2048


def test_route_answers_with_the_decision_alone(node: Node) -> None:
    status, headers, body = post(node, "/v1/route", json.dumps({"messages": said(HARD)}).encode())
    assert status == 200
    assert (body["tier"], body["role"], body["threshold"]) == ("lab-large", "large", 4.0)
    assert 4 < body["score"] <= 10
    assert body["cause"] in ("score", "cache", "assessed")
    assert headers["x-request-id"]


def test_health_ready_and_metrics(node: Node, client: openai.OpenAI) -> None:
    def get(path: str) -> str:
        with urllib.request.urlopen(node.url + path, timeout=30) as response:
            assert response.status == 200
            return str(response.read().decode())

    assert json.loads(get("/health"))["status"] == "alive"
    assert json.loads(get("/ready"))["tiers"] == {"lab-small": {"state": "ready"}, "lab-large": {"state": "ready"}}
    before = node.metric('tierserve_requests_total{cause="model",status="ok",tier="lab-small"}')
    client.chat.completions.create(model="lab-small", messages=said(SIMPLE), max_tokens=4)
    assert node.metric('tierserve_requests_total{cause="model",status="ok",tier="lab-small"}') == before + 1
    for tier in ("lab-small", "lab-large"):
        assert any(
            line.startswith("vllm:generation_tokens_total") and f'model_name="{tier}"' in line
            for line in get("/metrics").splitlines()
        ), f"{tier}'s engine has no metrics"


def test_what_waits_for_a_place_in_the_batch_is_counted(node: Node) -> None:
    """configs/lab.yaml gives a batch 64 places."""
    body = {"model": "lab-small", "messages": said(SIMPLE), "n": 80, "max_tokens": 500, "ignore_eos": True}
    asking = threading.Thread(target=post, args=(node, "/v1/chat/completions", json.dumps(body).encode()))
    asking.start()
    series = 'tierserve_tier_waiting{tier="lab-small"}'
    node.wait_for(lambda: node.metric(series) == 16, "16 to wait")
    asking.join()
    assert node.metric(series) == 0


@pytest.mark.parametrize("session", [None, "a-session"])
def test_a_conversation_stays_with_its_tier(client: openai.OpenAI, session: str | None) -> None:
    messages = said(HARD)
    for expected in (("score", "cache", "assessed"), ("follow_up",)):
        raw = client.chat.completions.with_raw_response.create(
            model="auto", messages=messages, max_tokens=4, extra_headers={"x-session-id": session} if session else {}
        )
        assert raw.headers["x-tierserve-tier"] == "lab-large"
        assert raw.headers["x-tierserve-cause"] in expected
        messages = [*messages, {"role": "assistant", "content": "Well."}, *said("thanks")]


BAD = [
    (b"", "the body is not valid JSON"),
    (b"{", "the body is not valid JSON"),
    (b'{"messages": NaN}', "the body is not valid JSON"),
    (b"[]", "the body must be a JSON object"),
    (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', "the body is not valid JSON"),
    ({"messages": []}, "messages"),
    ({"messages": said("")}, "empty"),
    ({"max_tokens": 5000}, "max_tokens=5000 cannot be greater"),
    ({"max_tokens": 4090}, "of output exceed the maximum context length of 4096 tokens: ask for at most"),
    ({"max_tokens": 10**30}, "max_tokens"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": -1}, "max_tokens"),
    ({"max_tokens": "many"}, "max_tokens"),
    ({"max_tokens": "3"}, "`max_tokens` must be a number"),
    ({"max_tokens": True}, "`max_tokens` must be a number"),
    ({"max_completion_tokens": 4090}, "of output exceed the maximum context length"),
    ({"n": "2"}, "`n` must be a number"),
    ({"top_k": 10**30}, "out of range"),
    ({"temperature": 1e-30}, "`temperature` must be 0 or at least"),
    ({"logit_bias": {"5": 1e9}}, "`logit_bias` must lie within"),
    ({"priority": 5}, "`priority` is not supported"),
    ({"structured_outputs": {"choice": [f"c{n}" for n in range(20_000)]}}, "take too long to compile"),
    ({"structured_outputs": {"grammar": "root ::= root"}}, "grammar"),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"$ref": "#"}}}}, ""),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "zzz": 1, "schema": {}}}}, "zzz"),
    ({"messages": [{"role": "user", "content": "a", "prefix": True}]}, "unknown field `messages.0.prefix`"),
    ({"messages": said([{"type": "text", "text": "a", "zzz": 1}])}, "unknown field `messages.0.content.0.zzz`"),
    ({"echo": 1}, "`echo` must be true or false"),
    (b'{"messages": [{"role": "user", "content": "a"}], "temperature": 1e999}', "`temperature` is out of range"),
    ({"messages": said("word " * 5000)}, "maximum context length"),
    ({"temperature": "hot"}, "temperature"),
    ({"temperature": -1}, "temperature"),
    ({"top_p": 2}, "top_p"),
    ({"n": 0}, "n"),
    ({"n": 10**9}, "n"),
    ({"stop": 5}, "stop"),
    ({"seed": "a"}, "seed"),
    ({"seed": 2**80}, "seed"),
    ({"logprobs": True, "top_logprobs": 10**6}, "logprobs"),
    ({"top_logprobs": 3}, "logprobs"),
    ({"stream_options": {"include_usage": True}}, "stream"),
    ({"stream": True, "stream_options": {"include_usages": True}}, "stream_options.include_usages"),
    ({"response_format": {"type": "yaml"}}, "response_format"),
    ({"response_format": {"type": "json_schema"}}, "json_schema"),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "wat"}}}}, ""),
    ({"tools": [{"type": "function"}]}, "tools"),
    ({"tool_choice": "required"}, "tool"),
    ({"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "other"}}}, "tool"),
    ({"logit_bias": {"not a token": 1}}, "logit_bias"),
    ({"logit_bias": {"99999999": 1}}, ""),
    ({"temprature": 1}, "unknown field `temprature`"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "text only"),
]


@pytest.mark.parametrize("path", ["auto", "lab-large"])
@pytest.mark.parametrize(("body", "message"), BAD, ids=lambda value: str(value)[:50])
def test_bad_input_is_a_4xx_that_says_what_to_change(node: Node, body: Any, message: str, path: str) -> None:
    if isinstance(body, dict):
        body = json.dumps({"model": path, "messages": said(SIMPLE), "max_tokens": 4} | body).encode()
    status, headers, answer = post(node, "/v1/chat/completions", body)
    assert 400 <= status < 500, answer
    assert message in answer["error"]["message"], answer
    assert answer["error"]["type"] == "invalid_request_error"
    assert headers["x-request-id"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"prompt": ""}, "empty"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [1, 2]}, "token ids can't be routed"),
        ({"prompt": [10**9], "model": "lab-small"}, ""),
        ({"prompt": "a", "max_tokens": 10**5}, "max_tokens"),
        ({"prompt": "a", "max_tokens": 4095}, "ask for at most 4094"),
        ({"prompt": "a", "suffix": "b"}, "suffix"),
        ({"prompt": "a", "best_of": "x"}, "best_of"),
    ],
    ids=str,
)
def test_so_it_is_on_completions(node: Node, body: dict[str, Any], message: str) -> None:
    status, _, answer = post(node, "/v1/completions", json.dumps({"max_tokens": 2} | body).encode())
    assert 400 <= status < 500, answer
    assert message in answer["error"]["message"], answer


def test_an_unknown_model_is_a_404_in_openai_s_form(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as raised:
        client.chat.completions.create(model="gpt-4", messages=said(SIMPLE))
    assert raised.value.code == "model_not_found"
    assert "`auto`, `lab-small`, `lab-large`" in raised.value.message


def test_too_large_a_body_is_a_413(node: Node) -> None:
    status, _, answer = post(node, "/v1/chat/completions", b'{"a": "' + b"x" * 2**20 + b'"}')
    assert status == 413
    assert "error" in answer


def test_bad_headers_are_a_400(node: Node) -> None:
    body = json.dumps({"messages": said(SIMPLE), "max_tokens": 1}).encode()
    for headers in ({"x-request-id": "a b"}, {"x-tierserve-tier": "medium"}, {"x-session-id": "a b"}):
        status, _, answer = post(node, "/v1/chat/completions", body, headers)
        assert status == 400
        assert "error" in answer


@pytest.mark.parametrize("stream", [False, True])
def test_a_caller_that_goes_away_frees_its_slot(node: Node, stream: bool) -> None:
    """Long before its answer would have ended: of 1,900 tokens only those until then are made."""

    before = node.metric("vllm:generation_tokens_total", "lab-small")
    client = openai.OpenAI(base_url=f"{node.url}/v1", api_key="unused", max_retries=0, timeout=0.5)
    options: dict[str, Any] = {"extra_body": {"ignore_eos": True}, "max_tokens": 1900}
    if stream:
        events = client.chat.completions.create(model="lab-small", messages=said(SIMPLE), stream=True, **options)
        next(iter(events))
        events.close()
    else:
        with pytest.raises(openai.APITimeoutError):
            client.chat.completions.create(model="lab-small", messages=said(SIMPLE), **options)
    client.close()
    deadline = time.monotonic() + 60
    while node.metric("vllm:num_requests_running{"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert node.metric("vllm:generation_tokens_total", "lab-small") - before < 1900


def test_many_callers_at_once_each_get_their_own_answer(node: Node) -> None:
    answers: dict[int, Any] = {}

    def ask(number: int) -> None:
        prompt, tokens = (SIMPLE, HARD)[number % 2], 4 + number % 5
        body = {"messages": said(prompt), "max_tokens": tokens, "stream": False, "temperature": 0}
        status, headers, answer = post(
            node, "/v1/chat/completions", json.dumps(body).encode(), {"x-request-id": f"number-{number}"}
        )
        answers[number] = status, headers["x-request-id"], answer

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, (status, request_id, answer) in answers.items():
        assert status == 200
        assert request_id == f"number-{number}"
        assert request_id in answer["id"]
        assert answer["model"] == ("lab-small", "lab-large")[number % 2]
        assert answer["usage"]["completion_tokens"] <= 4 + number % 5


def test_the_log_is_json_and_holds_no_prompt(node: Node, client: openai.OpenAI) -> None:
    client.chat.completions.create(model="auto", messages=said("the word is xylophone"), max_tokens=2)
    post(node, "/v1/chat/completions", json.dumps({"messages": said("xylophone"), "n": "x"}).encode())
    assert node.log
    assert "xylophone" not in node.err
    assert "xylophone" not in node.out


def test_the_description_has_the_engines_fields(node: Node) -> None:
    with urllib.request.urlopen(f"{node.url}/openapi.json", timeout=60) as response:
        schemas = json.load(response)["components"]["schemas"]
    for name in ("ChatRequest", "CompletionRequest"):
        fields = schemas[name]["properties"]
        assert {"min_p", "structured_outputs", "ignore_eos"} <= set(fields)
        assert not {"priority", "request_id", "vllm_xargs"} & set(fields), "what is refused"
    assert "StructuredOutputsParams" in schemas
