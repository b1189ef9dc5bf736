"""How a node ends: told to, told twice, killed, or told while it is still loading. No process may be left."""

import json
import signal
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from node import Node

pytestmark = pytest.mark.engine


@pytest.fixture
def half(lab: dict[str, Any], node: Node, tmp_path: Path) -> Iterator[Node]:
    """A node with one engine of its own; its large tier is the running node's, so that it starts in half the time."""
    remote = {"url": f"{node.url}/v1", "model": "lab-large"}
    config = lab | {"tiers": {"small": lab["tiers"]["small"], "large": {"name": "elsewhere", "remote": remote}}}
    with Node(config, tmp_path) as half:
        yield half


def ask(node: Node, answers: list[Any], stream: bool, model: str = "auto", max_tokens: int = 200) -> None:
    """Ask and keep the whole answer; what goes wrong is kept as well."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "What is Python?"}],
        "max_tokens": max_tokens,
        "ignore_eos": True,
        "stream": stream,
    }
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(f"{node.url}/v1/chat/completions", json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=120) as response:
            answers.append(response.read().decode())
    except urllib.error.HTTPError as error:
        error.close()
        answers.append(error)
    except OSError as error:
        answers.append(error)


def busy_with(half: Node, count: int, **options: Any) -> tuple[list[Any], list[threading.Thread]]:
    """Requests of which all have been accepted and none has ended."""
    answers: list[Any] = []
    models = ("lab-small", "elsewhere")
    threads = [
        threading.Thread(target=ask, args=(half, answers, bool(number % 2), models[number // 2 % 2]), kwargs=options)
        for number in range(count)
    ]
    for thread in threads:
        thread.start()
    half.wait_for(lambda: half.metric("tierserve_requests_in_flight ") == count, "the requests to be accepted")
    assert answers == []
    return answers, threads


def test_sigterm_under_load_answers_every_request_that_was_accepted(half: Node) -> None:
    half.wait_until_ready()
    answers, threads = busy_with(half, 32)
    half.signal(signal.SIGTERM)
    for thread in threads:
        thread.join()
    assert half.wait() == 0
    for answer in answers:
        assert isinstance(answer, str), answer
        if answer.startswith("data:"):
            *events, done = [line.removeprefix("data: ") for line in answer.split("\n\n") if line]
            assert done == "[DONE]"
            assert json.loads(events[-1])["choices"][0]["finish_reason"] == "length"
        else:
            assert json.loads(answer)["usage"]["completion_tokens"] == 200
    assert len(answers) == 32
    assert half.left() == []
    assert half.log, "every line of the log is JSON to the very end"


def test_a_node_that_drains_takes_no_new_connection(half: Node) -> None:
    half.wait_until_ready()
    answers, threads = busy_with(half, 2, max_tokens=1500)
    half.signal(signal.SIGTERM)
    half.wait_for(lambda: "draining" in half.err, "the drain to begin")
    time.sleep(0.5)
    refused: list[Any] = []
    ask(half, refused, stream=False)
    assert isinstance(refused[0], urllib.error.URLError) and not isinstance(refused[0], urllib.error.HTTPError)
    half.signal(signal.SIGINT)  # the second signal ends what the first let finish
    assert half.wait() == 128 + signal.SIGINT
    for thread in threads:
        thread.join()
    assert half.left() == []
    assert "second signal" in half.err
    assert len(answers) == 2
    for answer in answers:  # neither came to its end, and each is told so
        if isinstance(answer, urllib.error.HTTPError):
            assert answer.code == 503
        else:
            assert "the server is ending" in answer


def test_after_kill_9_the_engines_end_by_themselves(half: Node) -> None:
    half.wait_until_ready()
    assert half.family()
    half.signal(signal.SIGKILL)
    half.wait()
    assert half.left(patience_s=30) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_loading_ends_at_once_and_leaves_nothing(half: Node, number: signal.Signals) -> None:
    half.wait_for(lambda: "engine's processes" in half.err, "an engine to be loading")
    half.wait_for(half.family, "the engine's processes")
    half.signal(number)
    assert half.wait() == 0
    assert half.left() == []
    assert "Traceback" not in half.err


def test_an_engine_that_can_t_start_ends_the_node_with_its_reason(lab: dict[str, Any], tmp_path: Path) -> None:
    lab = json.loads(json.dumps(lab))
    lab["tiers"]["large"]["engine"]["max_model_len"] = 100_000  # more than the checkpoint's positions
    lab["tiers"]["small"] = {"name": "s", "engine": lab["tiers"]["large"]["engine"]}
    with Node(lab, tmp_path) as node:
        assert node.wait() == 1
        said = node.err.splitlines()[-1]
        assert said.startswith("tierserve: the engine of s did not start: ")
        assert "max_model_len" in said
        assert node.left() == []
