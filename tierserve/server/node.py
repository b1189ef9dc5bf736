"""All that a node is made of, put together from its configuration. Nothing is loaded yet, and nothing listens."""

import gc
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

from tierserve.config import NodeConfig
from tierserve.core import Outcome, Role
from tierserve.escalation.escalator import build_escalator
from tierserve.pipeline import Pipeline
from tierserve.quality.shadow.shadow import build_shadow
from tierserve.router.router import build_router
from tierserve.server.api import BODIES, CUT_OFF, DASHBOARD, IN_FLIGHT, create_app
from tierserve.server.connection import Runner
from tierserve.server.costing import Costing
from tierserve.server.dashboard.window import Window
from tierserve.server.deciding import build_decision_log
from tierserve.server.drifting import Drifting
from tierserve.server.guard import ACCESS
from tierserve.server.reloading import (
    Part,
    admitting,
    bounding,
    comparing,
    draining,
    entering,
    judging,
    logging_level,
    pricing,
    routing,
    warning,
)
from tierserve.telemetry.logs import log_outcome
from tierserve.telemetry.metrics import Metrics
from tierserve.telemetry.share import LargeShare
from tierserve.tiers.admission import Admission
from tierserve.tiers.base import Tier
from tierserve.tiers.pair import build_tiers
from tierserve.tiers.supervisor import Supervisor

if TYPE_CHECKING:
    from tierserve.telemetry.tracing import Tracing

log = logging.getLogger(__name__)

# For answers that are complete and still on their way to a slow reader.
_LAST_BYTES_S = 5.0


class Node:
    """Its parts, in the order in which they need each other. `record` is what becomes of each finished request."""

    def __init__(self, config: NodeConfig) -> None:
        """Raises ConfigError."""
        self.config = config
        self.tiers, self.router = build_tiers(config.tiers), build_router(config.router)
        self.metrics = Metrics(tier.name for tier in self.tiers)
        self.costing = Costing(config, self.metrics)
        self.share = LargeShare(config.router.warn_large_share)
        self.window = Window()
        self.tracing = _tracing(config)
        self.decisions = build_decision_log(config, self.router)
        self.admission = Admission(self.tiers, config.admission)
        keep = self.decisions.record_comparison if self.decisions else None
        self.shadow = build_shadow(config.shadow, self.admission, self.tiers, self.router.embed, keep)
        self.pipeline = Pipeline(
            self.router,
            self.tiers,
            self.record,
            build_escalator(config.escalation, self.tiers, lambda: self.router.threshold),
            admission=self.admission,
            keep_answers=self.decisions is not None and self.decisions.keeps_answers,
            draw=self.shadow.draws if self.shadow else None,
        )
        self.app = create_app(config, self.pipeline, self.router, self.tiers, self.metrics, self.window)
        self.runner = Runner(self.app, config.server, self.metrics.count_refusal, _LAST_BYTES_S)
        self.supervisor = Supervisor(config.faults, self.tiers, settle)
        self.drifting = Drifting(config, self.metrics.drift)
        # The cost first: who reads an outcome later finds it there.
        optional = (self.tracing, self.decisions, self.shadow)
        self._readers = [
            *(each.record for each in (self.costing, self.metrics, self.share, self.window)),
            log_outcome,
            *(each.record for each in optional if each is not None),
        ]
        self._show()

    @property
    def engines(self) -> list[Tier]:
        """The tiers whose processes are this node's."""
        return [self.tiers[role] for role in Role if self.config.tiers[role].engine is not None]

    @property
    def in_flight(self) -> int:
        """Requests that are being read or answered."""
        return len(self.app[IN_FLIGHT])

    def record(self, outcome: Outcome) -> None:
        for read in self._readers:
            read(outcome)

    def parts(self) -> Sequence[Part]:
        """What a reload can change."""
        return [
            routing(self.router),
            judging(self.pipeline, self.tiers, self.router),
            warning(self.share),
            comparing(self.shadow),
            pricing(self.costing),
            admitting(self.admission),
            bounding(self.app[BODIES], self.runner.connections),
            logging_level(),
            draining(),
            entering(self.app[ACCESS]),
        ]

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Looks for drift and compares answers, for as long as the block runs."""
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self.drifting.watching())
            if self.shadow is not None:
                await stack.enter_async_context(self.shadow.running())
            yield

    async def close(self) -> None:
        """End it all. Whatever is still being answered had its time, or was told to end at once."""
        try:
            self.app[CUT_OFF].set()
            for task in self.app[IN_FLIGHT]:
                if task is not None:
                    task.cancel()
            await self.runner.cleanup()
        finally:
            await self.tiers.stop()
            await self.router.close()
            for keeper in (self.tracing, self.decisions):
                if keeper is not None:
                    await keeper.close()

    def _show(self) -> None:
        """In the metrics, and on the dashboard."""
        metrics, connections = self.metrics, self.runner.connections
        metrics.watch_share(self.share)
        metrics.watch_connections(lambda: len(connections.open), connections.cut_off)
        down_s = {tier.name: partial(self.supervisor.down_s, tier.name) for tier in self.tiers}
        metrics.watch_engines(self.supervisor.restarts, down_s)
        if self.shadow is not None:
            self.shadow.observe = metrics.watch_shadow(self.shadow.counts)
        if self.decisions is not None:
            metrics.watch_decisions(*self.decisions.counts)
        self.app[DASHBOARD].feed.drift = lambda: self.drifting.brief


def settle() -> None:
    """What was loaded stays: the garbage collector need not spend 0.3 s, in which no stream moves, on it again.

    After a rebuild it does, once: the engine that died was among what stays.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def _tracing(config: NodeConfig) -> "Tracing | None":
    """None where no collector is configured: OpenTelemetry is then not imported."""
    options = config.telemetry.tracing
    if options is None:
        return None
    from tierserve.telemetry.tracing import Tracing

    return Tracing(options, {role: config.tiers[role].name for role in Role})
