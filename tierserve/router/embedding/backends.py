"""Which library the encoder's network runs on: the configured one, or the first after it that can be used here."""

import logging
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tierserve.errors import BackendUnusable
from tierserve.router.embedding.converted import Source, open_converted
from tierserve.router.embedding.network import Backend, Network
from tierserve.router.embedding.onnx_network import Onnx
from tierserve.router.embedding.openvino_network import OpenVino

if TYPE_CHECKING:
    from tierserve.config import EncoderConfig

log = logging.getLogger(__name__)


def open_network(config: "EncoderConfig", source: Source) -> tuple[Network, str]:
    """The network, and what it runs on, for people. Raises only where torch's original can't be loaded either.

    A backend that was configured and can't be had is no error: the vectors are the same without it, and a node that
    routes more slowly serves better than one that does not start.
    """
    for backend in _backends(config.backend):
        try:
            network = open_converted(backend, source, _cache(config.cache_folder), config.threads, config.max_tokens)
            return network, f"{backend.name} {backend.form}"
        except BackendUnusable as error:
            reason = str(error)
        except Exception as error:  # the library's own, of whatever kind
            reason = f"{type(error).__name__}: {error}"
        log.warning("the encoder can't run on %s, so on the next, slower one: %s", backend.name, reason)
    from tierserve.router.embedding.torch_network import TorchNetwork

    return TorchNetwork(source.folder, config.threads), "sentence-transformers fp32"


def _backends(configured: str) -> Iterator[Backend]:
    """The configured one and those after it."""
    x86 = platform.machine() in ("x86_64", "AMD64")
    if configured == "openvino" or (configured == "auto" and x86):
        yield OpenVino.here()
    if configured != "sentence-transformers":
        yield Onnx()


def _cache(configured: str | None) -> Path:
    if configured is not None:
        return Path(configured).expanduser()
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "tierserve" / "encoder"
