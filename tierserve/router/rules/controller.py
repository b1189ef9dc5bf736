"""The threshold: fixed, or moved so that the large tier's share is held whatever the traffic does.

    threshold = ShareController(target=0.15, start=4.0)
    large = threshold.exceeded_by(score)     # a look: changes nothing
    threshold.observe(score, large)          # the decision was taken

No clock: time passes with decisions.
"""

import math
from bisect import bisect_left, bisect_right, insort
from collections import deque
from dataclasses import dataclass
from typing import Final, Protocol

# Scores this near are one score: the encoder's rounding differs between a batch and a single text.
_SAME = 1e-6
# The sequence k * phi mod 1 fills 0..1 more evenly than any other of its kind (Kronecker sequence, golden ratio).
_GOLDEN: Final = (math.sqrt(5) - 1) / 2


class Threshold(Protocol):
    @property
    def value(self) -> float:
        """Scores above it go to the large tier."""

    def exceeded_by(self, score: float) -> bool:
        """Whether a prompt of this score goes to the large tier."""

    def observe(self, score: float | None, large: bool) -> None:
        """A decision was taken: by this score, or None where a conversation decided. `large`: where it went."""


@dataclass(slots=True)
class FixedThreshold:
    value: float = 4.0

    def exceeded_by(self, score: float) -> bool:
        return score > self.value

    def observe(self, score: float | None, large: bool) -> None:
        pass


class ShareController:
    """Holds the large tier's share of decisions at `target`, with two parts that mend each other's weakness:

    - The threshold is the (1 - a)-quantile of the last `window` scores, so that after a change of the traffic it is
      right again within a window, wherever the scores now lie and however near they lie to each other.
    - a, the share asked of that quantile, integrates what was missed: a += gain * (target - large). That is adaptive
      conformal inference (Gibbs and Candès, 2021, arXiv:2106.00170, equation 2): below 0 no prompt goes up and above 1
      each does, so a comes back, and the share over any T decisions lies within (1 + 2 * gain) / (gain * T) of the
      target, for any sequence of scores, drifting or hostile. It also makes room for conversations that stay up, which
      no threshold moves.

    Where many scores are equal no threshold has the target's share above it. Those at the threshold are then divided:
    of each run the fraction that is needed goes to the large tier, evenly spread, by no chance. So equal prompts may go
    to different tiers; the target is held also for a constant score.

    Of simulated traffic with a sudden or slow drift, waves or bursts (test_controller.py) a window of 300
    and a gain of 0.005 hold any 1,000 consecutive decisions within 5 points of a target of 15 %. A longer window and a
    lower gain follow later, a shorter one and a higher gain divide scores less by their rank and more by chance.

    Below `least` scores the threshold is `start`. `lowest` and `highest` bound it always, and win over the target.
    """

    def __init__(
        self,
        target: float,
        start: float = 4.0,
        lowest: float = 0.0,
        highest: float = 10.0,
        window: int = 300,
        gain: float = 0.005,
        least: int = 30,
    ) -> None:
        self.target = target
        self.value = min(max(start, lowest), highest)
        self._lowest, self._highest = lowest, highest
        self._gain, self._least = gain, least
        self._recent: deque[float] = deque(maxlen=window)
        self._sorted: list[float] = []  # the same scores
        self._asked = target
        self._tied_share = 0.0  # of the scores at the threshold, the fraction that goes to the large tier
        self._position = 0.5  # in the Kronecker sequence

    def exceeded_by(self, score: float) -> bool:
        if abs(score - self.value) <= _SAME:
            return self._position < self._tied_share
        return score > self.value

    def observe(self, score: float | None, large: bool) -> None:
        asked = self._asked + self._gain * (self.target - large)
        self._asked = min(max(asked, -self._gain), 1 + self._gain)  # what conversations and bounds decide has no end
        if score is None:
            return
        if abs(score - self.value) <= _SAME:
            self._position = (self._position + _GOLDEN) % 1
        self._remember(score)
        if len(self._sorted) >= self._least:
            self._follow()

    def retarget(self, target: float, start: float, lowest: float, highest: float) -> None:
        """Go on with another target or other bounds. What was seen stays; `start` counts until enough was."""
        self._asked = min(max(self._asked + target - self.target, -self._gain), 1 + self._gain)
        self.target, self._lowest, self._highest = target, lowest, highest
        if len(self._sorted) >= self._least:
            self._follow()
        else:
            self.value = min(max(start, lowest), highest)

    def _remember(self, score: float) -> None:
        if len(self._recent) == self._recent.maxlen:
            del self._sorted[bisect_left(self._sorted, self._recent[0])]
        self._recent.append(score)
        insort(self._sorted, score)

    def _follow(self) -> None:
        """Put the threshold at the quantile, and find how much of what lies on it is still missing above it."""
        if not 0 <= self._asked <= 1:
            self._tied_share = float(self._asked > 1)
            self.value = self._lowest if self._asked > 1 else self._highest
            return
        count = len(self._sorted)
        wanted = self._asked * count  # so many of the scores should have gone to the large tier
        quantile = self._sorted[min(max(math.ceil(count - wanted) - 1, 0), count - 1)]
        self.value = min(max(quantile, self._lowest), self._highest)
        above = count - bisect_right(self._sorted, self.value + _SAME)
        tied = count - above - bisect_left(self._sorted, self.value - _SAME)
        self._tied_share = min(max((wanted - above) / tied, 0.0), 1.0) if tied else 0.0
