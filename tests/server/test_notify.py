"""What the service manager hears, over real datagram sockets."""

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tierserve.server.notify import Manager


class Heard:
    """A service manager's end of the socket."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        self.socket.bind(f"\0{address[1:]}" if address.startswith("@") else address)

    def messages(self) -> list[str]:
        """All that came since the last time."""
        found = []
        while True:
            try:
                found.append(self.socket.recv(4096).decode())
            except BlockingIOError:
                return found


@pytest.fixture(params=["path", "abstract"])
def heard(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Heard]:
    address = f"@tierserve-test-{os.getpid()}" if request.param == "abstract" else str(tmp_path / "notify")
    heard = Heard(address)
    yield heard
    heard.socket.close()


def test_each_word_is_a_datagram_as_sd_notify_has_them(heard: Heard) -> None:
    manager = Manager(heard.address)
    manager.status("loading the router")
    manager.extend(30)
    manager.ready("ready: s, l")
    manager.alive()
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    manager.reloading()
    manager.stopping("draining\n2 requests")
    *plain, reloading, stopping = heard.messages()
    assert plain == [
        "STATUS=loading the router",
        "EXTEND_TIMEOUT_USEC=30000000",
        "READY=1\nSTATUS=ready: s, l",
        "WATCHDOG=1",
    ]
    first, usec = reloading.split("\nMONOTONIC_USEC=")
    assert first == "RELOADING=1"
    assert before <= int(usec) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    assert stopping == "STOPPING=1\nSTATUS=draining 2 requests"  # a line break would begin another assignment


def test_a_status_that_stands_is_not_said_again(heard: Heard) -> None:
    manager = Manager(heard.address)
    for text in ("a", "a", "b", "a"):
        manager.status(text)
    assert heard.messages() == ["STATUS=a", "STATUS=b", "STATUS=a"]


def test_the_environment_is_taken_so_that_no_child_speaks_for_the_node() -> None:
    environment = {
        "NOTIFY_SOCKET": "@x",
        "WATCHDOG_USEC": "30000000",
        "WATCHDOG_PID": str(os.getpid()),
        "HOME": "/",
    }
    manager = Manager.from_environment(environment)
    assert (manager.address, manager.watchdog_s) == ("@x", 30.0)
    assert environment == {"HOME": "/"}


@pytest.mark.parametrize(
    "watchdog",
    [
        {},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "soon"},
        {"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid() + 1)},
    ],
)
def test_a_watchdog_that_is_not_meant_for_this_process_is_not_fed(watchdog: dict[str, str]) -> None:
    assert Manager.from_environment(watchdog | {"NOTIFY_SOCKET": "@x"}).watchdog_s is None


def test_where_nobody_listens_nothing_happens() -> None:
    manager = Manager.from_environment({})
    assert manager.address is None
    manager.ready("ready")


def test_a_manager_that_went_away_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    manager = Manager(str(tmp_path / "gone"))
    manager.alive()
    manager.alive()
    (record,) = caplog.records
    assert "can't be told WATCHDOG=1" in record.getMessage()
