"""HTTPS: a certificate that can be renewed while the node runs, and connections that don't linger."""

import asyncio
import ssl
from collections.abc import Callable

from aiohttp import web

from tierserve.config import TlsConfig
from tierserve.errors import ConfigError

# A connection whose handshake never comes to an end would be kept for a minute, and the node's end with it; nobody
# near or far needs so long. The second: for a caller that does not answer our goodbye.
_HANDSHAKE_S = 5.0
_SHUTDOWN_S = 1.0
_REMEDY = "name two PEM files that belong together, the key not encrypted"


class Certificate:
    """`context` is one and the same for the node's life; it passes each new connection on to what was read last."""

    def __init__(self, config: TlsConfig) -> None:
        """Raises ConfigError."""
        self._current = self.context = _context(config)
        self.context.sni_callback = self._pass_on

    def prepare(self, config: TlsConfig) -> Callable[[], None]:
        """Read the files again; what is returned puts them in force. Raises ConfigError."""
        renewed = _context(config)

        def apply() -> None:
            self._current = renewed

        return apply

    def _pass_on(self, connection: ssl.SSLSocket | ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        """Asked by OpenSSL at the start of every handshake, whether the caller names a host or not."""
        if self._current is not context:
            connection.context = self._current


class TlsSite(web.SockSite):
    """aiohttp's, which has no way to say how long a handshake may take."""

    async def start(self) -> None:
        await web.BaseSite.start(self)
        assert self._runner.server is not None
        self._server = await asyncio.get_running_loop().create_server(
            self._runner.server,
            sock=self._sock,
            ssl=self._ssl_context,
            backlog=self._backlog,
            ssl_handshake_timeout=_HANDSHAKE_S,
            ssl_shutdown_timeout=_SHUTDOWN_S,
        )


def _context(config: TlsConfig) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    _read(context, config)
    return context


def _read(context: ssl.SSLContext, config: TlsConfig) -> None:
    for name, path in (("certificate", config.certificate), ("key", config.key)):
        try:
            open(path, "rb").close()
        except OSError as error:
            raise ConfigError(f"server.tls.{name}", f"{path} can't be read ({error.strerror})", "correct it") from None
    try:
        # With a password, so that OpenSSL does not ask for one at the terminal.
        context.load_cert_chain(config.certificate, config.key, password="")
    except ssl.SSLError as error:
        fits = error.reason != "KEY_VALUES_MISMATCH"
        problem = f"can't be used ({error.reason or error})" if fits else "is not the certificate's"
        raise ConfigError("server.tls.key", f"{config.key} with {config.certificate} {problem}", _REMEDY) from None
