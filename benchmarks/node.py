"""A node as a process of its own, started the way a person starts it."""

import json
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import psutil
import yaml

from tierserve.config import load

_CONFIGS = Path(__file__).resolve().parents[1] / "configs"
_START_S = 300
_END_S = 60


class Node:
    """`with Node(config, folder) as node:` ends it, and whatever it left, at the end of the block, also where this
    process is told to end within it."""

    def __init__(self, config: dict[str, Any], folder: Path) -> None:
        self.folder = folder
        self.url = ""
        (folder / "node.yaml").write_text(yaml.safe_dump(config))

    def __enter__(self) -> Self:
        _leave_blocks_on_sigterm()
        command = [str(Path(sys.executable).with_name("tierserve")), "--config", str(self.folder / "node.yaml")]
        with (self.folder / "out").open("wb") as out, (self.folder / "err").open("wb") as err:
            self.process = subprocess.Popen(command, stdout=out, stderr=err)
        self._seen: dict[int, psutil.Process] = {}
        return self

    def __exit__(self, *error: object) -> None:
        self.family()
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(_END_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        for process in self.left():
            process.kill()

    def wait_until_ready(self) -> Self:
        found = self.wait_for(lambda: re.search(r"ready at (\S+)/v1 ", self.out), "the node to be ready")
        self.url = found[1]
        self.family()
        return self

    def wait_for(self, condition: Any, what: str, limit_s: float = _START_S) -> Any:
        """Poll until `condition()` is true, while the node lives."""
        deadline = time.monotonic() + limit_s
        while not (result := condition()):
            assert self.process.poll() is None, f"the node ended while waiting for {what}:\n{self.err[-4000:]}"
            assert time.monotonic() < deadline, f"no end of waiting for {what}:\n{self.err[-4000:]}"
            self.family()
            time.sleep(0.1)
        return result

    def family(self) -> list[psutil.Process]:
        """The engines' processes that run now; all that were ever seen are remembered."""
        try:
            running = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            running = []
        self._seen |= {process.pid: process for process in running}
        return running

    def left(self, patience_s: float = 10) -> list[psutil.Process]:
        """Processes that outlived the node."""
        return psutil.wait_procs(list(self._seen.values()), timeout=patience_s)[1]

    def metric(self, series: str, label: str = "") -> float:
        """The sum over the series that begin so, name and labels, and hold the label; as /metrics has them now."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=30) as response:
            lines = response.read().decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(series) and label in line)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        return self.process.wait(_END_S * 2)

    @property
    def out(self) -> str:
        return (self.folder / "out").read_text()

    @property
    def err(self) -> str:
        return (self.folder / "err").read_text()

    @property
    def log(self) -> list[dict[str, Any]]:
        """The log's records; a line that is not JSON raises ValueError."""
        return [json.loads(line) for line in self.err.splitlines()]


def _leave_blocks_on_sigterm() -> None:
    """SIGINT raises KeyboardInterrupt already; by default SIGTERM ends a process with no block left."""
    in_main_thread = threading.current_thread() is threading.main_thread()
    if in_main_thread and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


# A section `admission`: whoever comes waits, however many they are.
ALL_WAIT = {"queue_share": 100, "queue_s": 600}


def lab_config(name: str = "lab") -> dict[str, Any]:
    """configs/lab.yaml, or another one there, as data, with absolute paths and a port that the system chooses."""
    config: dict[str, Any] = json.loads(load(_CONFIGS / f"{name}.yaml").model_dump_json(exclude_unset=True))
    return config | {"server": {"port": 0}}


@contextmanager
def running_node(url: str | None, **sections: dict[str, Any]) -> Iterator[str]:
    """The URL of a node: the one given, or one that is started on the embedded default, with these sections in place of
    its own, and ended afterwards."""
    if url:
        yield url.rstrip("/")
        return
    print("starting the embedded default ...", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder, Node(lab_config() | sections, Path(folder)) as node:
        yield node.wait_until_ready().url
