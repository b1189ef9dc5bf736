"""W3C Trace Context: from a caller's `traceparent` to the request's place in a trace. Knows no tracing library."""

import random
import re
from typing import Final

from tierserve.core import Trace

_TRACEPARENT: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_TRACESTATE: Final = re.compile(r"[\x20-\x7e]{0,512}")
_SAMPLED: Final = 1
_identifiers = random.Random()  # seeded by the system; they have to differ, not to be secret


def begin(traceparent: str | None, tracestate: str, sample: float | None) -> Trace | None:
    """The request's trace: the caller's, whose word on sampling counts, or else a new one, of which the share `sample`
    is sampled. With `sample` None, as nothing is traced here, the caller's is passed on; None where there is none."""
    found = _read(traceparent, tracestate)
    if sample is None:
        return found
    if found is None:
        return Trace(_identifier(128), _identifier(64), sampled=_identifiers.random() < sample)
    return Trace(found.trace_id, _identifier(64), found.span_id, found.sampled, found.state)


def _read(traceparent: str | None, tracestate: str) -> Trace | None:
    """The caller's span; None where the header is not one, and then what stands beside it means nothing either."""
    match = _TRACEPARENT.fullmatch(traceparent or "")
    if match is None:
        return None
    version, trace_id, span_id, flags, more = match.groups()
    if version == "ff" or (version == "00" and more) or not int(trace_id, 16) or not int(span_id, 16):
        return None
    state = tracestate if _TRACESTATE.fullmatch(tracestate) else ""
    return Trace(int(trace_id, 16), int(span_id, 16), sampled=bool(int(flags, 16) & _SAMPLED), state=state)


def _identifier(bits: int) -> int:
    return _identifiers.getrandbits(bits) or 1  # 0 means: none
