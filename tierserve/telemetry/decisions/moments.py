"""Moments as people name them: `7d`, `12h`, `30m` ago, a day, or a day and a time, in UTC. Pure."""

import re
from datetime import UTC, datetime
from typing import Final

_AGO: Final = re.compile(r"(\d+(?:\.\d+)?)([smhdw])")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def moment(text: str, now: float) -> float:
    """In seconds since 1970, as `now` is. Raises ValueError with what can be said."""
    if ago := _AGO.fullmatch(text.strip()):
        return now - float(ago[1]) * _SECONDS[ago[2]]
    try:
        when = datetime.fromisoformat(text.strip())
    except ValueError:
        raise ValueError(f"{text!r} is no time: write 30d, 12h, 2026-03-01 or 2026-03-01T12:00") from None
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
