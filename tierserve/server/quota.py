"""What a key may use: requests and tokens in a minute, and requests at once. Pure: `now` is given, in seconds.

A minute's limit is the generic cell rate algorithm (ITU-T I.371, annex A, virtual scheduling): one number, the time by
which all that was taken will have been paid back at the limit's pace. It is a bucket of a minute's worth that is always
being refilled: after a pause a minute's worth may be used at once, and within any minute less than twice as much.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tierserve.errors import RateLimited

_MINUTE_S = 60.0
# What sums of floating point may be off by.
_ROUNDING_S = 1e-6
# What is charged for an answer whose length the request leaves open, until it is known.
_UNSTATED_TOKENS = 256
# Of JSON around English text; what was really read is known once the answer is there.
_BYTES_PER_TOKEN = 4
# Nobody knows when one of a key's own requests will end.
_BUSY_RETRY_S = 1.0


@dataclass(frozen=True, slots=True)
class Limits:
    """None: no limit."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrency: int | None = None


class Allowance:
    """What may be used in a minute of one thing, and how much of it is left."""

    def __init__(self, per_minute: int) -> None:
        self.per_minute = per_minute
        self._paid_at = float("-inf")  # when all that was taken will be paid back

    def wait_s(self, amount: int, now: float) -> float:
        """Seconds until so much can be taken; 0: now. More than a minute's worth can be taken when all is left."""
        needed_s = min(amount, self.per_minute) * self._pace_s
        wait_s = self._owed_s(now) + needed_s - _MINUTE_S
        return wait_s if wait_s > _ROUNDING_S else 0.0

    def take(self, amount: int, now: float) -> None:
        """Whether or not so much is left; a negative amount is given back."""
        self._paid_at = now + max(0.0, self._owed_s(now) + amount * self._pace_s)

    def remaining(self, now: float) -> int:
        left = int((_MINUTE_S - self._owed_s(now) + _ROUNDING_S) / self._pace_s)
        return min(max(0, left), self.per_minute)

    def reset_s(self, now: float) -> float:
        """Seconds until all is there again."""
        return self._owed_s(now)

    @property
    def _pace_s(self) -> float:
        return _MINUTE_S / self.per_minute

    def _owed_s(self, now: float) -> float:
        return max(0.0, self._paid_at - now)


class Quota:
    """One key's. Each `enter` has its one `leave`, in whatever way the request ends."""

    def __init__(self, limits: Limits) -> None:
        self.running = 0
        self._concurrency: int | None = None
        self._allowances: dict[str, Allowance] = {}
        self.limit(limits)

    def limit(self, limits: Limits) -> None:
        """Other limits from now on; of what was used up, the same share stays so."""
        self._concurrency = limits.concurrency
        for thing, per_minute in (("requests", limits.requests_per_minute), ("tokens", limits.tokens_per_minute)):
            if per_minute is None:
                self._allowances.pop(thing, None)
            elif thing in self._allowances:
                self._allowances[thing].per_minute = per_minute
            else:
                self._allowances[thing] = Allowance(per_minute)

    def enter(self, now: float) -> None:
        """One more request. Raises RateLimited, and then nothing was taken."""
        if self._concurrency is not None and self.running >= self._concurrency:
            raise RateLimited(f"{self.running} requests of this key are being answered, as many as may", _BUSY_RETRY_S)
        self._take("requests", 1, now)
        self.running += 1

    def leave(self) -> None:
        self.running -= 1

    def charge(self, tokens: int, now: float) -> None:
        """Likewise for tokens."""
        self._take("tokens", tokens, now)

    def correct(self, tokens: int, now: float) -> None:
        """So many more tokens, or fewer where negative, were used than were charged."""
        if "tokens" in self._allowances:
            self._allowances["tokens"].take(tokens, now)

    def headers(self, now: float) -> dict[str, str]:
        """OpenAI's, of what is limited."""
        found = {}
        for thing, allowance in self._allowances.items():
            found[f"x-ratelimit-limit-{thing}"] = str(allowance.per_minute)
            found[f"x-ratelimit-remaining-{thing}"] = str(allowance.remaining(now))
            found[f"x-ratelimit-reset-{thing}"] = in_words(allowance.reset_s(now))
        return found

    def _take(self, thing: str, amount: int, now: float) -> None:
        allowance = self._allowances.get(thing)
        if allowance is None:
            return
        if wait_s := allowance.wait_s(amount, now):
            raise RateLimited(f"the key's {allowance.per_minute} {thing} per minute are used up", wait_s)
        allowance.take(amount, now)


def estimate(body: Mapping[str, Any], size: int) -> int:
    """The tokens that a request may come to: of its `size` bytes, and of the longest answers that it asks for."""
    stated = body.get("max_completion_tokens") or body.get("max_tokens")
    prompt = body.get("prompt")
    prompts = len(prompt) if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int) else 1
    return size // _BYTES_PER_TOKEN + prompts * _count(body.get("n"), 1) * _count(stated, _UNSTATED_TOKENS)


def in_words(seconds: float) -> str:
    """As OpenAI writes durations: 17ms, 1.5s, 6m0s."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    if seconds < _MINUTE_S:
        return f"{math.ceil(seconds * 10) / 10:g}s"
    minutes, rest = divmod(math.ceil(seconds), int(_MINUTE_S))
    return f"{minutes}m{rest}s"


def _count(value: Any, default: int) -> int:
    """A number that the request model has yet to check."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else default
