"""What turns token ids into sentence vectors, and what a library has to offer to be used for it.

backend = OpenVino.here()
backend.convert(module, folder)                  # in a process of its own: see conversion.py
network = backend.open(folder, threads=1, shapes=[(1, 8), (1, 16)])
vectors = network(ids, mask)

A vector has three parts, each of unit length: the sentence's own (what sentence-transformers gives), and the means of
its tokens' states half way through the network and before its first layer. The later layers were trained to let go of
wording, which says much about how hard a question is: benchmarks/routing_quality.py shows what the other two add.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

Vectors = NDArray[np.float32]
Ids = NDArray[np.int64]


class Network(Protocol):
    def __call__(self, ids: Ids, mask: Ids) -> Vectors:
        """Vectors, shape (texts, dimensions). ids, mask: shape (texts, tokens); the mask is 0 at padding, else 1.

        The result is the caller's own: the next call leaves it alone.
        """


class Backend(Protocol):
    """A library that runs the network in a form of its own, converted from torch's."""

    @property
    def name(self) -> str:
        """As in the configuration: `router.encoder.backend`."""

    @property
    def form(self) -> str:
        """What the weights are kept as, and so which of its conversions this is."""

    @property
    def packages(self) -> tuple[str, ...]:
        """What must be installed; a conversion is good for the versions it was made with."""

    def convert(self, module: "torch.nn.Module", folder: Path) -> None:
        """Write the network, as files directly in `folder`. `module(ids, mask)` is torch's."""

    def open(self, folder: Path, threads: int, shapes: Iterable[tuple[int, int]]) -> Network:
        """The network in `folder`, ready to be called at once for the shapes (texts, tokens)."""
