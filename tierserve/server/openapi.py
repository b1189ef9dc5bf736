"""GET /openapi.json: what this node takes and gives, in OpenAPI 3.1, with its own tiers' names and limits."""

import asyncio
import json
from typing import Any

from tierserve import __version__, deadline
from tierserve.config import MODEL_NAME, ServerConfig
from tierserve.core import Cause, Role
from tierserve.server.body import BodyReader
from tierserve.server.schemas import Schema, ref, schemas
from tierserve.tiers.pair import TierPair

_JSON = "application/json"
# The status of each refusal, and when it is given.
_REFUSALS = {
    "400": "The request is at fault, and the message says what to change.",
    "401": "No key, or none that is known.",
    "403": "The key may not do this.",
    "404": "There is no such path or model.",
    "405": "The path has another method: see `allow`.",
    "408": "The body, or the answer, took too long.",
    "413": "The body is too large.",
    "415": "The body is not named JSON in UTF-8, or compressed.",
    "417": "An `expect` that can't be met.",
    "429": "The key's limit is used up: see `retry-after`.",
    "431": "The request's line or headers are too long, or too many.",
    "500": "A fault of the server's.",
    "503": "Too busy, or nobody there to answer: see `retry-after`.",
}
_POSTED_WITH = ("x-request-id", "x-session-id", "x-tierserve-tier")
_ALLOWANCE = [
    f"x-ratelimit-{what}-{thing}" for thing in ("requests", "tokens") for what in ("limit", "remaining", "reset")
]
_ALWAYS = ("400", "401", "403", "405", "417", "429", "431", "500", "503")
_WITH_BODY = (*_ALWAYS, "404", "408", "413", "415")


class Description:
    """The document: made when it is first asked for, and again once the engines, whose fields it names, are up, or
    other limits hold."""

    def __init__(self, tiers: TierPair, bodies: BodyReader, keys: bool = False) -> None:
        self._tiers, self._bodies, self._keys = tiers, bodies, keys
        self._made: tuple[object, bytes] = (None, b"")

    async def body(self) -> bytes:
        bounds = self._bodies.bounds
        made_of = (self._tiers.has_request_model, bounds)
        if self._made[0] != made_of:
            # vLLM takes 0.2 s over its part.
            described = await asyncio.to_thread(document, self._tiers, bounds, self._keys)
            self._made = (made_of, json.dumps(described).encode())
        return self._made[1]


def document(tiers: TierPair, bounds: ServerConfig, keys: bool) -> Schema:
    """`keys`: whether the node asks for them."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "tierserve",
            "version": __version__,
            "description": "OpenAI's API over two models: each prompt is answered by the smaller one that will do.",
        },
        "paths": _paths(),
        "security": [{"bearer": []}] if keys else [{}, {"bearer": []}],
        "components": {
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
            "schemas": schemas(tiers, bounds.limits),
            "parameters": _parameters(tiers),
            "headers": _headers(),
            "responses": {status: _refusal(status) for status in _REFUSALS},
        },
    }


def _paths() -> dict[str, Any]:
    chat, completion = ref("ChatRequest"), ref("CompletionRequest")
    either = {"anyOf": [chat, completion]}
    return {
        "/v1/chat/completions": {"post": _generation("Answer a chat.", chat, "ChatAnswer")},
        "/v1/completions": {"post": _generation("Go on with texts.", completion, "CompletionAnswer")},
        "/v1/route": {"post": _posted("Which tier would answer, and why.", either, {_JSON: _schema("Route")})},
        "/v1/models": {"get": _got("`auto` and the tiers.", _schema("Models"))},
        "/v1/models/{model}": {"get": _named_model()},
        "/health": {"get": _got("Whether the process is alive.", _schema("Health"))},
        "/ready": {"get": _ready()},
        "/metrics": {"get": _got("Prometheus' text format.", {"schema": {"type": "string"}}, "text/plain")},
        "/openapi.json": {"get": _got("This description.", {"schema": {"type": "object"}})},
    }


def _generation(summary: str, body: Schema, answer: str) -> Schema:
    posted = _posted(summary, body, {_JSON: _schema(answer), "text/event-stream": _schema("Event")})
    posted["parameters"].append(_parameter(deadline.HEADER))
    return posted


def _posted(summary: str, body: Schema, content: dict[str, Any]) -> Schema:
    told = ("tier", "score", "cause", "confidence", "escalated")
    answered = _answered(summary, content, [*(f"x-tierserve-{name}" for name in told), *_ALLOWANCE])
    return {
        "summary": summary,
        "parameters": [_parameter(name) for name in _POSTED_WITH],
        "requestBody": {"required": True, "content": {_JSON: {"schema": body}}},
        "responses": {"200": answered} | _refusals(_WITH_BODY),
    }


def _got(summary: str, content: Schema, media: str = _JSON) -> Schema:
    return {
        "summary": summary,
        "parameters": [_parameter("x-request-id")],
        "responses": {"200": _answered(summary, {media: content})} | _refusals(_ALWAYS),
    }


def _named_model() -> Schema:
    got, name = _got("One of them.", _schema("Model")), {"type": "string", "pattern": MODEL_NAME}
    got["parameters"].append({"name": "model", "in": "path", "required": True, "schema": name})
    got["responses"] |= _refusals(("404",))
    return got


def _ready() -> Schema:
    got = _got("Whether the node can answer, and what each tier that can't is waiting for.", _schema("Ready"))
    not_yet = {"schema": {"anyOf": [ref("Ready"), ref("Error")]}}
    got["responses"]["503"] = _answered("It can't yet or any more, or the server is full.", {_JSON: not_yet})
    return got


def _schema(name: str) -> Schema:
    return {"schema": ref(name)}


def _answered(description: str, content: dict[str, Any], headers: list[str] | None = None) -> Schema:
    names = ["x-request-id", *(headers or [])]
    return {
        "description": description,
        "headers": {name: {"$ref": f"#/components/headers/{name}"} for name in names},
        "content": content,
    }


def _refusals(statuses: tuple[str, ...]) -> Schema:
    return {status: {"$ref": f"#/components/responses/{status}"} for status in statuses}


def _refusal(status: str) -> Schema:
    headers = {"405": ["allow"], "429": ["retry-after", *_ALLOWANCE], "503": ["retry-after"]}
    return _answered(_REFUSALS[status], {_JSON: _schema("Error")}, headers.get(status))


def _headers() -> dict[str, Any]:
    text: Schema = {"type": "string"}
    always = {
        "x-request-id": ("The caller's, or one that was made.", text),
        "x-tierserve-tier": ("Who answered.", text),
        "x-tierserve-score": ("0 to 10, or `none`.", text),
        "x-tierserve-cause": ("Why this tier.", {"enum": list(Cause)}),
        "x-tierserve-confidence": ("In the small tier's answer, 0 to 1, or `none`.", text),
        "x-tierserve-escalated": ("Whether the large tier answered instead.", {"enum": ["true", "false"]}),
        "allow": ("The methods that the path has.", text),
    }
    sometimes = {"retry-after": ("Seconds.", {"type": "integer", "minimum": 1})}
    sometimes |= {name: ("Of the key, where it has such a limit.", text) for name in _ALLOWANCE}
    return {
        name: {"description": description, "required": name in always, "schema": schema}
        for name, (description, schema) in (always | sometimes).items()
    }


def _parameters(tiers: TierPair) -> dict[str, Any]:
    """Headers that requests may carry."""
    identifier: Schema = {"type": "string", "pattern": "^[!-~]{1,128}$"}
    described: dict[str, tuple[str, Schema]] = {
        "x-request-id": ("The caller's name for the request, which the answer carries.", identifier),
        "x-session-id": ("The chat's conversation, which stays on its tier.", identifier),
        deadline.HEADER: (
            "Seconds after which nobody waits any more; the node's own limit where that is less.",
            {"type": "number", "exclusiveMinimum": 0},
        ),
        "x-tierserve-tier": ("Forces a tier.", {"enum": [*(tier.name for tier in tiers), *Role]}),
    }
    return {
        name: {"name": name, "in": "header", "required": False, "description": description, "schema": schema}
        for name, (description, schema) in described.items()
    }


def _parameter(name: str) -> Schema:
    return {"$ref": f"#/components/parameters/{name}"}
