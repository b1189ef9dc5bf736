"""What came in, and how it ended."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from http import HTTPStatus
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge

from tierserve.core import Cause, Outcome, Status

_NONE: Final = "none"
# What server/refusal.py and aiohttp answer with; any other status gets its series when it is first used.
_REFUSALS: Final = (
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.FORBIDDEN,
    HTTPStatus.NOT_FOUND,
    HTTPStatus.METHOD_NOT_ALLOWED,
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    HTTPStatus.INTERNAL_SERVER_ERROR,
    HTTPStatus.SERVICE_UNAVAILABLE,
)


class Traffic:
    def __init__(self, registry: CollectorRegistry, tiers: Sequence[str]) -> None:
        self._requests = Counter(
            "tierserve_requests",
            "Requests that ended, by the tier that answered, why it was chosen, and how it went; `none`, where it "
            "never came to that.",
            ["tier", "cause", "status"],
            registry=registry,
        )
        self._refusals = Counter(
            "tierserve_refusals",
            "Requests answered with an error, on any path, by HTTP status.",
            ["status"],
            registry=registry,
        )
        self._in_flight = Gauge("tierserve_requests_in_flight", "Requests being answered.", registry=registry)
        for status in Status:
            for cause in Cause:
                for tier in tiers:
                    self._requests.labels(tier, cause, status)
                if status is not Status.OK:
                    self._requests.labels(_NONE, cause, status)
            if status is not Status.OK:
                self._requests.labels(_NONE, _NONE, status)
        for refusal in _REFUSALS:
            self._refusals.labels(refusal.value)

    def in_flight(self) -> AbstractContextManager[object]:
        return self._in_flight.track_inprogress()

    def count_refusal(self, status: int) -> None:
        self._refusals.labels(status).inc()

    def record(self, outcome: Outcome) -> None:
        cause = outcome.decision.cause if outcome.decision else _NONE
        self._requests.labels(outcome.tier or _NONE, cause, outcome.status).inc()
