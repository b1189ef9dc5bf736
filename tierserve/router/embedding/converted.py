"""The encoder's network as a backend wants it: converted once, checked against torch's, kept in a cache folder.

    network = open_converted(OpenVino.here(), Source(folder, sha256), cache, threads=1, max_tokens=256)

An entry is a folder, named after all that its content depends on and put in place by one rename: processes that convert
at the same time, and ones that are interrupted, do no harm. One that fails the check is kept as well, so that the next
start knows without converting.
"""

import hashlib
import importlib.metadata
import importlib.util
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tierserve.errors import BackendUnusable
from tierserve.router.embedding.network import Backend, Network
from tierserve.router.embedding.tokens import shapes

LEAST_COSINE = 0.99  # to torch's vector and its first part, for every text of conversion.SAMPLE
CHECK = "check.json"

_LAYOUT = "2"  # of an entry: raised with every change to what conversion.py writes or checks
_TIMEOUT_S = 600
_MAKING = ".making-"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """The original: its folder, and the sha256 of its weights."""

    folder: Path
    sha256: str


def open_converted(backend: Backend, source: Source, cache: Path, threads: int, max_tokens: int) -> Network:
    """Takes a quarter of a minute where it has to convert. Raises BackendUnusable, or whatever the library does."""
    entry = cache / _name(backend, source)
    if (cosine := _checked(entry)) is not None:
        _trust(cosine)
        return backend.open(entry, threads, shapes(max_tokens))
    log.info("converting the encoder for %s (%s), once: about 15 seconds", backend.name, backend.form)
    with _workshop(cache) as made:
        _convert(backend, source, made)
        cosine = _checked(made)
        place = _published(made, entry)
        _trust(cosine)
        return backend.open(place, threads, shapes(max_tokens))


def file_digest(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _name(backend: Backend, source: Source) -> str:
    parts = [_LAYOUT, source.sha256, *(f"{package} {_version(package)}" for package in backend.packages)]
    return f"{backend.name}-{backend.form}-{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]}"


def _version(package: str) -> str:
    if importlib.util.find_spec(package) is None:
        raise BackendUnusable(f"the package {package} is not installed")
    return importlib.metadata.version(package)


def _checked(entry: Path) -> float | None:
    """The entry's least cosine to the original; None where it is not there, not whole or not what was written."""
    if not entry.exists():
        return None
    try:
        check = json.loads((entry / CHECK).read_text())
        if all(file_digest(entry / name) == digest for name, digest in check["sha256"].items()):
            return float(check["least_cosine"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    log.warning("%s is damaged: converting again", entry)
    return None


def _trust(cosine: float | None) -> None:
    if cosine is None:
        raise BackendUnusable("what was converted can't be read back")
    if cosine < LEAST_COSINE:
        raise BackendUnusable(f"converted, its vectors are too far from the original's: cosine {cosine:.3f}")


@contextmanager
def _workshop(cache: Path) -> Iterator[Path]:
    """An empty folder to convert into, removed at the end; beside the entries, so that one rename makes it one."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        for left in cache.glob(f"{_MAKING}*"):  # by a process that was killed
            if time.time() - left.stat().st_mtime > 2 * _TIMEOUT_S:
                shutil.rmtree(left, ignore_errors=True)
        place = tempfile.mkdtemp(prefix=_MAKING, dir=cache)
    except OSError as error:
        log.warning("%s can't be written (%s): the encoder is converted at each start", cache, error.strerror)
        place = tempfile.mkdtemp(prefix="tierserve-")
    try:
        made = Path(place) / "made"
        made.mkdir()
        yield made
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _published(made: Path, entry: Path) -> Path:
    """Where the conversion now lies: at `entry`, or still where it was made if that can't be."""
    try:
        if entry.exists():
            if _checked(entry) is not None:  # another process was as early, and a little faster
                return entry
            entry.rename(made.with_name("damaged"))
        made.rename(entry)
    except OSError:
        return made
    return entry


def _convert(backend: Backend, source: Source, target: Path) -> None:
    command = [sys.executable, "-P", "-m", "tierserve.router.embedding.conversion"]
    command += [backend.name, backend.form, str(source.folder), str(target)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}  # the very modules of this process
    try:
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        raise BackendUnusable(f"converting it took more than {_TIMEOUT_S} seconds") from None
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        raise BackendUnusable(f"converting it failed: {last[0]}")
