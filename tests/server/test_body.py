"""What a request may be: its body's form, its counts, its size, and how long it may take to come in."""

import asyncio
import json
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.server.running import chat, request, surface, until
from tierserve.config import LimitsConfig
from tierserve.errors import RequestError
from tierserve.server.api import BODIES
from tierserve.server.body import check_limits, parse_json

LIMITS = LimitsConfig()


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[1]",
        b'"a"',
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b'{"a": "\\ud800"}',
        b'{"a": "\xed\xa0\x80"}',
        b"\xff",
        b'\xef\xbb\xbf{"a": 1}',
        '{"a": 1}'.encode("utf-16"),
        b'{"a": 1} x',
        b'{"a": 1' + b"0" * 5000 + b"}",
        b"[" * 100_000,
        b'{"a":' * 100_000,
    ],
    ids=lambda raw: repr(raw[:24]),
)
def test_what_is_no_json_object_is_refused(raw: bytes) -> None:
    with pytest.raises(RequestError, match="the body"):
        parse_json(raw)


def test_a_key_that_stands_twice_is_refused_at_any_depth() -> None:
    for raw in (b'{"model": "s", "model": "l"}', b'{"messages": [{"role": "user", "role": "system"}]}'):
        with pytest.raises(RequestError, match="duplicate key"):
            parse_json(raw)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_what_json_says_is_what_is_read(value: Any) -> None:
    if json.dumps(value).count("\\ud") == 0:  # hypothesis makes lone surrogates
        assert parse_json(json.dumps({"a": value}).encode()) == {"a": value}


def nested(depth: int) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = [value]
    return value


MESSAGE = {"role": "user", "content": "a"}
PARTS = [{"type": "text", "text": "a"}]
TOO_MUCH = [
    ({"messages": [MESSAGE] * 1025}, "`messages` has 1025 entries", "messages"),
    ({"messages": [{"role": "user", "content": PARTS * 513}] * 2}, "has 1026 content parts", "parts"),
    ({"messages": [{"role": "assistant", "tool_calls": [{}] * 1025}]}, "content parts and tool calls", "parts"),
    ({"tools": [{}] * 129}, "`tools` has 129 entries", "tools"),
    ({"functions": [{}] * 129}, "`functions` has 129 entries", "tools"),
    ({"stop": ["a"] * 17}, "`stop` has 17 entries", "stop"),
    ({"bad_words": ["a"] * 17}, "`bad_words` has 17 entries", "stop"),
    ({"n": 129}, "`n` is 129", "choices"),
    ({"n": 10_000.0}, "`n` is 10000.0", "choices"),
    ({"best_of": 10**300}, "`best_of` is 1000", "choices"),
    ({"prompt": ["a"] * 129}, "129 prompts", "choices"),
    ({"prompt": [[1]] * 129}, "129 prompts", "choices"),
    ({"prompt": ["a"] * 20, "n": 10}, "20 prompts ask for 200 answers", "choices"),
    ({"logprobs": 21}, "`logprobs` is 21", "logprobs"),
    ({"top_logprobs": 21}, "`top_logprobs` is 21", "logprobs"),
    ({"prompt_logprobs": 21}, "`prompt_logprobs` is 21", "logprobs"),
    ({"logit_bias": {str(n): 1 for n in range(4097)}}, "`logit_bias` has 4097 entries", "entries"),
    ({"whatever": [1] * 4097}, "`whatever` has 4097 entries", "entries"),
    ({"prompt": [1] * 262_144}, "more values", "values"),
    ({"a": {"b": [1] * 262_144}}, "more values", "values"),
    ({"a": nested(64)}, "nested deeper", "depth"),
]


@pytest.mark.parametrize(("body", "found", "option"), TOO_MUCH, ids=[f"{o} {f}" for _, f, o in TOO_MUCH])
def test_too_much_of_anything_is_refused_with_the_limit_and_its_option(
    body: dict[str, Any], found: str, option: str
) -> None:
    with pytest.raises(RequestError) as raised:
        check_limits(body, LIMITS)
    assert found in str(raised.value)
    assert f"at most {getattr(LIMITS, option)} are taken" in str(raised.value)
    assert f"server.limits.{option})" in str(raised.value)


def test_as_much_as_the_limits_say_is_taken() -> None:
    for body in (
        {"messages": [MESSAGE] * 1024, "tools": [{}] * 128, "stop": ["a"] * 16, "n": 128, "top_logprobs": 20},
        {"messages": [{"role": "user", "content": PARTS * 512}] * 2},
        {"prompt": [1] * 200_000},
        {"prompt": ["a"] * 64, "n": 2},
        {"a": nested(63)},
        {"max_tokens": 10**9},
    ):
        check_limits(body, LIMITS)


def test_max_tokens_is_bounded_where_the_operator_says_so() -> None:
    for name in ("max_tokens", "max_completion_tokens", "min_tokens"):
        with pytest.raises(RequestError, match=f"`{name}` is 101; at most 100"):
            check_limits({name: 101}, LimitsConfig(max_tokens=100))
    check_limits({"max_tokens": 100}, LimitsConfig(max_tokens=100))


@pytest.mark.parametrize("raw", [b'{"temperature": 1e999}', b'{"temperature": -1e999}', b'{"a": [{"b": 1e999}]}'])
def test_a_number_beyond_all_numbers_is_refused(raw: bytes) -> None:
    with pytest.raises(RequestError, match="out of range"):
        check_limits(parse_json(raw), LIMITS)


async def test_a_request_for_too_much_reaches_no_tier() -> None:
    async with surface() as node:
        answer = await node.exchange(request(chat(n=10_000)))
        assert answer.status == 400
        assert answer.error["param"] == "n"
        assert not node.small.calls


def test_every_limit_can_be_set() -> None:
    assert check_limits({"tools": [{}] * 129}, LimitsConfig(tools=129)) is None
    with pytest.raises(RequestError, match="server.limits.tools"):
        check_limits({"tools": [{}]}, LimitsConfig(tools=0))


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ("application/json", 200),
        ("application/json; charset=utf-8", 200),
        ('Application/JSON;charset="UTF-8"', 200),
        ("application/json; charset=latin-1", 415),
        ("application/json; charset=\x80", 415),
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        ("multipart/form-data; boundary=x", 415),
        ("", 415),
        (";", 415),
        (None, 415),
    ],
)
async def test_only_json_in_utf_8_is_taken_for_json(header: str | None, status: int) -> None:
    """Not what a browser sends to other sites without asking them first."""
    raw = json.dumps(chat()).encode()
    lines = ["POST /v1/chat/completions HTTP/1.1", "host: x", f"content-length: {len(raw)}"]
    lines += [] if header is None else [f"content-type: {header}"]
    async with surface() as node:
        answer = await node.exchange("\r\n".join([*lines, "", ""]).encode("latin-1") + raw)
    assert answer.status == status
    if status != 200:
        assert "content-type must be application/json" in answer.error["message"]
        assert answer.headers["accept"] == "application/json"


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd", "gzip, gzip", "what"])
async def test_nothing_compressed_is_unpacked(coding: str) -> None:
    async with surface() as node:
        answer = await node.exchange(request(b"x" * 100, "/v1/chat/completions", f"content-encoding: {coding}"))
    assert answer.status == 415
    assert answer.headers["accept-encoding"] == "identity"
    assert "compressed" in answer.error["message"]


async def test_a_body_said_to_be_too_large_is_refused_before_it_comes() -> None:
    async with surface(max_body_mb=0.01) as node:
        caller = await node.connect()
        await caller.send(request(b"x" * 10_486)[:-10_486])
        answer = await caller.answer()
        assert answer.status == 413
        assert "server.max_body_mb" in answer.error["message"]
        await caller.close()


async def test_a_body_without_end_is_cut_at_the_limit_and_not_kept() -> None:
    """64 MiB, sixteen times the limit; what a fault would keep is far more than the memory that may be added."""
    chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    head = request(b"").replace(b"content-length: 0", b"transfer-encoding: chunked")
    async with surface() as node:
        before = psutil.Process().memory_info().rss
        caller = await node.connect()
        await caller.send(head)
        try:
            for _ in range(1024):
                await caller.send(chunk)
        except ConnectionError:
            pass
        answer = await caller.answer()
        assert answer.status == 413
        assert node.app[BODIES].held_bytes == 0
        assert psutil.Process().memory_info().rss - before < 32 << 20
        await caller.close()


async def test_a_body_that_drips_is_a_408() -> None:
    async with surface(body_s=0.2) as node:
        caller = await node.connect()
        sent = request(chat())
        await caller.send(sent[:-20])

        async def drip() -> None:
            for place in range(20, 1, -1):  # the last byte never comes
                await asyncio.sleep(0.05)
                await caller.send(sent[-place : 1 - place])

        dripping = asyncio.create_task(drip())
        answer = await caller.answer()
        assert answer.status == 408
        assert "not complete after 0.2 s" in answer.error["message"]
        dripping.cancel()
        await caller.close()


async def test_all_bodies_that_come_in_together_are_bounded() -> None:
    async with surface(limits={"reading_mb": 0.1}) as node:
        first = await node.connect()
        whole = request(b"x" * 80_000)
        await first.send(whole[:-1])
        await until(lambda: node.app[BODIES].held_bytes > 60_000)
        second = await node.connect()
        await second.send(request(b"y" * 80_000)[:-1])
        answer = await second.answer()
        assert answer.status == 503
        assert answer.headers["retry-after"] == "1"
        await first.send(whole[-1:])
        assert (await first.answer()).status == 400, "no JSON, but it was read"
        await until(lambda: not node.app[BODIES].held_bytes)
        await first.close()
        await second.close()


async def test_a_caller_that_leaves_in_the_middle_of_a_body_leaves_nothing_held() -> None:
    async with surface() as node:
        caller = await node.connect()
        await caller.send(request(b"x" * 80_000)[:-1])
        await until(lambda: node.app[BODIES].held_bytes > 60_000)
        await caller.close()
        await until(lambda: not node.app[BODIES].held_bytes)
