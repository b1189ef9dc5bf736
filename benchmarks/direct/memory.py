"""Who gets how much of a GPU's memory, computed before anything is loaded. Pure."""

from dataclasses import dataclass

from loadgen import PlanError

from direct.models import Model

_GIB = 1 << 30
_USED = 0.96  # of the memory; the rest is the driver's, and what is lost to fragments


@dataclass(frozen=True)
class Room:
    """`spare_bytes`: of each engine, beside weights and KV cache: CUDA's context, activations, graphs.

    `least_kv_bytes`: less KV cache than this is no basis for a measurement.
    """

    total_bytes: int
    spare_bytes: int
    least_kv_bytes: int

    @property
    def usable_bytes(self) -> int:
        return int(_USED * self.total_bytes)


@dataclass(frozen=True)
class Share:
    """What one engine gets: bytes of KV cache, and its part of the GPU's memory in all."""

    model: Model
    kv_bytes: int
    of_gpu: float


class DoesNotFit(PlanError):
    """The models do not fit the GPU together with the least of KV cache."""


def whole(room: Room, model: Model) -> Share:
    """All of the memory for one model."""
    return _share(room, model, room.usable_bytes - model.weight_bytes - room.spare_bytes)


def halves(room: Room, small: Model, large: Model) -> tuple[Share, Share]:
    """Both models, with what their weights leave in equal parts. Raises DoesNotFit."""
    kv_bytes = _left(room, small, large) // 2
    if kv_bytes < room.least_kv_bytes:
        raise DoesNotFit(
            f"{small} and {large} take {_gib(small.weight_bytes)} and {_gib(large.weight_bytes)} GiB of weights, "
            f"{_gib(room.spare_bytes)} each beside these and at least {_gib(room.least_kv_bytes)} each of KV cache; "
            f"the GPU has {_gib(room.total_bytes)}, {_gib(room.usable_bytes)} of it usable. A GPU with more memory has "
            "room, or --shrink: the small model in fp8, and as many of the large one's layers as fit"
        )
    return _share(room, small, kv_bytes), _share(room, large, kv_bytes)


def shrunk(room: Room, small: Model, large: Model) -> tuple[Model, Model]:
    """Both as they are where they fit; else the small one in fp8, and as many layers of the large one as fit.

    Raises DoesNotFit where that is less than half of them: then no large model is left.
    """
    need = 2 * room.least_kv_bytes
    if _left(room, small, large) >= need:
        return small, large
    small = small.in_fp8()
    missing = need - _left(room, small, large)
    layers = min(large.layers, large.layers - -(-missing // large.layer_bytes))
    if 2 * layers < large.layers:
        raise DoesNotFit(
            f"of {large} only {max(layers, 0)} layers would fit beside {small}: too few to be a large model"
        )
    return small, large.with_layers(layers)


def _left(room: Room, small: Model, large: Model) -> int:
    return room.usable_bytes - small.weight_bytes - large.weight_bytes - 2 * room.spare_bytes


def _share(room: Room, model: Model, kv_bytes: int) -> Share:
    if kv_bytes < room.least_kv_bytes:
        raise DoesNotFit(
            f"{model} leaves {_gib(kv_bytes)} GiB of the GPU to its KV cache; at least {_gib(room.least_kv_bytes)} are "
            "needed. --shrink takes as many of its layers as fit beside the small one"
        )
    return Share(model, kv_bytes, (model.weight_bytes + room.spare_bytes + kv_bytes) / room.total_bytes)


def _gib(size: int) -> str:
    return f"{size / _GIB:.1f}"
