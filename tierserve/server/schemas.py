"""What goes over the wire, as JSON Schema for openapi.py: requests' bodies, with the node's own limits, and answers'.

Fields that every tier takes stand here; where a tier is an engine in this process, vLLM's request model adds its own.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from tierserve.config import LimitsConfig
from tierserve.core import Cause, Kind, Role
from tierserve.server.reading import AUTO, MESSAGE_FIELDS, ROLES
from tierserve.tiers.base import TierState
from tierserve.tiers.pair import TierPair

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_INTEGER: Schema = {"type": "integer"}
_PREFIX = "#/components/schemas/"


def ref(name: str) -> Schema:
    return {"$ref": _PREFIX + name}


def schemas(tiers: TierPair, limits: LimitsConfig) -> dict[str, Schema]:
    """All of them by name; `ref` names them."""
    model = {"type": "string", "enum": [AUTO, *(tier.name for tier in tiers), *Role], "default": AUTO}
    taken: dict[str, Schema] = {
        "Message": _message(),
        "ChatRequest": _object({"model": model} | _chat(limits), ["messages"], "A chat to go on with."),
        "CompletionRequest": _object({"model": model} | _completion(limits), ["prompt"], "Texts to go on with."),
    }
    for kind, name in ((Kind.CHAT, "ChatRequest"), (Kind.COMPLETION, "CompletionRequest")):
        _add_engine_fields(taken, name, tiers.request_schema(kind))
    return taken | _answers(tiers)


def _or_null(schema: Schema) -> Schema:
    """Optional fields may be null, which is as if they were not there."""
    return {**schema, "type": [schema["type"], "null"]} if "type" in schema else {"anyOf": [schema, {"type": "null"}]}


def _object(properties: Mapping[str, Schema], required: Iterable[str], description: str = "") -> Schema:
    schema = {"type": "object", "properties": dict(properties), "required": list(required)}
    return schema | ({"description": description} if description else {})


def _list(items: Schema, most: int | None = None, least: int = 0) -> Schema:
    schema: Schema = {"type": "array", "items": items}
    return schema | ({"maxItems": most} if most is not None else {}) | ({"minItems": least} if least else {})


def _number(least: float | None = None, most: float | None = None, kind: str = "number") -> Schema:
    bounds = {"minimum": least, "maximum": most}
    return {"type": kind} | {name: bound for name, bound in bounds.items() if bound is not None}


def _common(limits: LimitsConfig) -> dict[str, Schema]:
    stop = {"anyOf": [_TEXT, _list(_TEXT, limits.stop)]}
    bias = {"type": "object", "additionalProperties": _number(-100, 100), "maxProperties": limits.entries}
    optional: dict[str, Schema] = {
        "stream": {"type": "boolean"},
        "stream_options": _object({"include_usage": {"type": "boolean"}}, []),
        "n": _number(1, limits.choices, "integer"),
        "max_tokens": _number(1, limits.max_tokens, "integer"),
        "temperature": {**_number(0), "description": "0, or at least 0.01."},
        "top_p": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
        "frequency_penalty": _number(-2, 2),
        "presence_penalty": _number(-2, 2),
        "seed": _INTEGER,
        "stop": stop,
        "logit_bias": bias,
        "response_format": {"type": "object"},
        "user": {**_TEXT, "description": "Taken, and has no effect."},
    }
    return {name: _or_null(schema) for name, schema in optional.items()}


def _chat(limits: LimitsConfig) -> dict[str, Schema]:
    optional = {
        "max_completion_tokens": _number(1, limits.max_tokens, "integer"),
        "logprobs": {"type": "boolean"},
        "top_logprobs": {**_number(0, limits.logprobs, "integer"), "description": "Needs `logprobs`."},
        "tools": _list({"type": "object"}, limits.tools),
        "tool_choice": {"anyOf": [_TEXT, {"type": "object"}]},
        "parallel_tool_calls": {"type": "boolean"},
    }
    messages = _list(ref("Message"), limits.messages, least=1)
    messages["description"] = f"With at most {limits.parts} parts and tool calls in all. The last may not be blank."
    return {"messages": messages} | _common(limits) | {name: _or_null(schema) for name, schema in optional.items()}


def _completion(limits: LimitsConfig) -> dict[str, Schema]:
    said = {**_TEXT, "minLength": 1}
    ids = _list(_number(0, kind="integer"), least=1)
    prompt = {
        "description": f"`n` times the prompts: at most {limits.choices}. Token ids need a tier's name in `model`.",
        "anyOf": [said, _list(said, limits.choices, 1), ids, _list(ids, limits.choices, 1)],
    }
    optional = {"echo": {"type": "boolean"}, "logprobs": _number(0, limits.logprobs, "integer")}
    return {"prompt": prompt} | _common(limits) | {name: _or_null(schema) for name, schema in optional.items()}


def _message() -> Schema:
    part = {
        "type": "object",
        "oneOf": [_closed({"type": {"const": kind}, kind: _TEXT}, ["type", kind]) for kind in ("text", "refusal")],
    }
    properties: dict[str, Schema] = {name: _or_null(_TEXT) for name in sorted(MESSAGE_FIELDS)}
    properties["role"] = {"type": "string", "enum": list(ROLES)}
    properties["content"] = {"anyOf": [_TEXT, _list(part), {"type": "null"}]}
    properties["tool_calls"] = _or_null(_list({"type": "object"}))
    return _closed(properties, ["role"])


def _closed(properties: Mapping[str, Schema], required: Iterable[str]) -> Schema:
    """An unknown field is refused, unless it is null."""
    return _object(properties, required) | {"additionalProperties": {"type": "null"}}


def _add_engine_fields(taken: dict[str, Schema], name: str, engine: Schema | None) -> None:
    """What vLLM's request model has beside the fields above, with the definitions that those fields refer to."""
    if engine is None:
        taken[name]["description"] += " Further fields are handed to the tier's server, which may refuse them."
        return
    known, definitions = taken[name]["properties"], engine.get("$defs", {})
    added = {field: schema for field, schema in engine["properties"].items() if field not in known}
    known |= added
    taken[name]["additionalProperties"] = {"type": "null"}
    wanted = [added]
    while wanted:
        for definition in _referred(wanted.pop()):
            if definition not in taken:
                taken[definition] = definitions[definition]
                wanted.append(definitions[definition])


def _referred(schema: Any) -> Iterable[str]:
    if isinstance(schema, dict):
        target = schema.get("$ref")
        if isinstance(target, str):
            yield target.removeprefix(_PREFIX)
        for part in schema.values():
            yield from _referred(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from _referred(part)


def _answers(tiers: TierPair) -> dict[str, Schema]:
    usage = _object({name: _number(0, kind="integer") for name in ("prompt_tokens", "total_tokens")}, ["prompt_tokens"])
    message = _object({"role": {"const": "assistant"}, "content": _or_null(_TEXT)}, ["role", "content"])
    named = {"id": _TEXT, "created": _INTEGER, "model": _TEXT, "usage": usage}
    state = _object({"state": {"enum": list(TierState)}, "waiting_for": _TEXT}, ["state"])
    error = {"message": _TEXT, "type": _TEXT, "param": _or_null(_TEXT), "code": _or_null(_TEXT)}
    return {
        "ChatAnswer": _answer("chat.completion", named, {"message": message}),
        "CompletionAnswer": _answer("text_completion", named, {"text": _TEXT}),
        "Event": _event(),
        "Route": _route(tiers),
        "Model": _card(),
        "Models": _object({"object": {"const": "list"}, "data": _list(ref("Model"))}, ["object", "data"]),
        "Health": _object({"status": {"const": "alive"}, "version": _TEXT}, ["status", "version"]),
        "Ready": _object(
            {
                "ready": {"type": "boolean"},
                "degraded": _list(_TEXT),
                "draining": {"const": True},
                "router": state,
                "tiers": {"type": "object", "additionalProperties": state},
            },
            ["ready", "degraded", "router", "tiers"],
        ),
        "Error": _object({"error": _object(error, list(error))}, ["error"]),
    }


def _answer(kind: str, named: Mapping[str, Schema], said: Mapping[str, Schema]) -> Schema:
    properties: Schema = {"index": _INTEGER, "finish_reason": _or_null(_TEXT), **said}
    choice = _object(properties, properties)
    properties = {"object": {"const": kind}, **named, "choices": _list(choice, least=1)}
    return _object(properties, properties)


def _event() -> Schema:
    data = {
        "type": "string",
        "pattern": r"^(\{.*\}|\[DONE\])$",
        "description": "A chunk of the answer as JSON; at the end `[DONE]`, and before it an `Error` if it broke off.",
    }
    return _object({"data": data}, ["data"], "One of a stream of server-sent events.")


def _route(tiers: TierPair) -> Schema:
    properties: Schema = {
        "object": {"const": "route"},
        "tier": {"enum": [tier.name for tier in tiers]},
        "role": {"enum": list(Role)},
        "score": {"type": ["number", "null"], "minimum": 0, "maximum": 10},
        "threshold": _number(0, 10),
        "cause": {"enum": list(Cause)},
    }
    return _object(properties, properties)


def _card() -> Schema:
    properties = {
        "id": _TEXT,
        "object": {"const": "model"},
        "created": _INTEGER,
        "owned_by": _TEXT,
        "max_model_len": _or_null(_INTEGER),
    }
    return _object(properties, properties)
