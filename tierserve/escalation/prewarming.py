"""The large tier reads a prompt while the small one's answer to it is being judged."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
        self._reading: set[asyncio.Task[bool]] = set()

    def renew(self, config: "EscalationConfig") -> None:
        self._config = config

    @contextmanager
    def beside(self, call: Call, decision: Decision, judgement: Judgement) -> Iterator[None]:
        """For as long as the block runs, which is left by an exception where the answer is doubted. What was read
        stays in the tier's prefix cache."""
        if not self._is_worth_it(decision):
            yield
            return
        reading = asyncio.create_task(self._large.prewarm(call))
        self._reading.add(reading)
        reading.add_done_callback(self._ended)
        judgement.prewarm = Prewarm.UNUSED
        try:
            yield
        except Exception:
            judgement.prewarm = _became(reading)
            raise
        finally:
            reading.cancel()  # and not waited for: an answer that stands goes out now

    def _is_worth_it(self, decision: Decision) -> bool:
        near = decision.score is not None and decision.score >= self._threshold() - self._config.prewarm_band
        return self._config.prewarm and near and self._large.state is TierState.READY and self._large.queue.has_room

    def _ended(self, reading: "asyncio.Task[bool]") -> None:
        self._reading.discard(reading)
        if not reading.cancelled() and (error := reading.exception()):
            log.error("reading a prompt in advance failed", exc_info=error)


def _became(reading: "asyncio.Task[bool]") -> Prewarm | None:
    """What a reading was worth when its prompt's answer was doubted; None where nothing was read."""
    if not reading.done():
        return Prewarm.LATE
    return Prewarm.HIT if reading.exception() is None and reading.result() else None
