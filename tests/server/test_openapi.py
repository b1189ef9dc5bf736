"""/openapi.json says what there is, and what it says is so. test_fuzz.py holds answers to it."""

import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from tests.server.running import surface
from tierserve.config import ServerConfig
from tierserve.server.api import routes
from tierserve.server.body import BodyReader
from tierserve.server.openapi import Description, document
from tierserve.server.schemas import _PREFIX, _add_engine_fields
from tierserve.tiers.pair import TierPair
from tierserve.tiers.scripted import ScriptedTier

TIERS = TierPair(ScriptedTier("s"), ScriptedTier("l"))
DOCUMENT = document(TIERS, ServerConfig(), keys=False)


def validator(name: str) -> Draft202012Validator:
    return Draft202012Validator({"$ref": f"{_PREFIX}{name}", "components": DOCUMENT["components"]})


def test_every_endpoint_is_described_and_no_other() -> None:
    described = {(path, method.upper()) for path, item in DOCUMENT["paths"].items() for method in item}
    served = {(getattr(route, "path", "").replace(":.+}", "}"), getattr(route, "method", "")) for route in routes}
    assert described == served


def test_each_parameter_is_named_once_and_a_deadline_where_it_counts() -> None:
    taking_deadlines = set()
    for path, item in DOCUMENT["paths"].items():
        for operation in item.values():
            names = [parameter.get("$ref") or parameter["name"] for parameter in operation["parameters"]]
            assert len(names) == len(set(names)), path
            if "#/components/parameters/x-request-timeout-s" in names:
                taking_deadlines.add(path)
    assert taking_deadlines == {"/v1/chat/completions", "/v1/completions"}


def references(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [value[name] for name in value if name == "$ref"] + [
            found for part in value.values() for found in references(part)
        ]
    return [found for part in value for found in references(part)] if isinstance(value, list) else []


def test_every_reference_leads_somewhere_and_every_schema_is_one() -> None:
    for reference in references(DOCUMENT):
        place = DOCUMENT
        for step in reference.removeprefix("#/").split("/"):
            place = place[step]
    for schema in DOCUMENT["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


def test_models_are_the_node_s_own() -> None:
    chat = DOCUMENT["components"]["schemas"]["ChatRequest"]["properties"]
    assert chat["model"]["enum"] == ["auto", "s", "l", "small", "large"]


def test_limits_are_the_node_s_own() -> None:
    bounds = ServerConfig.model_validate({"limits": {"messages": 3, "tools": 2, "choices": 5, "max_tokens": 7}})
    chat = document(TIERS, bounds, keys=False)["components"]["schemas"]["ChatRequest"]["properties"]
    found = (
        chat["messages"]["maxItems"],
        chat["tools"]["maxItems"],
        chat["n"]["maximum"],
        chat["max_tokens"]["maximum"],
    )
    assert found == (3, 2, 5, 7)


@pytest.mark.parametrize(
    ("body", "valid"),
    [
        ({"messages": [{"role": "user", "content": "a"}], "temperature": None, "stop": "x"}, True),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}], "name": None}]}, True),
        ({"messages": []}, False),
        ({"messages": [{"role": "wizard", "content": "a"}]}, False),
        ({"messages": [{"role": "user", "content": "a", "prefix": True}]}, False),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, False),
        ({"messages": [{"role": "user", "content": "a"}], "n": 129}, False),
        ({"messages": [{"role": "user", "content": "a"}], "stop": ["a"] * 17}, False),
        ({"messages": [{"role": "user", "content": "a"}], "model": "gpt-4"}, False),
        ({}, False),
    ],
    ids=str,
)
def test_the_schema_of_chats_takes_and_refuses_what_the_node_does(body: dict[str, Any], valid: bool) -> None:
    assert validator("ChatRequest").is_valid(body) is valid


def test_keys_are_asked_for_where_the_node_has_some() -> None:
    assert {} in DOCUMENT["security"]
    assert document(TIERS, ServerConfig(), keys=True)["security"] == [{"bearer": []}]


def test_an_engine_s_fields_come_with_the_definitions_that_they_need() -> None:
    taken = {"X": {"description": "", "properties": {"n": {"type": "integer"}}}}
    engine = {
        "properties": {"n": {"type": "string"}, "more": {"anyOf": [{"$ref": f"{_PREFIX}A"}]}},
        "$defs": {"A": {"items": {"$ref": f"{_PREFIX}B"}}, "B": {"items": {"$ref": f"{_PREFIX}A"}}, "C": {}},
    }
    _add_engine_fields(taken, "X", engine)
    assert taken["X"]["properties"]["n"] == {"type": "integer"}, "ours stands"
    assert set(taken["X"]["properties"]) == {"n", "more"}
    assert set(taken) == {"X", "A", "B"}


async def test_it_is_served_and_made_once_for_the_limits_that_hold() -> None:
    async with surface() as node:
        for _ in range(2):
            answer = await node.exchange(b"GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n")
            assert answer.headers["content-type"] == "application/json"
            assert json.loads(answer.body)["openapi"] == "3.1.0"
    bodies = BodyReader(ServerConfig())
    description = Description(TIERS, bodies)
    assert await description.body() is await description.body()
    before = await description.body()
    bodies.bounds = ServerConfig(max_body_mb=1)
    assert await description.body() is not before
