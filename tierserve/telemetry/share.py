"""The large tier's share of what was routed within the last hour, and a warning when that is too much."""

import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from tierserve.core import Cause, Outcome, Role

log = logging.getLogger(__name__)

_HOUR_S: Final = 3600
_BUCKET_S: Final = 60
# Below so many requests a share is chance: of 100 with a true share of 15 %, 30 on the large tier is four sigma off.
_LEAST_REQUESTS: Final = 100
NO_CHOICE: Final = (Cause.MODEL, Cause.HEADER, Cause.KEY)
# Once said, it is said again only after the share was back at this part of the limit.
_ALL_CLEAR: Final = 0.9


class LargeShare:
    """Counts by the minute, in at most 61 buckets. `record` takes outcomes.

    What counts is every request that a tier answered and that the router had a choice in, wherever it ended: by score,
    conversation, load, context or failover. What the caller or the key forced does not count.
    """

    def __init__(self, warn_above: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._warn_above = warn_above
        self._clock = clock
        self._buckets: deque[list[int]] = deque()  # minute, requests, of which large
        self._requests = 0
        self._large = 0
        self._high = False

    def renew(self, warn_above: float) -> None:
        """Warn above another share; what was counted stays."""
        self._warn_above = warn_above

    @property
    def value(self) -> float:
        """0 to 1; 0 when nothing was routed."""
        self._forget()
        return self._large / self._requests if self._requests else 0.0

    @property
    def high(self) -> bool:
        """Whether the limit was exceeded and the share has not come back since."""
        self._judge()
        return self._high

    def record(self, outcome: Outcome) -> None:
        decision = outcome.decision
        if outcome.tier is None or decision is None or decision.cause in NO_CHOICE:
            return
        minute = int(self._clock() // _BUCKET_S)
        if not self._buckets or self._buckets[-1][0] != minute:
            self._buckets.append([minute, 0, 0])
        large = decision.role is Role.LARGE
        self._buckets[-1][1] += 1
        self._buckets[-1][2] += large
        self._requests += 1
        self._large += large
        self._judge()

    def _judge(self) -> None:
        share = self.value
        if self._high:
            self._high = self._requests >= _LEAST_REQUESTS and share > self._warn_above * _ALL_CLEAR
        elif self._requests >= _LEAST_REQUESTS and share > self._warn_above:
            self._high = True
            log.warning(
                "%.0f %% of the last hour's %d routed requests went to the large tier, more than %.0f %%: "
                "raise router.threshold, or set router.target_large_share",
                100 * share,
                self._requests,
                100 * self._warn_above,
            )

    def _forget(self) -> None:
        oldest = int((self._clock() - _HOUR_S) // _BUCKET_S)
        while self._buckets and self._buckets[0][0] <= oldest:
            _, requests, large = self._buckets.popleft()
            self._requests -= requests
            self._large -= large
