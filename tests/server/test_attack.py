"""Bytes that no well-meaning client sends: each gets an answer in OpenAI's form or a closed connection, and the node
goes on as if nothing had been. What follows a request that can't be read is never taken for another one."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.server.running import Answer, Surface, chat, request, surface
from tierserve.server.refusal import PATHS

BODY = json.dumps(chat()).encode()
POST = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"


@pytest.fixture(scope="module")
async def node() -> AsyncIterator[Surface]:
    async with surface(body_s=900) as node:
        yield node


LAST = b"GET /health HTTP/1.1\r\nhost: x\r\nx-request-id: last\r\nconnection: close\r\n\r\n"


async def told(node: Surface, sent: bytes) -> list[Answer]:
    """All answers to this, until the node hangs up, which it is asked to in the end."""
    caller = await node.connect()
    answers = []
    try:
        await caller.send(sent + LAST)
        while True:
            answers.append(await caller.answer(without_body=sent.startswith(b"HEAD ") and not answers))
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    await caller.close()
    return [answer for answer in answers if answer.headers["x-request-id"] != "last"]


SMUGGLED = b"GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n"
BROKEN = {
    "length and chunks": POST + b"content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "chunks and length": POST + b"transfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "two lengths": POST + b"content-length: 0\r\ncontent-length: 40\r\n\r\n" + SMUGGLED,
    "a list of lengths": POST + b"content-length: 0, 40\r\n\r\n" + SMUGGLED,
    "a negative length": POST + b"content-length: -1\r\n\r\n" + SMUGGLED,
    "a signed length": POST + b"content-length: +2\r\n\r\n{}" + SMUGGLED,
    "a length beyond 64 bits": POST + b"content-length: 99999999999999999999999\r\n\r\n" + SMUGGLED,
    "a length in hex": POST + b"content-length: 0x2\r\n\r\n{}" + SMUGGLED,
    "a coding nobody knows": POST + b"transfer-encoding: cow\r\n\r\n" + SMUGGLED,
    "chunked, but not last": POST + b"transfer-encoding: chunked, gzip\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "chunked twice": POST + b"transfer-encoding: chunked\r\ntransfer-encoding: cow\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "a space before the colon": POST + b"content-length : 4\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "a folded header": POST + b"x: y\r\n transfer-encoding: chunked\r\n\r\n" + SMUGGLED,
    "a bare line feed": b"GET /health HTTP/1.1\nhost: x\n\n" + SMUGGLED,
    "a bare carriage return": POST + b"x: a\rb: c\r\n\r\n" + SMUGGLED,
    "a nul": POST + b"x: a\x00b\r\n\r\n" + SMUGGLED,
    "no host": b"GET /health HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /health HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
    "no version": b"GET /health\r\n\r\n",
    "version 2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "version 9": b"GET /health HTTP/9.9\r\nhost: x\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
    "noise": bytes(range(256)) * 4,
    "a lower-case method": b"get /health HTTP/1.1\r\nhost: x\r\n\r\n",
    "a path with a space": b"GET /a b HTTP/1.1\r\nhost: x\r\n\r\n",
}


@pytest.mark.parametrize("sent", BROKEN.values(), ids=BROKEN)
async def test_what_is_no_http_is_refused_and_nothing_after_it_is_read(node: Surface, sent: bytes) -> None:
    answers = await told(node, sent)
    assert [answer.status for answer in answers] == [400], [answer.body for answer in answers]
    assert answers[0].error["type"] == "invalid_request_error"
    assert not node.small.running


CHUNKS = {
    "a size that is none": b"zz\r\n{}\r\n0\r\n\r\n",
    "a negative size": b"-2\r\n{}\r\n0\r\n\r\n",
    "a size beyond 64 bits": b"fffffffffffffffff\r\n{}\r\n0\r\n\r\n",
    "a size that lies": b"1\r\n{}\r\n0\r\n\r\n",
    "no line end": b"2\r\n{}0\r\n\r\n",
    "a bare line feed": b"2\n{}\n0\n\n",
}


@pytest.mark.parametrize("chunks", CHUNKS.values(), ids=CHUNKS)
@pytest.mark.parametrize("later", [False, True], ids=["at once", "later"])
async def test_chunks_that_are_none_are_a_400_at_once(node: Surface, chunks: bytes, later: bool) -> None:
    """Also where the handler waits for the body already, which it would do until body_s."""
    caller = await node.connect()
    head = POST + b"transfer-encoding: chunked\r\n\r\n"
    if later:
        await caller.send(head)
        await asyncio.sleep(0.02)
        await caller.send(chunks + SMUGGLED)
    else:
        await caller.send(head + chunks + SMUGGLED)
    answer = await caller.answer()
    assert answer.status == 400
    assert answer.error["message"]
    rest = await caller.reader.read()
    assert b'"object": "list"' not in rest, "the models: what followed was taken for a request"
    await caller.close()


async def test_chunks_of_one_byte_are_a_body(node: Surface) -> None:
    chunks = b"".join(b"1;ignored=yes\r\n%c\r\n" % byte for byte in BODY) + b"0\r\nx-trailer: y\r\n\r\n"
    (answer,) = await told(node, POST + b"transfer-encoding: chunked\r\n\r\n" + chunks)
    assert answer.status == 200


INJECTED = ["a\r\nx-evil: 1", "a\nb", "a\rb", "a\x00b", "a b", "é", "x" * 129, "\x7f", "%0d%0a\x0b"]


@pytest.mark.parametrize("value", INJECTED, ids=repr)
@pytest.mark.parametrize("header", ["x-request-id", "x-session-id"])
async def test_an_id_can_put_nothing_into_headers_or_logs(node: Surface, header: str, value: str) -> None:
    sent = POST + f"content-length: {len(BODY)}\r\n{header}: ".encode() + value.encode() + b"\r\n\r\n" + BODY
    answer = (await told(node, sent))[0]
    assert "x-evil" not in answer.headers
    if "\r\n" in value:
        assert answer.status == 200, "a header of its own, which nobody reads"
        assert answer.headers["x-request-id"] != value
    else:
        assert answer.status == 400
        assert answer.headers["x-request-id"].isalnum()


@pytest.mark.parametrize(
    "target",
    [
        "//v1/models",
        "/v1//models",
        "/v1/../metrics",
        "/v1/%2e%2e/metrics",
        "/..%2f..%2fetc/passwd",
        "/v1/models/../../metrics",
        "/v1%2fmodels",
        "/v1/models%00",
        "/V1/MODELS",
        "/v1/models/",
        "/health;x=y",
        "/%ff%fe",
        "/%",
        "/{model}",
        "http://",
        "*",
        "//",
        "?",
    ],
)
async def test_no_path_leads_to_anything_but_what_it_says(node: Surface, target: str) -> None:
    (answer,) = await told(node, f"GET {target} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
    assert answer.status in (400, 404)
    assert answer.error["type"] == "invalid_request_error"


async def test_a_path_may_be_written_in_any_of_http_s_ways(node: Surface) -> None:
    for target in ("/v1/models", "/v1/models?x=y", "http://elsewhere/v1/models", "/v1/%6dodels"):
        (answer,) = await told(node, f"GET {target} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
        assert json.loads(answer.body)["object"] == "list", target


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"])
async def test_a_wrong_method_is_a_405_that_says_which_would_do(node: Surface, path: str, method: str) -> None:
    target = "x:1" if method == "CONNECT" else path
    (answer, *more) = await told(node, f"{method} {target} HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n".encode())
    posted = path in ("/v1/chat/completions", "/v1/completions", "/v1/route")
    assert not more
    if method == "CONNECT":
        assert answer.status in (400, 404, 405)
    elif method in (("POST",) if posted else ("GET", "HEAD")):
        assert answer.status in (200, 415)
    else:
        assert answer.status == 405
        assert answer.headers["allow"] == ("POST" if posted else "GET,HEAD")


async def test_requests_in_a_row_are_answered_in_their_order(node: Surface) -> None:
    sent = b"".join(request(chat(), "/v1/chat/completions", f"x-request-id: {number}") for number in range(100))
    answers = await told(node, sent)
    assert [answer.headers["x-request-id"] for answer in answers] == [str(number) for number in range(100)]
    assert {answer.status for answer in answers} == {200}


async def test_http_1_0_is_spoken(node: Surface) -> None:
    caller = await node.connect()
    await caller.send(b"GET /health HTTP/1.0\r\n\r\n")
    assert (await caller.answer()).status == 200
    assert await caller.hung_up()
    await caller.close()
    sent = request(chat(stream=True)).replace(b"HTTP/1.1", b"HTTP/1.0")
    answer = await node.exchange(sent)
    assert answer.status == 200
    assert answer.body.endswith(b"data: [DONE]\n\n")


async def test_an_upgrade_that_is_not_to_be_had_is_an_ordinary_request(node: Surface) -> None:
    upgrade = b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
    answers = await told(node, upgrade + SMUGGLED)
    assert [answer.status for answer in answers] == [200, 200]


async def test_an_expectation_that_nobody_can_meet_is_a_417_in_openai_s_form(node: Surface) -> None:
    (answer,) = await told(node, request(chat(), "/v1/chat/completions", "expect: miracles"))
    assert answer.status == 417
    assert answer.error["type"] == "invalid_request_error"


async def test_who_expects_to_be_asked_for_the_body_is(node: Surface) -> None:
    caller = await node.connect()
    sent = request(chat(), "/v1/chat/completions", "expect: 100-continue")
    await caller.send(sent[: -len(BODY)])
    assert await caller.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    await caller.send(BODY)
    assert (await caller.answer()).status == 200
    await caller.close()


async def test_a_body_that_ends_too_early_is_no_request(node: Surface) -> None:
    before = len(node.small.calls)
    caller = await node.connect()
    await caller.send(request(chat())[:-1])
    caller.writer.write_eof()
    assert await caller.hung_up()
    await caller.close()
    assert len(node.small.calls) == before


PIECES = [POST, SMUGGLED, BODY, b"content-length: 5\r\n", b"transfer-encoding: chunked\r\n", b"\r\n", b"5\r\n"]


@settings(max_examples=50)
@given(st.lists(st.sampled_from(PIECES) | st.binary(max_size=40), max_size=8))
def test_no_bytes_make_it_fail_or_wait(pieces: list[bytes]) -> None:
    """It hangs up by itself, whatever came: that this ends is the proof."""

    async def send() -> None:
        async with surface(body_s=0.1, head_s=0.1) as node:
            assert all(answer.status < 500 for answer in await told(node, b"".join(pieces)))
            assert [answer.status for answer in await told(node, SMUGGLED)] == [200]

    asyncio.run(send())
