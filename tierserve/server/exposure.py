"""Whether the node may listen where it is told to: not for all the world, unless somebody said so."""

import ipaddress
import logging

from tierserve.config import ServerConfig
from tierserve.errors import ConfigError

log = logging.getLogger(__name__)


def check_exposure(config: ServerConfig, address: str) -> None:
    """Refuse an address that others can reach where anybody would be answered. Raises ConfigError.

    `address` is the numeric one that the node's socket is, or will be, bound to.
    """
    if config.keys is None and not config.open and not is_loopback(address):
        raise ConfigError(
            "server.host",
            f"others can reach {address}, and without keys anybody could use the node",
            "set `server.keys`, or `server.open: true` if that is meant",
        )


def warn_of_plain_text(config: ServerConfig, address: str) -> None:
    """Keys that travel as plain text are anybody's on the way."""
    if config.keys is not None and config.tls is None and not is_loopback(address):
        log.warning("keys come over %s as plain text: set server.tls, or let a proxy on this host do it", address)


def is_loopback(address: str) -> bool:
    """Of a numeric address, with or without a zone."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(parsed, "ipv4_mapped", None)
    return (mapped or parsed).is_loopback
