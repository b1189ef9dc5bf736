"""For how long each tier was busy, and how many seconds of it a token took: from how requests ended. It has no clock.

A tier is busy while it has at least one request. That time, over the tokens read and written in it, is what a token
took: many requests at once share the seconds, one alone has them for itself. Seconds in which a tier had nothing to do
are nobody's. So the figure falls with load, and is the tier's true rate only where it was fully loaded.
"""

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from typing import Final

from tierserve.core import Outcome, Role, Usage

# What is old counts half as much after so long: rates follow a change of traffic or models within hours.
_HALF_LIFE_S: Final = 3600
# Below so many tokens a rate is chance.
_LEAST_TOKENS: Final = 1000
# Times when a tier was busy that are kept apart, so that a request which ends later finds what it overlaps.
_SPANS: Final = 1024


@dataclass(frozen=True, slots=True)
class Rates:
    """Seconds of a tier for each token read and for each written."""

    prompt: float
    completion: float


class Busy:
    """`prompt_weight` is what reading a token takes, as a part of what writing one does: of a time in which both were
    done it can't be told apart."""

    def __init__(self, prompt_weight: float = 0.0) -> None:
        self.prompt_weight = prompt_weight
        self._tiers = {role: _Tier() for role in Role}

    def record(self, outcome: Outcome, now: float) -> None:
        """`now`: the second at which the request ended."""
        if outcome.decision is None or outcome.route_s is None:
            return
        begun, waited_s = now - outcome.total_s + outcome.route_s, outcome.queue_s
        judgement = outcome.judgement
        if judgement is not None and (judgement.escalated or outcome.tier is None):
            asked = begun + judgement.queue_s
            begun, waited_s = min(asked + judgement.held_s, now), waited_s - judgement.queue_s
            self._tiers[Role.SMALL].add(asked, begun, self._weighed(judgement.wasted), now)
        if outcome.tier is not None:
            answering = self._tiers[outcome.decision.role]
            answering.add(min(begun + waited_s, now), now, self._weighed(outcome.usage), now)

    def seconds(self, role: Role) -> float:
        """For how long the tier was busy, in all."""
        return self._tiers[role].seconds

    def rates(self, role: Role) -> Rates | None:
        """None until enough was written and read to tell."""
        tier = self._tiers[role]
        if tier.recent_tokens < _LEAST_TOKENS:
            return None
        completion = tier.recent_seconds / tier.recent_tokens
        return Rates(self.prompt_weight * completion, completion)

    def _weighed(self, usage: Usage) -> float:
        return usage.completion_tokens + self.prompt_weight * usage.prompt_tokens


class _Tier:
    def __init__(self) -> None:
        self.seconds = 0.0
        self.recent_seconds = 0.0
        self.recent_tokens = 0.0
        self._updated = 0.0
        self._starts: list[float] = []  # of the spans, which are apart and in order
        self._ends: list[float] = []

    def add(self, start: float, end: float, tokens: float, now: float) -> None:
        new = self._cover(start, max(start, end))
        kept = 0.5 ** (max(0.0, now - self._updated) / _HALF_LIFE_S)
        self._updated = now
        self.seconds += new
        self.recent_seconds = kept * self.recent_seconds + new
        self.recent_tokens = kept * self.recent_tokens + tokens

    def _cover(self, start: float, end: float) -> float:
        """How much of this time no span had; it is in one now."""
        first, last = bisect_left(self._ends, start), bisect_right(self._starts, end)
        starts, ends = self._starts[first:last], self._ends[first:last]
        known = sum(min(end, e) - max(start, s) for s, e in zip(starts, ends, strict=True))
        self._starts[first:last] = [min([start, *starts])]
        self._ends[first:last] = [max([end, *ends])]
        del self._starts[:-_SPANS], self._ends[:-_SPANS]
        return end - start - known
