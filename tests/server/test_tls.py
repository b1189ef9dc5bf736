"""HTTPS: what is accepted, how it is renewed, and that nobody who stops halfway holds up the end."""

import asyncio
import datetime
import ipaddress
import json
import socket
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tierserve.config import ServerConfig, TlsConfig, load
from tierserve.errors import ConfigError
from tierserve.server import tls
from tierserve.server.connection import Runner
from tierserve.server.tls import Certificate, TlsSite


def write_pair(folder: Path, name: str, password: bytes | None = None) -> TlsConfig:
    """A certificate for this host, signed by itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
    hosts = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    made = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number(), now - day, now + day)
        .add_extension(x509.SubjectAlternativeName(hosts), critical=False)
        .sign(key, hashes.SHA256())
    )
    locked = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    config = TlsConfig(certificate=str(folder / f"{name}.pem"), key=str(folder / f"{name}.key"))
    Path(config.certificate).write_bytes(made.public_bytes(serialization.Encoding.PEM))
    pkcs8 = serialization.PrivateFormat.PKCS8
    Path(config.key).write_bytes(key.private_bytes(serialization.Encoding.PEM, pkcs8, locked))
    return config


def serving(certificate: Certificate, ask: Callable[[tuple[str, int]], Awaitable[None]]) -> None:
    """Runs `ask` against a site, on the event loop that nodes use, to the site's end and the loop's."""

    async def run() -> None:
        runner = Runner(web.Application(), ServerConfig(), lambda status: None, 5.0)
        await runner.setup()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            await TlsSite(runner, listener, ssl_context=certificate.context).start()
            await ask(listener.getsockname())
            async with asyncio.timeout(30):
                await runner.cleanup()

    uvloop.run(run())


async def served(address: tuple[str, int], trusted: TlsConfig, name: str) -> str:
    """The common name of the certificate that a caller is shown, who trusts this one alone."""
    context = ssl.create_default_context(cafile=trusted.certificate)
    reader, writer = await asyncio.open_connection(*address, ssl=context, server_hostname=name)
    writer.write(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    assert (await reader.read()).startswith(b"HTTP/1.1 404")
    writer.close()
    subject: Any = writer.get_extra_info("peercert")["subject"]
    return str(subject[0][0][1])


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])  # a caller names hosts to the server, and no addresses
def test_a_renewed_certificate_is_shown_from_then_on(tmp_path: Path, host: str) -> None:
    old, new = write_pair(tmp_path, "old"), write_pair(tmp_path, "new")
    certificate = Certificate(old)

    async def ask(address: tuple[str, int]) -> None:
        assert await served(address, old, host) == "old"
        apply = certificate.prepare(new)
        assert await served(address, old, host) == "old"
        apply()
        assert await served(address, new, host) == "new"
        with pytest.raises(ConfigError):
            certificate.prepare(TlsConfig(certificate=old.certificate, key=new.key))
        assert await served(address, new, host) == "new"

    serving(certificate, ask)


def test_older_than_tls_1_2_is_not_spoken(tmp_path: Path) -> None:
    assert Certificate(write_pair(tmp_path, "a")).context.minimum_version is ssl.TLSVersion.TLSv1_2


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01\x02\x00\x01\x00"], ids=["nothing", "a part of a hello"])
def test_a_handshake_that_never_ends_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    monkeypatch.setattr(tls, "_HANDSHAKE_S", 0.05)

    async def ask(address: tuple[str, int]) -> None:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(sent)
        async with asyncio.timeout(30):  # half of what it would be otherwise
            assert await reader.read() == b""
        writer.close()

    serving(Certificate(write_pair(tmp_path, "a")), ask)


def test_files_that_will_not_do_are_named(tmp_path: Path) -> None:
    good, other = write_pair(tmp_path, "good"), write_pair(tmp_path, "other")
    locked = write_pair(tmp_path, "locked", password=b"sesame")
    (tmp_path / "text").write_text("no PEM")
    for certificate, key, message in (
        (str(tmp_path / "absent"), good.key, r"server.tls.certificate: .*absent can't be read \(No such file"),
        (good.certificate, str(tmp_path / "absent"), "server.tls.key: .*absent can't be read"),
        (good.certificate, str(tmp_path), "server.tls.key: .*can't be read"),
        (good.certificate, other.key, "is not the certificate's"),
        (str(tmp_path / "text"), good.key, "can't be used"),
        (good.certificate, str(tmp_path / "text"), "can't be used"),
        (locked.certificate, locked.key, "can't be used .* the key not encrypted"),
    ):
        with pytest.raises(ConfigError, match=message):
            Certificate(TlsConfig(certificate=certificate, key=key))


def test_paths_are_relative_to_the_configuration(tmp_path: Path) -> None:
    small, large = ({"name": name, "remote": {"url": "http://x", "model": "m"}} for name in "sl")
    tiers = json.dumps({"small": small, "large": large})
    server = "{keys: {file: keys.yaml}, tls: {certificate: tls/a.pem, key: ../a.key}}"
    (tmp_path / "node.yaml").write_text(f"server: {server}\ntiers: {tiers}")
    config = load(tmp_path / "node.yaml").server
    assert config.keys and config.tls
    assert config.keys.file == str(tmp_path / "keys.yaml")
    assert config.tls == TlsConfig(certificate=str(tmp_path / "tls/a.pem"), key=str(tmp_path.parent / "a.key"))
