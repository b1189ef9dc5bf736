"""The decision log, with what it has from the router."""

from typing import Final

from tierserve.config import NodeConfig
from tierserve.router.router import Router
from tierserve.router.scoring.features import features
from tierserve.router.vectors import Vectors
from tierserve.telemetry.decisions.log import DecisionLog

# Prompts whose vectors are at hand when their requests end; as many as the cache has scores, where those are more.
_VECTORS: Final = 10_000


def build_decision_log(config: NodeConfig, router: Router) -> DecisionLog | None:
    """Not yet started; None where none is kept. Raises ConfigError."""
    options = config.decisions
    if options is None:
        return None
    vector_of = None
    if options.embeddings:
        vectors = router.vectors = Vectors(max(config.router.cache_entries, _VECTORS))
        vector_of = vectors.find
    return DecisionLog(options, lambda: router.threshold, vector_of, features)
