"""Errors as HTTP: the only place that knows which error gets which status."""

import json
from http import HTTPStatus

from aiohttp import web

from tierserve.errors import RequestError, TierBusy, TierserveError, TierUnavailable, UnknownModel

_RETRY_AFTER_S = "5"


def refusal(error: TierserveError | web.HTTPException) -> web.Response:
    """An error in the form of OpenAI's API."""
    headers = {}
    match error:
        case UnknownModel():
            status, kind = HTTPStatus.NOT_FOUND, "invalid_request_error"
        case RequestError():
            status, kind = HTTPStatus.BAD_REQUEST, "invalid_request_error"
        case TierBusy() | TierUnavailable():
            status, kind = HTTPStatus.SERVICE_UNAVAILABLE, "service_unavailable"
            headers["retry-after"] = _RETRY_AFTER_S
        case web.HTTPException():
            status = HTTPStatus(error.status)
            kind = "invalid_request_error" if status < HTTPStatus.INTERNAL_SERVER_ERROR else "server_error"
            headers = {name: value for name, value in error.headers.items() if name.lower() == "allow"}
        case _:
            status, kind = HTTPStatus.INTERNAL_SERVER_ERROR, "server_error"
    param, code = getattr(error, "param", None), getattr(error, "code", None)
    return _response(status, _message(error), kind, param, code, headers)


def fault() -> web.Response:
    """What a caller sees of a fault of ours: nothing of its inside, which is in the log beside the request's id."""
    message = "the server failed to answer this request; its log has the cause beside the request's id"
    return _response(HTTPStatus.INTERNAL_SERVER_ERROR, message, "server_error", None, None, {})


def _message(error: TierserveError | web.HTTPException) -> str:
    if isinstance(error, web.HTTPException):
        match error.status:
            case HTTPStatus.NOT_FOUND:
                return "there is no such path here; see README for those that there are"
            case HTTPStatus.METHOD_NOT_ALLOWED:
                return f"{error.reason}: use {error.headers.get('Allow', 'another method')}"
        return error.text or error.reason
    return str(error)


def _response(
    status: HTTPStatus, message: str, kind: str, param: str | None, code: str | None, headers: dict[str, str]
) -> web.Response:
    body = {"error": {"message": message, "type": kind, "param": param, "code": code}}
    return web.Response(status=status, body=json.dumps(body).encode(), content_type="application/json", headers=headers)
