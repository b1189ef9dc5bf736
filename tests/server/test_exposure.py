"""Where a node may listen."""

import pytest

from tierserve.config import KeysConfig, ServerConfig, TlsConfig
from tierserve.errors import ConfigError
from tierserve.server.exposure import check_exposure, is_loopback, warn_of_plain_text
from tierserve.server.listening import listen

KEYS = KeysConfig(env="KEYS")
LOOPBACK = ["127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1"]
OTHERS = ["0.0.0.0", "::", "10.0.0.1", "192.168.1.1", "8.8.8.8", "fe80::1%eth0", "::ffff:10.0.0.1", "2001:db8::1"]


@pytest.mark.parametrize("address", LOOPBACK)
def test_on_loopback_nothing_is_asked_for(address: str) -> None:
    assert is_loopback(address)
    check_exposure(ServerConfig(), address)


@pytest.mark.parametrize("address", OTHERS)
def test_elsewhere_it_needs_keys_or_a_word(address: str) -> None:
    with pytest.raises(ConfigError, match="server.host: .*`server.keys`, or `server.open: true`"):
        check_exposure(ServerConfig(), address)
    check_exposure(ServerConfig(keys=KEYS), address)
    check_exposure(ServerConfig(open=True), address)


def test_the_default_is_loopback_and_a_public_socket_is_never_bound() -> None:
    listen(ServerConfig(port=0)).close()
    for host in ("0.0.0.0", "::"):
        with pytest.raises(ConfigError, match="without keys anybody could use the node"):
            listen(ServerConfig(host=host, port=0))


def test_keys_in_plain_text_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    files = TlsConfig(certificate="c", key="k")
    for quiet, address in (
        (ServerConfig(open=True), "10.0.0.1"),
        (ServerConfig(keys=KEYS), "127.0.0.1"),
        (ServerConfig(keys=KEYS, tls=files), "10.0.0.1"),
    ):
        warn_of_plain_text(quiet, address)
    assert caplog.text == ""
    warn_of_plain_text(ServerConfig(keys=KEYS), "10.0.0.1")
    assert "plain text" in caplog.text
