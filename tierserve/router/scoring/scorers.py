"""What gives a prompt its score: a fitted head, or one of the two that it is compared with."""

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from tierserve.core import Prompt
from tierserve.errors import ConfigError
from tierserve.router.embedding.encoder import Encoder
from tierserve.router.scoring.head import DEFAULT, Head
from tierserve.router.scoring.length import LengthScorer
from tierserve.router.scoring.seeds import SeedScorer

if TYPE_CHECKING:
    from tierserve.config import RouterConfig


class Scorer(Protocol):
    def score(self, prompt: Prompt, vector: NDArray[np.float32]) -> float:
        """Complexity, 0 (trivial) to 10 (hard), finite; `vector` is the encoder's for the text."""


def build_scorer(config: "RouterConfig", encoder: Encoder) -> Scorer:
    """The configured scorer. Raises ConfigError."""
    match config.scorer:
        case "head":
            return load_head(Path(config.head) if config.head else DEFAULT, encoder)
        case "seeds":
            return SeedScorer(encoder)
        case "length":
            return LengthScorer()


def load_head(path: Path, encoder: Encoder) -> Head:
    """A head that goes with this encoder. Raises ConfigError."""
    head = Head.load(path)
    dimensions = encoder.encode([""]).shape[1]
    if head.dimensions != dimensions or head.example_vectors.shape[1] != encoder.own:
        raise ConfigError(
            "router.head",
            f"{path} was fitted on another encoder ({head.dimensions} numbers a prompt, this one gives {dimensions})",
            "fit one with `tierserve calibrate` and this encoder",
        )
    return head
