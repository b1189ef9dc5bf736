"""Sockets that were opened by somebody else, as systemd passes them."""

import os
import socket
from collections.abc import Iterator

import pytest

from tierserve.errors import ConfigError
from tierserve.server.listening import inherited_listener


def passed(count: int | str = 1, pid: int | None = None) -> dict[str, str]:
    return {"LISTEN_FDS": str(count), "LISTEN_PID": str(pid or os.getpid()), "LISTEN_FDNAMES": "tierserve.socket"}


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        os.set_inheritable(listening.fileno(), True)
        yield listening


def test_the_socket_is_taken_and_the_environment_cleared(listening: socket.socket) -> None:
    environment = passed() | {"HOME": "/"}
    taken = inherited_listener(environment, listening.fileno())
    assert taken is not None
    assert taken.getsockname() == listening.getsockname()
    assert not taken.get_inheritable()
    assert environment == {"HOME": "/"}
    with socket.create_connection(taken.getsockname()):
        taken.accept()[0].close()
    taken.detach()


@pytest.mark.parametrize("environment", [{}, passed(pid=1), {"LISTEN_FDS": "1"}])
def test_what_is_meant_for_nobody_or_another_process_is_left_alone(environment: dict[str, str]) -> None:
    assert inherited_listener(environment, 10_000) is None


@pytest.mark.parametrize(("count", "problem"), [("2", "one is served"), ("0", "no number"), ("x", "no number")])
def test_it_is_one_socket(count: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as caught:
        inherited_listener(passed(count), 10_000)
    assert caught.value.where == "LISTEN_FDS"
    assert "ListenStream=" in caught.value.remedy


def test_what_is_no_listening_tcp_socket_is_refused() -> None:
    datagram, unix = socket.socket(type=socket.SOCK_DGRAM), socket.socket(socket.AF_UNIX)
    quiet, (reader, writer) = socket.socket(), os.pipe()
    try:
        for descriptor, problem in (
            (datagram.fileno(), "no TCP socket but AF_INET, SOCK_DGRAM"),
            (unix.fileno(), "no TCP socket but AF_UNIX"),
            (quiet.fileno(), "does not listen"),
            (reader, "no socket"),
            (10_000, "no socket"),
        ):
            with pytest.raises(ConfigError, match=problem) as caught:
                inherited_listener(passed(), descriptor)
            assert caught.value.where == f"LISTEN_FDS (descriptor {descriptor})"
    finally:
        for each in (datagram, unix, quiet):
            each.close()
        os.close(reader)
        os.close(writer)
