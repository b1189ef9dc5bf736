"""HTTPS: a certificate that can be renewed while the node runs, and connections that don't linger."""

import asyncio
import ssl

from aiohttp import web

from tierserve.config import TlsConfig
from tierserve.errors import ConfigError

# A connection whose handshake never comes to an end would be kept for a minute, and the node's end with it; nobody
# near or far needs so long. The second: for a caller that does not answer our goodbye.
_HANDSHAKE_S = 5.0
_SHUTDOWN_S = 1.0
_REMEDY = "name two PEM files that belong together, the key not encrypted"


class Certificate:
    """`context` is one and the same for the node's life; connections made after `reload` get what was read then."""

    def __init__(self, config: TlsConfig) -> None:
        """Raises ConfigError."""
        self.context = _context(config)

    def reload(self, config: TlsConfig) -> None:
        """Read the files again. Raises ConfigError, and then those read before stay in use."""
        _context(config)  # a pair that does not fit would leave the one in use half replaced
        _read(self.context, config)


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
