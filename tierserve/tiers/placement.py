"""Which devices an engine takes, read from its options alone: no GPU and no vLLM needed to check a file."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tierserve.core import Role
from tierserve.errors import ConfigError

if TYPE_CHECKING:
    from tierserve.config import TiersConfig

_PARALLEL_SIZES = ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size")
_DEFAULT_MEMORY_UTILIZATION = 0.92  # CacheConfig.gpu_memory_utilization in vLLM 0.32


def devices(options: Mapping[str, Any]) -> tuple[int | str, ...]:
    """The devices of one engine: those it names, else the first as many as its parallel sizes multiply to."""
    named = options.get("device_ids")
    return tuple(named) if named is not None else tuple(range(world_size(options)))


def world_size(options: Mapping[str, Any]) -> int:
    return math.prod(options.get(name) or 1 for name in _PARALLEL_SIZES)


def describe(options: Mapping[str, Any]) -> str:
    """In an operator's words: "devices 1, 2, 3, 4 (tensor parallel 4)"."""
    ids = ", ".join(map(str, devices(options)))
    plural = "s" if world_size(options) > 1 else ""
    sizes = [
        f"{name.removesuffix('_size').replace('_', ' ')} {options[name]}"
        for name in _PARALLEL_SIZES
        if (options.get(name) or 1) > 1
    ]
    return f"device{plural} {ids}" + (f" ({', '.join(sizes)})" if sizes else "")


def share_a_device(tiers: "TiersConfig") -> bool:
    """Whether both engines want one device: then each must find its memory free, so they start one by one."""
    small, large = tiers.small.engine, tiers.large.engine
    if small is None or large is None:
        return False
    return bool(set(devices(small)) & set(devices(large)))


def check_placement(tiers: "TiersConfig") -> None:
    """Raise ConfigError where the engines' devices contradict their parallel sizes, or each other's memory."""
    for role in Role:
        options = tiers[role].engine
        if options is None:
            continue
        _check_types(options, f"tiers.{role}.engine")
        if options.get("device_ids") is not None:
            _check_devices(options, f"tiers.{role}.engine.device_ids")
    if share_a_device(tiers):
        _check_memory(tiers)


def _check_types(options: Mapping[str, Any], where: str) -> None:
    for name in _PARALLEL_SIZES:
        if (size := options.get(name, 1)) is not None and (type(size) is not int or size < 1):
            raise ConfigError(f"{where}.{name}", f"{size!r} is no number of devices", "write a whole number from 1")
    ids = options.get("device_ids")
    if ids is not None and (not isinstance(ids, list) or any(type(one) not in (int, str) for one in ids)):
        raise ConfigError(f"{where}.device_ids", f"{ids!r} is no list of devices", "write, for example, [0, 1]")
    share = options.get("gpu_memory_utilization", _DEFAULT_MEMORY_UTILIZATION)
    if type(share) not in (int, float) or not 0 < share <= 1:
        problem = f"{share!r} is no share of a device's memory"
        raise ConfigError(f"{where}.gpu_memory_utilization", problem, "write a number up to 1, for example 0.9")


def _check_devices(options: Mapping[str, Any], where: str) -> None:
    ids, wanted = options["device_ids"], world_size(options)
    if len(set(ids)) != len(ids):
        raise ConfigError(where, f"{ids} names a device twice", "name each once")
    if len(ids) != wanted:
        raise ConfigError(
            where,
            f"{len(ids)} devices, but tensor x pipeline x data parallel size is {wanted}",
            f"name {wanted} devices, or set tensor_parallel_size: {len(ids)}",
        )


def _check_memory(tiers: "TiersConfig") -> None:
    """On a shared device the two fractions are of the same whole. A size in bytes is vLLM's to check, there."""
    fractions = []
    for role in Role:
        options = tiers[role].engine or {}
        if options.get("kv_cache_memory_bytes") is not None:
            return
        fractions.append(options.get("gpu_memory_utilization", _DEFAULT_MEMORY_UTILIZATION))
    if sum(fractions) > 1:
        raise ConfigError(
            "tiers.large.engine.gpu_memory_utilization",
            f"the tiers share a device and want {fractions[0]:g} + {fractions[1]:g} of its memory",
            "let both sum to at most 1, or give the tiers different device_ids",
        )
