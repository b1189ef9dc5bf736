"""The two tiers of a node: built from the configuration, started, asked and stopped together."""

import asyncio
import logging
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from tierserve.core import Kind, Load, Role
from tierserve.threads import load_beside
from tierserve.tiers.base import Tier, TierState
from tierserve.tiers.placement import check_placement, describe, share_a_device
from tierserve.tiers.remote import RemoteTier
from tierserve.tiers.vllm_tier import VllmTier, keep_environment, on_cpu

if TYPE_CHECKING:
    from tierserve.config import TierConfig, TiersConfig

log = logging.getLogger(__name__)

_REMIND_S = 10


class TierPair:
    """`pair[Role.SMALL]`. `one_by_one`: the engines share a device, so the second must find its memory free. Whether
    they do shows for certain once they are up: `share_device`."""

    def __init__(self, small: Tier, large: Tier, one_by_one: bool = False) -> None:
        self._tiers: Mapping[Role, Tier] = {Role.SMALL: small, Role.LARGE: large}
        self.share_device = one_by_one
        self._started = False

    def __getitem__(self, role: Role) -> Tier:
        return self._tiers[role]

    def __iter__(self) -> Iterator[Tier]:
        return iter(self._tiers.values())

    @property
    def ready(self) -> bool:
        return all(tier.state is TierState.READY for tier in self)

    @property
    def able(self) -> bool:
        """Whether the node can answer: at first that takes both tiers, later one that can is enough."""
        return self.ready or (self._started and any(tier.state is TierState.READY for tier in self))

    def load(self) -> Load:
        small, large = (tier.queue if tier.state is TierState.READY else None for tier in self)
        return Load(small, large)

    def role_of(self, name: str) -> Role | None:
        """The role of a tier that goes by this name on the wire; `small` and `large` always work."""
        return next((role for role, tier in self._tiers.items() if name in (role, tier.name)), None)

    def parse(self, kind: Kind, body: Mapping[str, Any]) -> Any:
        """The body as the engines' own request model, once one of them is up; None where no tier here has one.

        Raises RequestError.
        """
        if not self.has_request_model:
            return None
        from tierserve.tiers.vllm_openai import parse

        return parse(kind, body)

    @property
    def has_request_model(self) -> bool:
        up = (TierState.READY, TierState.FAILED)  # a tier that failed was up before: its request model is still there
        return any(isinstance(tier, VllmTier) and tier.state in up for tier in self)

    def request_schema(self, kind: Kind) -> dict[str, Any] | None:
        """What `parse` takes, as JSON Schema whose definitions are referred to as OpenAPI does. Takes 0.1 s."""
        if not self.has_request_model:
            return None
        from tierserve.tiers.vllm_openai import request_schema

        return request_schema(kind)

    async def find_weights(self) -> None:
        """Of both, before anything is loaded: what is missing is said at once. Raises ConfigError."""
        for tier in self:
            await tier.find_weights()

    async def start(self) -> None:
        """Start both; ready when it returns. Raises ConfigError or TierStartError, with nothing left running."""
        starts = [_reminded(tier) for tier in self]
        try:
            self.share_device = self.share_device or await load_beside(self._on_cpu)
            if self.share_device:
                for start in starts:
                    await start
            else:
                async with asyncio.TaskGroup() as group:
                    for start in starts:
                        group.create_task(start)
        except BaseException as error:
            for start in starts:
                start.close()
            await self.stop()
            raise (error.exceptions[0] if isinstance(error, BaseExceptionGroup) else error) from None
        if any(isinstance(tier, VllmTier) for tier in self):
            keep_environment()
        self._started = True

    async def stop(self) -> None:
        await asyncio.gather(*(tier.stop() for tier in self))

    def _on_cpu(self) -> bool:
        """On a CPU host both engines share the device. Imports vLLM, where a tier uses it."""
        return any(isinstance(tier, VllmTier) for tier in self) and on_cpu()


def build_tiers(config: "TiersConfig") -> TierPair:
    """Both tiers, not yet started. Raises ConfigError."""
    check_placement(config)
    small, large = (_build(config[role], role) for role in Role)
    return TierPair(small, large, one_by_one=share_a_device(config))


def check_tiers(config: "TiersConfig") -> list[str]:
    """Check all that can be checked without loading a model; a line on each tier. Imports vLLM. Raises ConfigError."""
    check_placement(config)
    lines = []
    for role in Role:
        tier, where = config[role], f"tiers.{role}"
        if tier.remote is not None:
            RemoteTier(tier.name, tier.remote, f"{where}.remote")
            lines.append(f"  {role}: {tier.name} at {tier.remote.url}")
        else:
            args = VllmTier.arguments(tier, where)
            lines.append(f"  {role}: {tier.name}, {args.model} on {describe(tier.engine or {})}")
    return lines


def _build(config: "TierConfig", role: Role) -> Tier:
    where = f"tiers.{role}"
    if config.remote is not None:
        return RemoteTier(config.name, config.remote, f"{where}.remote")
    # With half of the cores each the large tier's few answers, which take longest, would take twice as long as soon as
    # the small tier is busy, whose answers have time to spare.
    return VllmTier(config, where, steps_back=2 if role is Role.SMALL else 1)


async def _reminded(tier: Tier) -> None:
    """Start a tier and, while it loads, say now and then what it is waiting for."""
    started = time.monotonic()
    log.info("starting %s", tier.name)
    reminder = asyncio.create_task(_remind(tier, started))
    try:
        await tier.start()
    finally:
        reminder.cancel()
    log.info("%s is ready after %.0f s", tier.name, time.monotonic() - started)


async def _remind(tier: Tier, started: float) -> None:
    said = ""
    while True:
        await asyncio.sleep(0.25)
        elapsed = time.monotonic() - started
        due = f"{tier.waiting_for} {int(elapsed / _REMIND_S)}"
        if due != said:
            said = due
            log.info("%s: waiting for %s (%.0f s)", tier.name, tier.waiting_for, elapsed)
