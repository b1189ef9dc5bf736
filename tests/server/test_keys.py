"""Keys: read, refused, found, made."""

import hashlib
import hmac
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.test_cli import run as run
from tierserve.config import KeyEntry, KeysConfig
from tierserve.errors import ConfigError
from tierserve.server import keys as module
from tierserve.server.keys import Keys, entry_line, new_key, read_keys

KEY, OTHER = "ts-" + "k" * 43, "ts-" + "o" * 43


def entry(key: str = KEY, **options: Any) -> dict[str, Any]:
    return {"name": "app", "sha256": hashlib.sha256(key.encode()).hexdigest()} | options


def read(tmp_path: Path, entries: Any = None, text: str | None = None, variable: str | None = None) -> Keys:
    """Keys from a file, where there is something for it to hold, and a variable."""
    path = tmp_path / "keys.yaml"
    in_file = entries is not None or text is not None
    if in_file:
        path.write_text(json.dumps(entries) if text is None else text)
    config = KeysConfig(file=str(path) if in_file else None, env=None if variable is None else "KEYS")
    return read_keys(config, {"KEYS": variable}.get)


def test_a_key_is_found_by_itself_and_by_nothing_else(tmp_path: Path) -> None:
    keys = read(tmp_path, [entry(), entry(OTHER, name="other", priority=3)])
    found = [keys.find(key) for key in (KEY, OTHER)]
    assert [one and one.name for one in found] == ["app", "other"]
    for wrong in ("", KEY[:-1], KEY + "x", KEY.upper(), entry()["sha256"], "\udcff", "é"):
        assert keys.find(wrong) is None


def test_where_an_entry_lies_tells_nothing_of_its_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the dictionary compares is a MAC of the hash, under a secret that each process makes anew."""
    compared: list[bytes] = []
    digest = hmac.digest

    def seen(secret: bytes, message: bytes, algorithm: str) -> bytes:
        assert len(secret) == 32
        assert message == hashlib.sha256(KEY.encode()).digest()
        compared.append(digest(secret, message, algorithm))
        return compared[-1]

    monkeypatch.setattr(module.hmac, "digest", seen)
    for _ in range(2):
        keys = Keys([KeyEntry.model_validate(entry())])
        assert keys.find(KEY) is not None
    stored, presented, again, _ = compared
    assert stored == presented != again


def test_the_variable_may_hold_keys_and_the_file_may_not(tmp_path: Path) -> None:
    plain = f"- name: from-env\n  key: {OTHER}\n- {json.dumps(entry(name='hashed'))}"
    keys = read(tmp_path, variable=plain)
    assert {one.name for one in keys} == {"from-env", "hashed"}
    assert (found := keys.find(OTHER)) and found.name == "from-env"
    with pytest.raises(ConfigError, match="entry 1: key: the key itself stands in the file"):
        read(tmp_path, text=plain)


def test_file_and_variable_count_together(tmp_path: Path) -> None:
    keys = read(tmp_path, [entry()], variable=json.dumps([entry(OTHER, name="other")]))
    assert {one.name for one in keys} == {"app", "other"}
    with pytest.raises(ConfigError, match="server.keys: the name app stands twice"):
        read(tmp_path, [entry()], variable=json.dumps([entry(OTHER)]))


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([entry(), entry(OTHER)], "the name app stands twice"),
        ([entry(), entry(name="b")], "app and b have the same key"),
        ([entry(tiers=["small", "medium"])], "entry 1: tiers.1"),
        ([entry(tiers=[])], "entry 1: tiers"),
        ([entry(), entry(OTHER, name="b", requests_per_minute=-1)], "entry 2: requests_per_minute"),
        ([entry(tokens_per_minute=0)], "entry 1: tokens_per_minute"),
        ([entry(concurrency=1.5)], "entry 1: concurrency"),
        ([entry(name="two words")], "entry 1: name"),
        ([entry(requests_per_hour=1)], "entry 1: requests_per_hour: unknown option — did you mean `requests_per"),
        ([{"name": "app"}], "entry 1: sha256: missing"),
        (["app"], "entry 1: is no entry"),
        ({"app": KEY}, "holds no list of keys"),
        ([], "holds no list of keys"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(tmp_path: Path, entries: Any, message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        read(tmp_path, entries)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    "text",
    [
        f"- {{name: app, sha256: {KEY}}}",  # the key where its hash should be
        f"- {{name: app, key: {KEY}, sha256: {entry()['sha256']}}}",
        f"- {{name: app, key: {KEY[:31]}}}",
        f"- name: [{KEY}",
        f"- {KEY}: {KEY}\n  {KEY}: 1",
        f"- !!float {KEY}",
        f"{KEY}",
        f"- {KEY}",
    ],
)
def test_no_error_quotes_a_key(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError) as refused:
        read(tmp_path, variable=text)
    assert KEY[:31] not in str(refused.value)
    assert "$KEYS" in str(refused.value)


def test_no_keys_at_all_are_an_error_and_not_an_open_node(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="server.keys.env: the environment variable KEYS is not set"):
        read(tmp_path, variable="")
    with pytest.raises(ConfigError, match=r"server.keys.file: .*no.yaml can't be read"):
        read_keys(KeysConfig(file=str(tmp_path / "no.yaml")), {}.get)


def test_new_keys_have_256_random_bits_and_differ() -> None:
    made = {new_key() for _ in range(100)}
    assert len(made) == 100
    assert {len(key) for key in made} == {3 + 43}


def test_the_command_prints_the_key_once_and_an_entry_that_finds_it(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    status, out, err = run("key", "--name", "app", "--tokens-per-minute", "9", "--tiers", "small", "--admin")
    assert (status, err) == (0, "")
    key, line = (part.split(":", 1)[1].strip() for part in out.splitlines())
    found = read(tmp_path, text=line).find(key)
    assert found is not None
    assert (found.name, found.tokens_per_minute, found.tiers, found.admin) == ("app", 9, ["small"], True)
    assert out.count(key) == 1
    assert found.requests_per_minute is None


def test_the_command_adds_to_a_file_and_spoils_none(run: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text(f"# ours\n{entry_line(KeyEntry.model_validate(entry()))}")
    status, out, _ = run("key", "--name", "b", "--add", str(path))
    assert status == 0
    keys = read_keys(KeysConfig(file=str(path)), {}.get)
    assert (found := keys.find(out.strip())) and found.name == "b"
    assert keys.find(KEY) is not None
    before = path.read_text()
    for arguments in (["--name", "b"], ["--name", "c", "--concurrency", "-1"], ["--name", "c", "--tiers", "medium"]):
        status, out, err = run("key", *arguments, "--add", str(path))
        assert (status, out) == (2, "")
        assert err
    assert path.read_text() == before


def test_check_reads_the_keys(run: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    small, large = ({"name": name, "remote": {"url": "http://x/v1", "model": "m"}} for name in "sl")
    config = {"server": {"keys": {"file": "keys.yaml"}}, "tiers": {"small": small, "large": large}}
    (tmp_path / "node.yaml").write_text(json.dumps(config))
    (tmp_path / "keys.yaml").write_text(json.dumps([entry()]))
    assert run("check", "--config", str(tmp_path / "node.yaml"))[0] == 0
    (tmp_path / "keys.yaml").write_text(json.dumps([entry(priority="high")]))
    status, _, err = run("check", "--config", str(tmp_path / "node.yaml"))
    assert status == 2
    assert "keys.yaml entry 1: priority" in err
