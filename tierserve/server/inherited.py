"""A listening socket that the service manager opened and holds: sd_listen_fds(3).

It outlives the node, so while one node ends and the next loads, callers wait in its queue and none is refused.
"""

import os
import socket
from collections.abc import MutableMapping

from tierserve.errors import ConfigError

_FIRST = 3
_REMEDY = "let the socket unit have one ListenStream= with an address and a port"


def inherited_listener(environment: MutableMapping[str, str] = os.environ, first: int = _FIRST) -> socket.socket | None:
    """The socket that was passed, None where none was meant for this process. `first` is its descriptor.

    Takes the variables out of the environment, and lets no child inherit the socket. Raises ConfigError for anything
    but one listening TCP socket.
    """
    count = environment.pop("LISTEN_FDS", "")
    meant_for = environment.pop("LISTEN_PID", "")
    environment.pop("LISTEN_FDNAMES", None)
    if not count or meant_for != str(os.getpid()):
        return None
    if not count.isdecimal() or int(count) == 0:
        raise ConfigError("LISTEN_FDS", f"{count!r} is no number of sockets", _REMEDY)
    if int(count) > 1:
        raise ConfigError("LISTEN_FDS", f"{count} sockets were passed, and one is served", _REMEDY)
    return _checked(first)


def _checked(descriptor: int) -> socket.socket:
    where = f"LISTEN_FDS (descriptor {descriptor})"
    try:
        os.set_inheritable(descriptor, False)
        listener = socket.socket(fileno=descriptor)
    except OSError as error:
        raise ConfigError(where, f"is no socket ({error.strerror})", _REMEDY) from None
    try:
        is_tcp = listener.family in (socket.AF_INET, socket.AF_INET6) and listener.type == socket.SOCK_STREAM
        if not is_tcp:
            raise ConfigError(where, f"is no TCP socket but {_name(listener)}", _REMEDY)
        if not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise ConfigError(where, "does not listen", "set Accept=no in the socket unit")
    except ConfigError:
        listener.detach()  # whoever opened it closes it
        raise
    return listener


def _name(listener: socket.socket) -> str:
    return ", ".join(getattr(kind, "name", str(kind)) for kind in (listener.family, listener.type))
