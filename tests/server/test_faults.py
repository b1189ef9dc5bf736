"""An engine that is killed, or stopped, under load: who is answered, who is told, and that it comes back."""

import json
import signal
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
from faults import engines
from node import Node

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def half(lab: dict[str, Any], node: Node, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A node with one engine of its own; its large tier is the running node's, so that it starts in half the time."""
    remote = {"url": f"{node.url}/v1", "model": "lab-large"}
    tiers = {"small": lab["tiers"]["small"], "large": {"name": "elsewhere", "remote": remote}}
    with Node(lab | {"tiers": tiers, "faults": {"hang_s": 5}}, tmp_path_factory.mktemp("half")) as half:
        yield half.wait_until_ready()


class Asked(threading.Thread):
    """A request on its way. Then: the answer's status, headers and text."""

    def __init__(self, node: Node, **body: Any) -> None:
        super().__init__()
        said = {"messages": [{"role": "user", "content": "What is Python?"}], "max_tokens": 1500, "ignore_eos": True}
        data = json.dumps({"model": "auto"} | said | body).encode()
        self.request = urllib.request.Request(
            f"{node.url}/v1/chat/completions", data, {"content-type": "application/json"}
        )
        self.status, self.headers, self.text = 0, dict[str, str](), ""
        self.begun = threading.Event()
        self.start()

    def run(self) -> None:
        try:
            with urllib.request.urlopen(self.request, timeout=240) as response:
                self.status, self.headers = response.status, dict(response.headers)
                self.begun.set()
                self.text = response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                self.status, self.headers, self.text = error.code, dict(error.headers), error.read().decode()

    def answered_by(self) -> tuple[int, str | None, str | None]:
        self.join()
        return self.status, self.headers.get("x-tierserve-tier"), self.headers.get("x-tierserve-cause")


def ready(node: Node) -> tuple[int, dict[str, Any]]:
    try:
        with urllib.request.urlopen(f"{node.url}/ready", timeout=30) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def restarts(node: Node, reason: str) -> float:
    return node.metric(f'tierserve_engine_restarts_total{{reason="{reason}",tier="lab-small"}}')


def wait_until_rebuilt(node: Node, left: list[psutil.Process]) -> None:
    node.wait_for(lambda: ready(node)[1]["degraded"] == [], "the engine to be rebuilt")
    assert Asked(node, model="lab-small", max_tokens=4).answered_by()[:2] == (200, "lab-small")
    assert not any(process.is_running() for process in left), "a process of the engine before outlived it"
    assert node.process.poll() is None


def test_a_core_that_is_killed_costs_nobody_an_answer_who_had_not_begun_to_get_one(half: Node) -> None:
    ((core, worker),) = engines(half.process.pid).items()
    before = [psutil.Process(core), psutil.Process(worker)]
    streamed = Asked(half, model="lab-small", stream=True)
    whole, forced = Asked(half), Asked(half, model="lab-small")
    assert streamed.begun.wait(60)
    half.wait_for(lambda: half.metric("tierserve_requests_in_flight ") == 3, "the requests to be accepted")
    before[0].kill()
    half.wait_for(lambda: ready(half)[1]["degraded"] == ["lab-small"], "its end to be noticed")
    status, body = ready(half)
    assert status == 200
    assert body["tiers"]["lab-small"]["waiting_for"] == "its engine to be rebuilt after it died, try 1"
    assert Asked(half, max_tokens=4).answered_by() == (200, "elsewhere", "failover")
    assert whole.answered_by() == (200, "elsewhere", "failover")
    assert json.loads(whole.text)["usage"]["completion_tokens"] == 1500
    assert streamed.answered_by()[:2] == (200, "lab-small")
    *_, last, done = [event for event in streamed.text.split("\n\n") if event]
    message = json.loads(last.removeprefix("data: "))["error"]["message"]
    assert message == "the tier lab-small failed while it answered: send the request again"
    assert done == "data: [DONE]"
    assert forced.answered_by()[0] == 503
    assert forced.headers["retry-after"]
    wait_until_rebuilt(half, before)
    assert (restarts(half, "died"), restarts(half, "hung")) == (1, 0)


def test_a_worker_that_is_stopped_is_noticed_and_its_callers_are_answered_by_the_other_tier(half: Node) -> None:
    ((core, worker),) = engines(half.process.pid).items()
    before = [psutil.Process(core), psutil.Process(worker)]
    before[1].send_signal(signal.SIGSTOP)
    assert Asked(half, max_tokens=4).answered_by() == (200, "elsewhere", "failover")
    wait_until_rebuilt(half, before)
    assert restarts(half, "hung") == 1
