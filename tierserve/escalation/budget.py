"""How many answers may be escalated, so that a bad hour of the small tier does not become one of the large."""

import time
from collections import deque
from collections.abc import Callable
from typing import Final

_MINUTE_S: Final = 60.0
# With little traffic a share of it is less than one.
_ALWAYS: Final = 10


class Budget:
    """Of the answers judged within the last minute at most `share` are escalated, ten always; None: no limit."""

    def __init__(self, share: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._share = share
        self._clock = clock
        self._judged: deque[float] = deque()
        self._escalated: deque[float] = deque()

    def renew(self, share: float | None) -> None:
        """Go on with another share. What was judged while there was no limit was not counted."""
        self._share = share

    @property
    def allows(self) -> bool:
        """Whether one more may be escalated."""
        if self._share is None:
            return True
        self._forget()
        return len(self._escalated) + 1 <= max(_ALWAYS, self._share * (len(self._judged) + 1))

    def count(self, escalated: bool) -> None:
        """An answer was judged."""
        if self._share is not None:
            self._forget()
            self._judged.append(self._clock())
            if escalated:
                self._escalated.append(self._clock())

    def _forget(self) -> None:
        now = self._clock()
        for times in (self._judged, self._escalated):
            while times and times[0] <= now - _MINUTE_S:
                times.popleft()
