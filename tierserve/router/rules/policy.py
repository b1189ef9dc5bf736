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
    return _policy(
        config, _threshold(config), ScoreCache(config.cache_entries, config.cache_ttl_s), Conversations(*_kept(config))
    )


def renewed(policy: Policy, config: "RouterConfig") -> Policy:
    """Other rules, over what the rules before had learnt: their threshold's history, scores and conversations."""
    threshold, target = policy.threshold, config.target_large_share
    if isinstance(threshold, ShareController) and target is not None:
        threshold.retarget(target, config.threshold, config.threshold_min, config.threshold_max)
    else:
        threshold = _threshold(config)
    policy.cache.resize(config.cache_entries, config.cache_ttl_s)
    policy.conversations.resize(*_kept(config))
    return _policy(config, threshold, policy.cache, policy.conversations)


def _policy(config: "RouterConfig", threshold: Threshold, cache: ScoreCache, conversations: Conversations) -> Policy:
    load, kept = config.load, config.conversations
    relief = Relief(load.large_queue, load.small_queue, load.band) if load else None
    return Policy(threshold, cache, conversations, kept.short_follow_up_chars if kept else 0, relief)


def _threshold(config: "RouterConfig") -> Threshold:
    if config.target_large_share is None:
        return FixedThreshold(config.threshold)
    return ShareController(config.target_large_share, config.threshold, config.threshold_min, config.threshold_max)


def _kept(config: "RouterConfig") -> tuple[int, float]:
    """Turns of conversations, and for how long."""
    return (config.conversations.entries, config.conversations.ttl_s) if config.conversations else (0, 0)
