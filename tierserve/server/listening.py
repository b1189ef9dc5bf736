"""The listening socket: the node's own, or one that the service manager opened and holds, sd_listen_fds(3).

The service manager's outlives the node: while one node ends and the next loads, callers wait in its queue and none is
refused.
"""

import errno
import os
import socket
from collections.abc import MutableMapping
from typing import Final

from tierserve.config import ServerConfig
from tierserve.errors import ConfigError
from tierserve.server.exposure import check_exposure

BACKLOG: Final = 1024
_FIRST = 3
_REMEDY = "let the socket unit have one ListenStream= with an address and a port"


def listen(config: ServerConfig) -> socket.socket:
    """A bound socket, before anything is loaded: a port that is taken is said at once. Raises ConfigError."""
    try:
        address = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM)[0]
        check_exposure(config, str(address[4][0]))
        listener = socket.socket(address[0], socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address[4])
        listener.listen(BACKLOG)
        return listener
    except UnicodeError:
        raise ConfigError("server.host", f"{config.host!r} is no host's name or address", "correct it") from None
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            remedy = "stop what listens there, or choose another port"
            raise ConfigError("server.port", f"{config.host}:{config.port} is in use", remedy) from None
        where = "server.port" if error.errno == errno.EACCES else "server.host"
        raise ConfigError(
            where, f"can't listen on {config.host}:{config.port} ({error.strerror})", "choose another"
        ) from None


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
