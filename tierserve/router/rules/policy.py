"""The rules that the router asks, as the configuration sets them."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tierserve.router.rules.cache import ScoreCache
from tierserve.router.rules.controller import FixedThreshold, ShareController, Threshold
from tierserve.router.rules.conversations import Conversations
from tierserve.router.rules.relief import Relief

if TYPE_CHECKING:
    from tierserve.config import RouterConfig


@dataclass(frozen=True, slots=True)
class Policy:
    """`relief` is None where the tiers' queues do not count."""

    threshold: Threshold
    cache: ScoreCache
    conversations: Conversations
    short_follow_up_chars: int
    relief: Relief | None


def build_policy(config: "RouterConfig") -> Policy:
    threshold: Threshold = FixedThreshold(config.threshold)
    if config.target_large_share is not None:
        bounds = config.threshold_min, config.threshold_max
        threshold = ShareController(config.target_large_share, config.threshold, *bounds)
    kept = config.conversations
    return Policy(
        threshold,
        ScoreCache(config.cache_entries, config.cache_ttl_s),
        Conversations(kept.entries, kept.ttl_s) if kept else Conversations(0, 0),
        kept.short_follow_up_chars if kept else 0,
        Relief(config.load.large_queue, config.load.small_queue, config.load.band) if config.load else None,
    )
