"""Whose keys are known: read from a file and a variable, kept as hashes, found without a hint at which it was.

    keys = read_keys(config.server.keys, os.environ.get)
    keys.find("ts-...")              # the entry, or None

A key is 256 random bits, so one round of SHA-256 is enough: what makes passwords need a slow hash is that they can be
guessed, and nobody guesses among 2^256. A slow one would only be work that anybody could have the node do.
"""

import hashlib
import hmac
import json
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tierserve.config import YAML_ERRORS, KeyEntry, KeysConfig, first_problem, parse_yaml
from tierserve.errors import ConfigError

# A key that somebody else made, and that stands in the environment as it is, must not be one that can be guessed.
_LEAST_CHARS = 32
_MAKE = "make an entry with `tierserve key --name NAME`"


class Keys:
    """Entries by the digest of their key. Immutable."""

    def __init__(self, entries: Iterable[KeyEntry]) -> None:
        """Raises ValueError, with the name, for entries that have a name or a key in common."""
        self._secret = secrets.token_bytes(32)
        self._entries: dict[bytes, KeyEntry] = {}
        names: set[str] = set()
        for entry in entries:
            place = self._blinded(bytes.fromhex(entry.sha256))
            if entry.name in names:
                raise ValueError(f"the name {entry.name} stands twice")
            if place in self._entries:
                raise ValueError(f"{self._entries[place].name} and {entry.name} have the same key")
            names.add(entry.name)
            self._entries[place] = entry

    def __iter__(self) -> Iterator[KeyEntry]:
        return iter(self._entries.values())

    def find(self, key: str) -> KeyEntry | None:
        """The entry of a key that was presented."""
        digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
        return self._entries.get(self._blinded(digest))

    def _blinded(self, digest: bytes) -> bytes:
        """Where an entry is kept: a MAC under a secret of this process.

        What a look-up takes may tell something of the place that it looked at, so that place must tell nothing of the
        hash: without the secret nobody can choose keys whose places come near a stored one. Comparing with every entry
        would hide it as well, in time that grows with their number.
        """
        return hmac.digest(self._secret, digest, "sha256")


def read_keys(config: KeysConfig, variable: Callable[[str], str | None]) -> Keys:
    """What the file and the variable hold. Raises ConfigError, which quotes no key and no hash."""
    found = []
    if config.file is not None:
        try:
            text = Path(config.file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError("server.keys.file", f"{config.file} can't be read ({_reason(error)})", _MAKE) from None
        found += _entries(config.file, text, may_be_plain=False)
    if config.env is not None:
        value = variable(config.env)
        if not value:
            raise ConfigError("server.keys.env", f"the environment variable {config.env} is not set", _MAKE)
        found += _entries(f"${config.env}", value, may_be_plain=True)
    return _keys("server.keys", found)


def new_key() -> str:
    """256 random bits; the prefix lets scanners of published secrets, and people, know what it is."""
    return f"ts-{secrets.token_urlsafe(32)}"


def make_entry(key: str, stated: Mapping[str, Any]) -> KeyEntry:
    """`stated` is all but the hash. Raises ConfigError."""
    return _entry("the new key", dict(stated) | {"sha256": _sha256(key)}, may_be_plain=False)


def add_entry(path: Path, entry: KeyEntry) -> None:
    """Add an entry to a file, which need not be there yet. Raises ConfigError where the file would not do then."""
    try:
        before = path.read_text(encoding="utf-8") if path.exists() else ""
        gap = "" if not before or before.endswith("\n") else "\n"
        added = f"{gap}{entry_line(entry)}\n"
        _keys(str(path), _entries(str(path), before + added, may_be_plain=False))
        with path.open("a", encoding="utf-8") as file:
            file.write(added)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("--add", f"{path} can't be used ({_reason(error)})", "name another file") from None


def entry_line(entry: KeyEntry) -> str:
    """An entry as a line of the keys' file: YAML, of which JSON is a part."""
    return f"- {json.dumps(entry.model_dump(exclude_defaults=True))}"


def _sha256(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def _keys(where: str, entries: Iterable[KeyEntry]) -> Keys:
    try:
        return Keys(entries)
    except ValueError as error:
        raise ConfigError(where, str(error), "give each key an entry and a name of its own") from None


def _entries(where: str, text: str, may_be_plain: bool) -> list[KeyEntry]:
    try:
        data = parse_yaml(text)
    except YAML_ERRORS as error:
        mark = getattr(error, "problem_mark", None)  # all else that the error says quotes the text
        line = f" (line {mark.line + 1})" if mark else ""
        raise ConfigError(where, f"is not YAML{line}", "correct the syntax") from None
    if not isinstance(data, list) or not data:
        raise ConfigError(where, "holds no list of keys", _MAKE)
    return [_entry(f"{where} entry {number}", entry, may_be_plain) for number, entry in enumerate(data, start=1)]


def _entry(where: str, data: Any, may_be_plain: bool) -> KeyEntry:
    if not isinstance(data, dict):
        raise ConfigError(where, "is no entry", _MAKE)
    if "key" in data:
        if not may_be_plain:
            raise ConfigError(f"{where}: key", "the key itself stands in the file", "keep its hash there, as `sha256`")
        data = _hashed(where, data)
    try:
        return KeyEntry.model_validate(data)
    except ValidationError as error:
        if error.errors()[0]["loc"] == ("sha256",) and "sha256" in data:
            raise ConfigError(f"{where}: sha256", "is no SHA-256 in 64 hexadecimal digits", _MAKE) from None
        raise first_problem(where, error, KeyEntry) from None


def _hashed(where: str, data: dict[str, Any]) -> dict[str, Any]:
    key = data["key"]
    if "sha256" in data:
        raise ConfigError(where, "has both `key` and `sha256`", "remove one")
    if not isinstance(key, str) or len(key) < _LEAST_CHARS:
        raise ConfigError(f"{where}: key", f"is no text of {_LEAST_CHARS} characters or more", _MAKE)
    return {name: value for name, value in data.items() if name != "key"} | {"sha256": _sha256(key)}


def _reason(error: OSError | UnicodeDecodeError) -> str:
    return (error.strerror or "no such file") if isinstance(error, OSError) else "it is not UTF-8"
