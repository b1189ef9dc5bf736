"""Errors as HTTP: the only place that knows which error gets which status."""

import json
import math
from http import HTTPStatus

from aiohttp import web

from tierserve.errors import (
    DeadlineExceeded,
    Forbidden,
    Overloaded,
    RateLimited,
    Refused,
    RequestError,
    TierserveError,
    TierUnavailable,
    Unauthorized,
    UnknownModel,
)

PATHS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/route",
    "/v1/models",
    "/health",
    "/ready",
    "/metrics",
    "/openapi.json",
    "/dashboard",
)
_RETRY_AFTER_S = "5"
# Of aiohttp's errors: what would do instead.
_KEPT = ("allow", "accept", "accept-encoding")
CUT_OFF_MESSAGE = "the server is ending and had no more time for this request: send it again"
# What a caller sees of a fault of ours: nothing of its inside.
_FAULT = "the server failed to answer this request; its log has the place beside the request's id"


def refusal(error: TierserveError | web.HTTPException) -> web.Response:
    """An error in the form of OpenAI's API."""
    headers = {}
    match error:
        case UnknownModel():
            status, kind = HTTPStatus.NOT_FOUND, "invalid_request_error"
        case RequestError():
            status, kind = HTTPStatus.BAD_REQUEST, "invalid_request_error"
        case Unauthorized():
            status, kind = HTTPStatus.UNAUTHORIZED, "authentication_error"
            headers["www-authenticate"] = "Bearer"
        case Forbidden():
            status, kind = HTTPStatus.FORBIDDEN, "permission_error"
        case RateLimited():
            status, kind = HTTPStatus.TOO_MANY_REQUESTS, "rate_limit_error"
        case Overloaded():
            status, kind = HTTPStatus.SERVICE_UNAVAILABLE, "service_unavailable"
        case DeadlineExceeded():
            status, kind = HTTPStatus.REQUEST_TIMEOUT, "timeout"
        case TierUnavailable():
            status, kind = HTTPStatus.SERVICE_UNAVAILABLE, "service_unavailable"
            headers["retry-after"] = _RETRY_AFTER_S
        case web.HTTPException():
            status = HTTPStatus(error.status)
            kind = "invalid_request_error" if status < HTTPStatus.INTERNAL_SERVER_ERROR else "server_error"
            headers = {name: value for name, value in error.headers.items() if name.lower() in _KEPT}
        case _:
            return fault()
    if isinstance(error, Refused) and error.retry_after_s is not None:
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after_s)))
    body = _body(_message(error), kind, getattr(error, "param", None), getattr(error, "code", None))
    return web.Response(status=status, body=body, content_type="application/json", headers=headers)


def fault() -> web.Response:
    status = HTTPStatus.INTERNAL_SERVER_ERROR
    return web.Response(status=status, body=_body(_FAULT, "server_error"), content_type="application/json")


def fault_events() -> bytes:
    """The end of a stream that had begun."""
    return _last_events(_FAULT, "server_error")


def cut_off_events() -> bytes:
    """Likewise, where the node ends."""
    return _last_events(CUT_OFF_MESSAGE, "service_unavailable")


def deadline_events(error: DeadlineExceeded) -> bytes:
    """Likewise, where the caller's time is over."""
    return _last_events(str(error), "timeout")


def _last_events(message: str, kind: str) -> bytes:
    return b"data: " + _body(message, kind) + b"\n\ndata: [DONE]\n\n"


def _message(error: TierserveError | web.HTTPException) -> str:
    if isinstance(error, web.HTTPException):
        match error.status:
            case HTTPStatus.NOT_FOUND:
                return f"there is no such path here; there are {', '.join(PATHS)}"
            case HTTPStatus.METHOD_NOT_ALLOWED:
                return f"{error.reason}: use {error.headers.get('Allow', 'another method')}"
        return error.text or error.reason
    return str(error)


def _body(message: str, kind: str, param: str | None = None, code: str | None = None) -> bytes:
    return json.dumps({"error": {"message": message, "type": kind, "param": param, "code": code}}).encode()
