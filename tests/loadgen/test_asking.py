"""One request: what is read from its answer, wherever the bytes are cut, and what each kind of failure is called."""

import asyncio
import socket
import time

import pytest
import yarl
from loadgen.asking import EventReader, Sample, ask, session

from tests.loadgen.conftest import WORDS, Server, events

STREAM = (
    b": a comment\n\n"
    b'data: {"text": "gr\xc3\xbc\xc3\x9fe"}\r\n\r\n'
    b"event: message\ndata: first line\ndata: second line\n\n"
    b"data:no space\n\n"
    b"data: [DONE]\n\n"
)
EVENTS = [b'{"text": "gr\xc3\xbc\xc3\x9fe"}', b"first line\nsecond line", b"no space", b"[DONE]"]


@pytest.mark.parametrize("cut", range(len(STREAM) + 1))
def test_events_are_read_wherever_the_bytes_are_cut(cut: int) -> None:
    reader = EventReader()
    assert [*reader.feed(STREAM[:cut]), *reader.feed(STREAM[cut:])] == EVENTS


def test_events_are_read_byte_by_byte() -> None:
    reader = EventReader()
    found = [event for byte in STREAM for event in reader.feed(bytes([byte]))]
    assert found == EVENTS


def test_an_event_that_has_not_ended_is_none_yet() -> None:
    assert list(EventReader().feed(b"data: half\n")) == []


async def sample_of(server: Server, model: str, stream: bool, timeout_s: float = 30) -> Sample:
    body = f'{{"model": "{model}", "stream": {str(stream).lower()}}}'.encode()
    async with session(timeout_s) as client:
        return await ask(client, yarl.URL(f"{server.url}/v1/chat/completions"), body, {}, time.perf_counter())


@pytest.mark.parametrize("stream", [True, False])
async def test_an_answer(server: Server, stream: bool) -> None:
    sample = await sample_of(server, "m", stream)
    assert (sample.error, sample.model, sample.prompt_tokens, sample.output_tokens) == ("", "m", 7, WORDS)
    assert sample.escalated is None
    assert sample.due_s <= sample.sent_s <= sample.end_s
    if stream:
        assert sample.first_s is not None and sample.sent_s < sample.first_s <= sample.end_s
        assert sample.tpot_s == pytest.approx((sample.end_s - sample.first_s) / (WORDS - 1))
    else:
        assert sample.ttft_s is None and sample.tpot_s is None


async def test_headers_say_who_spoke_and_that_it_was_the_second_to_try(server: Server) -> None:
    sample = await sample_of(server, "auto", stream=True)
    assert (sample.model, sample.escalated) == ("large", True)


async def test_without_usage_the_events_that_hold_something_are_counted(server: Server) -> None:
    sample = await sample_of(server, "silent on usage", stream=True)
    assert (sample.error, sample.output_tokens) == ("", WORDS)


def test_the_first_event_of_the_stream_in_these_tests_holds_no_token() -> None:
    first, *_ = events("m")
    assert b'"content": ""' in first


@pytest.mark.parametrize(
    ("model", "stream", "error"),
    [
        ("absent", True, "http 404"),
        ("gone", True, "cut off"),
        ("cut", True, "cut off"),
        ("broken", True, "error in the stream"),
        ("garbled", True, "not JSON"),
        ("empty", False, "no answer in the body"),
    ],
)
async def test_each_failure_has_a_name(server: Server, model: str, stream: bool, error: str) -> None:
    sample = await sample_of(server, model, stream)
    assert sample.error == error
    assert sample.end_s >= sample.sent_s


async def test_a_refusal_says_when_to_come_again_and_keeps_the_connection(server: Server) -> None:
    address = yarl.URL(f"{server.url}/v1/chat/completions")
    async with session(30) as client:
        for _ in range(3):
            sample = await ask(client, address, b'{"model": "full"}', {}, time.perf_counter())
            assert (sample.error, sample.retry_after) == ("http 503", "3")
    assert len(server.ports) == 1


async def test_an_answer_that_does_not_come_in_time(server: Server) -> None:
    async def pause() -> None:

        await asyncio.sleep(60)

    server.pause = pause  # type: ignore[method-assign]
    assert (await sample_of(server, "m", stream=False, timeout_s=0.1)).error == "timeout"


async def test_a_server_that_is_not_there(server: Server) -> None:
    with socket.socket() as held:  # bound but not listening: nobody else can be
        held.bind(("127.0.0.1", 0))
        server.url = f"http://127.0.0.1:{held.getsockname()[1]}"
        assert (await sample_of(server, "m", stream=False)).error == "no connection"
