"""How many comparisons within an hour. It has no clock."""

from collections import deque
from typing import Final

_HOUR_S: Final = 3600.0


class HourBudget:
    """In no hour, whenever it begins, more than `most`."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._spent: deque[float] = deque()

    def renew(self, most: int) -> None:
        """Another number from now on; what was spent stays."""
        self._most = most

    def is_left(self, now: float) -> bool:
        """`now` in seconds, on a clock that never goes back."""
        while self._spent and self._spent[0] <= now - _HOUR_S:
            self._spent.popleft()
        return len(self._spent) < self._most

    def spend(self, now: float) -> bool:
        """Whether there was something left."""
        left = self.is_left(now)
        if left:
            self._spent.append(now)
        return left
