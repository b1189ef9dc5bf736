"""The ways to serve that are compared, as nodes that run beside each other and are asked one after the other.

All large and tierserve are one node: the caller names the tier, or `auto`. On a CPU that is fair to both: the engines
have the same cores, so that a small engine which is asked nothing leaves them to the large one and costs it memory
alone, which is not short here (`idle_cpu_share` is what such a node takes in all). On a GPU the memory would be
divided: there all large needs a node of its own.
"""

import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from loadgen import Endpoint
from node import Node

from comparison.pairs import Pair, by_length

LARGE, TIERED, LENGTH, SMALL = "all large", "tierserve", "by length", "all small"
SERVED = (LARGE, TIERED, LENGTH)  # all small is there to measure r
# After its last step a vLLM worker looks for the next one without sleeping, for a second (vllm 0.32.0).
_SPIN_S = 2.0


@dataclass(frozen=True)
class Way:
    name: str
    node: Node
    model: str

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(self.node.url, self.model, self.name)

    def cpu_s(self) -> float:
        """What the node has taken so far, with its engines."""
        times = [process.cpu_times() for process in (psutil.Process(self.node.process.pid), *self.node.family())]
        return sum(each.user + each.system for each in times)

    def idle_share(self, seconds: float) -> float:
        """Of one core, what the node takes while nothing is asked."""
        time.sleep(_SPIN_S)
        before = self.cpu_s()
        time.sleep(seconds)
        return (self.cpu_s() - before) / seconds

    def wait_until_idle(self) -> None:
        self.node.wait_for(lambda: not self.node.metric("tierserve_requests_in_flight"), "the last request to end")


@contextmanager
def running(pair: Pair) -> Iterator[dict[str, Way]]:
    """Each way, ready."""
    with ExitStack() as stack:
        nodes = []
        for config in (pair.config, by_length(pair)):
            print(f"starting node {len(nodes) + 1} of 2 ...", file=sys.stderr)
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            nodes.append(stack.enter_context(Node(config, folder)).wait_until_ready())
        tiered, length = nodes
        yield {
            LARGE: Way(LARGE, tiered, "large"),
            TIERED: Way(TIERED, tiered, "auto"),
            LENGTH: Way(LENGTH, length, "auto"),
            SMALL: Way(SMALL, tiered, "small"),
        }
