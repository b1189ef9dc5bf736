"""The large tier reads a prompt while the small one's answer to it is being judged."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from tierserve.core import Call, Decision, Judgement, Prewarm
from tierserve.tiers.base import Tier, TierState

if TYPE_CHECKING:
    from tierserve.config import EscalationConfig

log = logging.getLogger(__name__)


class Prewarming:
    """For prompts whose score lies near the threshold, and while the large tier has nothing better to do."""

    def __init__(self, config: "EscalationConfig", large: Tier, threshold: Callable[[], float]) -> None:
        self._config = config
        self._large = large
        self._threshold = threshold

    @asynccontextmanager
    async def beside(self, call: Call, decision: Decision, judgement: Judgement) -> AsyncIterator[None]:
        """For as long as the block runs, which is left by an exception where the answer is doubted. What was read
        stays in the tier's prefix cache."""
        if not self._is_worth_it(decision):
            yield
            return
        reading = asyncio.create_task(self._large.prewarm(call))
        judgement.prewarm = Prewarm.UNUSED
        try:
            yield
        except Exception:
            judgement.prewarm = Prewarm.HIT if reading.done() else Prewarm.LATE
            raise
        finally:
            await _ended(reading)

    def _is_worth_it(self, decision: Decision) -> bool:
        near = decision.score is not None and decision.score >= self._threshold() - self._config.prewarm_band
        return self._config.prewarm and near and self._large.state is TierState.READY and self._large.queue.has_room


async def _ended(reading: "asyncio.Task[None]") -> None:
    reading.cancel()
    await asyncio.wait({reading})
    if not reading.cancelled() and (error := reading.exception()):
        log.error("reading a prompt in advance failed", exc_info=error)
