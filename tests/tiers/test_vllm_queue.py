"""What a vLLM tier makes of its engine's counts; that they are an engine's, tests/server/test_node.py shows."""

from types import SimpleNamespace
from typing import Any

import pytest

from tierserve.config import TierConfig
from tierserve.core import Queue
from tierserve.tiers.vllm_tier import VllmTier


def tier(unfinished: int, waiting: dict[int, int], replicas: int = 1) -> VllmTier:
    """With a batch of 4 in each replica."""
    engine: Any = SimpleNamespace(
        vllm_config=SimpleNamespace(
            scheduler_config=SimpleNamespace(max_num_seqs=4),
            parallel_config=SimpleNamespace(data_parallel_size=replicas),
        ),
        output_processor=SimpleNamespace(get_num_unfinished_requests=lambda: unfinished),
    )
    tier = VllmTier(TierConfig(name="s", engine={"model": "m"}), "tiers.small")
    tier._engine, tier._waiting = engine, waiting
    return tier


@pytest.mark.parametrize(
    ("unfinished", "waiting", "replicas", "expected"),
    [
        (0, {}, 1, Queue(0, True)),
        (3, {0: 0}, 1, Queue(0, True)),
        (4, {0: 0}, 1, Queue(0, False)),
        (9, {0: 0}, 1, Queue(5, False)),
        (9, {}, 2, Queue(1, False)),
        (3, {0: 2}, 1, Queue(2, False)),
        (3, {0: 1, 1: 1}, 2, Queue(2, False)),
        (0, {0: 2}, 1, Queue(0, True)),
    ],
    ids=["idle", "room", "full", "beyond the batch", "replicas", "no room in the cache", "of each core", "taken back"],
)
def test_waiting_is_what_exceeds_the_batch_or_what_the_scheduler_says(
    unfinished: int, waiting: dict[int, int], replicas: int, expected: Queue
) -> None:
    assert tier(unfinished, waiting, replicas).queue == expected


def test_a_tier_without_an_engine_has_no_queue() -> None:
    assert VllmTier(TierConfig(name="s", engine={"model": "m"}), "tiers.small").queue == Queue()
