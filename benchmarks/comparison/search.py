"""The highest rate that holds, by bisection. Pure: what holds is asked of the caller."""

import math
from collections.abc import Callable

# A rate so far from where the search began means that the beginning was wrong, or that nothing holds.
_FURTHEST = 8.0


def highest(holds: Callable[[float], bool], start: float, step: float = 1.2, tolerance: float = 0.1) -> float:
    """The highest rate that was seen to hold, at most `tolerance` below one that was not; 0 where none holds.

    From `start` by factors of `step` until one holds and one does not, then between those two. Each question costs a
    trial: a good start and a small step save most.
    """
    low, high = 0.0, math.inf
    rate = start
    while low == 0 or high == math.inf:
        if holds(rate):
            low, rate = rate, rate * step
        else:
            high, rate = rate, rate / step
        if rate * _FURTHEST < start or rate > start * _FURTHEST:
            return low
    while high > low * (1 + tolerance):
        middle = math.sqrt(low * high)
        if holds(middle):
            low = middle
        else:
            high = middle
    return low
