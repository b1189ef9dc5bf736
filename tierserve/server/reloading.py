"""SIGHUP: the configuration file is read again, and what can change while the node runs does.

    reloading = Reloading(path, config, [Part(("router.threshold",), prepare), ...], asked, manager, status)
    async with reloading.running():
        asked.set()                  # the signal's handler

All or nothing: every part prepares first, which may fail; only then is each change made, which may not. A file that is
refused leaves everything as it was. What can't change is named, and goes on as the node was started with it.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel

from tierserve.config import LimitsConfig, NodeConfig, load
from tierserve.errors import TierserveError
from tierserve.escalation.escalator import build_escalator, load_calibration
from tierserve.telemetry.logs import set_level

if TYPE_CHECKING:
    from tierserve.pipeline import Pipeline
    from tierserve.router.router import Router
    from tierserve.server.access import Access
    from tierserve.server.body import BodyReader
    from tierserve.server.connection import Connections
    from tierserve.server.costing import Costing
    from tierserve.server.notify import Manager
    from tierserve.telemetry.share import LargeShare
    from tierserve.tiers.admission import Admission
    from tierserve.tiers.pair import TierPair

log = logging.getLogger(__name__)

Apply = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the node that can take over options while it runs.

    `options` are paths in the file, a section standing for all in it. `prepare` checks and reads whatever the new
    options need, in a thread of its own, and returns what puts them in force, which is called from the event loop and
    must not fail. It raises ConfigError. `always`: it is asked also where no option differs, for what it reads lies in
    files of their own.
    """

    options: tuple[str, ...]
    prepare: Callable[[NodeConfig], Apply]
    always: bool = False

    def has(self, option: str) -> bool:
        return any(option == own or option.startswith(f"{own}.") for own in self.options)


class Reloading:
    """`current` is the configuration in force, of the options that can change."""

    def __init__(
        self,
        path: Path,
        config: NodeConfig,
        parts: Sequence[Part],
        asked: asyncio.Event,
        manager: "Manager",
        status: Callable[[], str],
    ) -> None:
        """`asked` may be set at any time: a reload follows, or, where one is being made, another. `status`: the node's
        line for the service manager."""
        self.current = config
        self._path = path
        self._started_with = config
        self._parts = parts
        self._manager, self._status = manager, status
        self._asked = asked

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Reloads whenever asked to, for as long as the block runs."""
        task = asyncio.create_task(self._run(), name="reloading")
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _run(self) -> None:
        while True:
            await self._asked.wait()
            self._asked.clear()
            self._manager.reloading()
            try:
                await self.reload()
            finally:
                self._manager.ready(self._status())

    async def reload(self) -> bool:
        """Whether the file was taken."""
        try:
            config = await asyncio.to_thread(load, self._path)
            changed = list(differences(self.current, config))
            concerned = [part for part in self._parts if part.always or any(map(part.has, changed))]
            changes = [await asyncio.to_thread(part.prepare, config) for part in concerned]
        except TierserveError as error:
            log.error("not reloaded, what was in force stays: %s", error)
            return False
        except Exception:
            log.exception("not reloaded, what was in force stays")
            return False
        for change in changes:
            change()
        self.current = config
        taken = [option for option in changed if any(part.has(option) for part in self._parts)]
        log.info("reloaded %s: %s", self._path, ", ".join(taken) or "no option differs")
        if fixed := self._fixed(config):
            log.warning("%s can't change while the node runs: restart it for that", ", ".join(fixed))
        return True

    def _fixed(self, config: NodeConfig) -> list[str]:
        """What the file says otherwise than the node was started with, and no part can take over."""
        differing = differences(self._started_with, config)
        return [option for option in differing if not any(part.has(option) for part in self._parts)]


def differences(old: BaseModel, new: BaseModel, where: str = "") -> Iterator[str]:
    """The paths of the options that differ; of a section that only one of them has, its own."""
    for name in type(new).model_fields:
        path = f"{where}.{name}" if where else name
        before, after = getattr(old, name), getattr(new, name)
        if isinstance(before, BaseModel) and isinstance(after, BaseModel):
            yield from differences(before, after, path)
        elif before != after:
            yield path


def entering(access: "Access") -> Part:
    """Keys, their limits, and the certificate, whose files may have changed though no option did."""
    return Part(
        ("server.keys", "server.metrics_open", "server.tls"), lambda config: access.prepare(config.server), always=True
    )


def routing(router: "Router") -> Part:
    """The threshold or the share that is aimed at, conversations, the cache and the load; what was learnt stays."""
    options = ("threshold", "target_large_share", "threshold_min", "threshold_max", "cache_entries", "cache_ttl_s")
    paths = tuple(f"router.{option}" for option in (*options, "conversations", "load"))
    return Part(paths, lambda config: lambda: router.renew(config.router))


def judging(pipeline: "Pipeline", tiers: "TierPair", router: "Router") -> Part:
    """All of escalation, on and off too."""

    def prepare(config: NodeConfig) -> Apply:
        section, escalator = config.escalation, pipeline.escalator
        if section is None or escalator is None:
            other = build_escalator(section, tiers, lambda: router.threshold)
            return lambda: setattr(pipeline, "escalator", other)
        calibrate = load_calibration(section)
        return lambda: escalator.renew(section, calibrate)

    # With the same path the calibration may be another: the file is read again each time.
    return Part(("escalation",), prepare, always=True)


def warning(share: "LargeShare") -> Part:
    """The share of the large tier that is warned of."""
    return Part(("router.warn_large_share",), lambda config: lambda: share.renew(config.router.warn_large_share))


def pricing(costing: "Costing") -> Part:
    """Prices, on and off too."""
    return Part(("cost",), lambda config: lambda: costing.renew(config.cost))


def logging_level() -> Part:
    """What is logged; the engines' processes that run keep their level."""
    return Part(("log.level",), lambda config: lambda: set_level(config.log.level))


def bounding(bodies: "BodyReader", connections: "Connections") -> Part:
    """What a request may be, and how long a caller may take, but for what aiohttp was given for good."""
    of_aiohttp = ("headers", "head_line_bytes")
    limits = tuple(f"limits.{name}" for name in LimitsConfig.model_fields if name not in of_aiohttp)
    options = ("max_body_mb", "max_connections", "head_s", "body_s", "write_s", *limits)

    def prepare(config: NodeConfig) -> Apply:
        def apply() -> None:
            bodies.bounds = config.server
            connections.renew(config.server)

        return apply

    return Part(tuple(f"server.{option}" for option in options), prepare)


def admitting(admission: "Admission") -> Part:
    """All of admission, on and off too; who waits stays in the queue."""
    return Part(("admission",), lambda config: lambda: admission.renew(config.admission))


def draining() -> Part:
    """Read when the node ends."""
    return Part(("server.drain_s",), lambda config: lambda: None)
