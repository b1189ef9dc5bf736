"""What the service manager is told: sd_notify(3), the datagrams of systemd's Type=notify services.

    manager = Manager.from_environment()
    manager.status("loading the router")
    manager.ready("ready: small, large")

Where nobody listens, as at a terminal, nothing is sent.
"""

import logging
import os
import socket
import time
from collections.abc import MutableMapping
from dataclasses import dataclass, field

log = logging.getLogger(__name__)

_MICRO = 1_000_000


@dataclass(slots=True)
class Manager:
    """`address` is the socket's path; `@` in front means one in Linux' abstract namespace; None: nobody listens.

    `watchdog_s` is how often at least it wants to hear that the node lives; None: it does not ask.
    """

    address: str | None = None
    watchdog_s: float | None = None
    _said: str = field(default="", init=False)
    _failing: bool = field(default=False, init=False)

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str] = os.environ) -> "Manager":
        """Takes the variables out of the environment: what the engines' processes would say is not the node's word."""
        address = environment.pop("NOTIFY_SOCKET", None)
        interval = environment.pop("WATCHDOG_USEC", "")
        meant_for = environment.pop("WATCHDOG_PID", "")
        ours = meant_for in ("", str(os.getpid())) and interval.isdecimal() and int(interval) > 0
        return cls(address or None, int(interval) / _MICRO if ours else None)

    def ready(self, status: str) -> None:
        """The node does its work: after loading, and after each reload."""
        self._send("READY=1", self._status(status))

    def status(self, text: str) -> None:
        """What it is doing, in one line for people; what was said last is not said again."""
        if text != self._said:
            self._send(self._status(text))

    def reloading(self) -> None:
        """`ready` must follow. The time lets the manager tell this reload from an earlier one."""
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send("RELOADING=1", f"MONOTONIC_USEC={now}")

    def stopping(self, status: str) -> None:
        self._send("STOPPING=1", self._status(status))

    def extend(self, seconds: float) -> None:
        """Ask for that long, from now, before a start or an end counts as failed."""
        self._send(f"EXTEND_TIMEOUT_USEC={round(seconds * _MICRO)}")

    def alive(self) -> None:
        """Feed the watchdog."""
        self._send("WATCHDOG=1")

    def _status(self, text: str) -> str:
        self._said = text
        return f"STATUS={' '.join(text.split())}"

    def _send(self, *assignments: str) -> None:
        if self.address is None:
            return
        address = f"\0{self.address[1:]}" if self.address.startswith("@") else self.address
        try:
            with socket.socket(
                socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
            ) as sender:
                sender.sendto("\n".join(assignments).encode(), address)
        except OSError as error:  # the node serves on; a manager that hears nothing acts by itself
            if not self._failing:
                log.warning("the service manager can't be told %s (%s)", assignments[0], error)
            self._failing = True
        else:
            self._failing = False
