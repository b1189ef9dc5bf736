"""When the assessor is asked, how long it is waited for, and what its rating counts.

second = SecondOpinion(config.router.assess, assessor, assessments)
score = await second.on(text, 4.2)     # the combined score, or None: it was not wanted, or did not come
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, Protocol

from tierserve.threads import BatchThread

if TYPE_CHECKING:
    from tierserve.config import AssessConfig

log = logging.getLogger(__name__)

# Reading the weights is shared by a batch, the arithmetic is not: with four at once each waits for the four.
_BATCH: Final = 4


class Rater(Protocol):
    def rate(self, texts: Sequence[str]) -> list[float]:
        """How hard each text is, 0..10."""


class Assessments:
    """What became of every prompt on which a second opinion was asked; `observe` is told how long each one used took.

    Asked and not used, late, refused or failed: still waited for, or the caller went away.
    """

    def __init__(self) -> None:
        self.counts: dict[str, int] = dict.fromkeys(("asked", "used", "late", "refused", "failed"), 0)
        self.observe: Callable[[float], None] = lambda seconds: None


class SecondOpinion:
    def __init__(self, config: "AssessConfig", rater: Rater, assessments: Assessments) -> None:
        self._low, self._high = config.band
        self._weight, self._deadline_s = config.weight, config.deadline_ms / 1000
        self._assessments = assessments
        self._thread = BatchThread[str, float]("assessor", rater.rate, _BATCH, config.queue)

    def is_wanted(self, score: float) -> bool:
        """Whether the embedding's score lies where it is unsure."""
        return self._low <= score <= self._high

    async def on(self, text: str, score: float) -> float | None:
        """The score of both together; None when the assessor fails, is too busy, or is later than its deadline."""
        started, counts = time.perf_counter(), self._assessments.counts
        counts["asked"] += 1
        try:
            async with asyncio.timeout(self._deadline_s):
                rating = await self._thread.ask(text)
            if not 0 <= rating <= 10:  # nor is NaN
                raise ValueError("the assessor left 0 to 10")
        except TimeoutError:
            counts["late"] += 1
            return None
        except asyncio.QueueFull:
            counts["refused"] += 1
            return None
        except Exception:
            log.exception("assessing failed")
            counts["failed"] += 1
            return None
        counts["used"] += 1
        self._assessments.observe(time.perf_counter() - started)
        return (1 - self._weight) * score + self._weight * rating

    async def close(self) -> None:
        await self._thread.close()
