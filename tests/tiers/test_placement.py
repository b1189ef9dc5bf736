from typing import Any

import pytest

from tierserve.config import TierConfig, TiersConfig
from tierserve.errors import ConfigError
from tierserve.tiers.placement import check_placement, describe, devices, share_a_device


def tiers(small: dict[str, Any], large: dict[str, Any]) -> TiersConfig:
    return TiersConfig(
        small=TierConfig(name="s", engine={"model": "m"} | small),
        large=TierConfig(name="l", engine={"model": "m"} | large),
    )


@pytest.mark.parametrize(
    ("options", "expected", "text"),
    [
        ({}, (0,), "device 0"),
        ({"tensor_parallel_size": 2}, (0, 1), "devices 0, 1 (tensor parallel 2)"),
        ({"device_ids": [3]}, (3,), "device 3"),
        (
            {"device_ids": [1, 2, 3, 4], "tensor_parallel_size": 2, "pipeline_parallel_size": 2},
            (1, 2, 3, 4),
            "devices 1, 2, 3, 4 (tensor parallel 2, pipeline parallel 2)",
        ),
        ({"device_ids": ["GPU-a"]}, ("GPU-a",), "device GPU-a"),
    ],
)
def test_devices_are_those_named_or_the_first_ones(options: dict[str, Any], expected: Any, text: str) -> None:
    assert devices(options) == expected
    assert describe(options) == text


def test_engines_share_a_device_unless_their_devices_differ() -> None:
    assert share_a_device(tiers({}, {}))
    assert share_a_device(tiers({"tensor_parallel_size": 2}, {"device_ids": [1]}))
    assert not share_a_device(tiers({"device_ids": [0]}, {"device_ids": [1]}))
    remote = {"name": "l", "remote": {"url": "http://h/v1", "model": "m"}}
    assert not share_a_device(
        TiersConfig.model_validate({"small": {"name": "s", "engine": {"model": "m"}}, "large": remote})
    )


@pytest.mark.parametrize(
    ("small", "large", "said"),
    [
        (
            {"device_ids": [0, 0], "tensor_parallel_size": 2},
            {},
            "tiers.small.engine.device_ids: .* names a device twice",
        ),
        (
            {},
            {"device_ids": [0, 1]},
            "tiers.large.engine.device_ids: 2 devices, .* is 1 — name 1 devices, or set tensor",
        ),
        ({"gpu_memory_utilization": 0.5}, {"gpu_memory_utilization": 0.6}, r"want 0.5 \+ 0.6 of its memory"),
        ({"gpu_memory_utilization": 0.5}, {}, r"want 0.5 \+ 0.92"),
        ({"device_ids": 0}, {}, "tiers.small.engine.device_ids: 0 is no list of devices"),
        ({"device_ids": "0,1"}, {}, "is no list of devices"),
        ({}, {"device_ids": [[0]]}, "tiers.large.engine.device_ids: .* is no list of devices"),
        ({"tensor_parallel_size": "2"}, {}, "tensor_parallel_size: '2' is no number of devices"),
        ({"tensor_parallel_size": -1}, {}, "tensor_parallel_size: -1 is no number of devices"),
        ({"tensor_parallel_size": True}, {}, "tensor_parallel_size: True is no number of devices"),
        ({"gpu_memory_utilization": "0.4"}, {}, "'0.4' is no share of a device's memory"),
        ({"gpu_memory_utilization": 1.5}, {}, "1.5 is no share of a device's memory"),
    ],
)
def test_a_placement_that_can_t_work_is_refused(small: dict[str, Any], large: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        check_placement(tiers(small, large))


@pytest.mark.parametrize(
    ("small", "large"),
    [
        ({"gpu_memory_utilization": 0.3}, {"gpu_memory_utilization": 0.7}),
        ({"kv_cache_memory_bytes": 1 << 30}, {}),
        ({"device_ids": [0]}, {"device_ids": [1, 2], "tensor_parallel_size": 2}),
    ],
)
def test_a_placement_that_works_is_accepted(small: dict[str, Any], large: dict[str, Any]) -> None:
    check_placement(tiers(small, large))
