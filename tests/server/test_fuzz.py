"""The HTTP surface, asked what /openapi.json lets one ask, and what it does not: schemathesis makes the requests and
holds each answer to the description. Longer: pytest tests/server/test_fuzz.py --hypothesis-profile=long
"""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.specs.openapi import checks

from tests.server.running import chat, surface
from tierserve.config import ServerConfig
from tierserve.server import openapi
from tierserve.tiers.pair import TierPair
from tierserve.tiers.scripted import ScriptedTier

FEW = settings(max_examples=settings.default.max_examples // 4, suppress_health_check=list(HealthCheck))
CHECKS = [
    schemathesis.checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.allow_header_conformance,
]
PAIR = TierPair(ScriptedTier("s"), ScriptedTier("l"))
# What the description says in words, having no other way to; that 1.0, an integer to it, is no token's id; and what a
# caller gets who wants an answer within no time at all.
UNSAID = (
    "say something",
    "token ids can't be routed",
    "at most 128 are taken",
    "no model",
    "or token ids",
    "time was over",
)


@pytest.fixture(scope="module")
async def url() -> AsyncIterator[str]:
    async with surface(body_s=5, head_s=5) as node:
        yield f"http://127.0.0.1:{node.port}"


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    with requests.Session() as session:
        yield session


DESCRIBED = schemathesis.openapi.from_dict(openapi.document(PAIR, ServerConfig(), keys=False))


def test_what_is_served_is_what_answers_are_held_to(url: str, session: requests.Session) -> None:
    assert session.get(f"{url}/openapi.json", timeout=20).json() == DESCRIBED.raw_schema


@DESCRIBED.parametrize()
@FEW
def test_every_answer_is_as_described(case: Case, url: str, session: requests.Session) -> None:
    as_described = case.meta is not None and case.meta.generation.mode is GenerationMode.POSITIVE
    if as_described and isinstance(case.body, dict) and len(case.body.get("messages", [])) in range(1, 1024):
        case.body["messages"].append({"role": "user", "content": "a question"})  # most of what is made up is blank
    answer = case.call(base_url=url, session=session, timeout=20)
    case.validate_response(answer, checks=CHECKS)
    if as_described and answer.status_code >= 400:
        assert any(words in answer.text for words in UNSAID), answer.text


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=10), inner, max_size=5),
    max_leaves=10,
)
FIELDS = ["messages", "prompt", "model", "n", "stop", "stream", "max_tokens", "logprobs", "tools", "response_format"]
MADE_WRONG = st.dictionaries(st.sampled_from(FIELDS), ANYTHING, max_size=3).map(lambda wrong: chat() | wrong)
PATHS = st.sampled_from(["/v1/chat/completions", "/v1/completions", "/v1/route"])


@FEW
@given(path=PATHS, body=MADE_WRONG | ANYTHING)
def test_no_body_is_a_fault_of_the_server_s(url: str, session: requests.Session, path: str, body: Any) -> None:
    raw = requests.compat.json.dumps(body)  # with NaN and lone surrogates where there are some
    headers = {"content-type": "application/json"}
    answer = session.post(url + path, data=raw.encode(), headers=headers, timeout=20)
    assert answer.status_code < 500, answer.text


@FEW
@given(path=PATHS, body=st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_no_bytes_are_a_fault_of_the_server_s(url: str, session: requests.Session, path: str, body: bytes) -> None:
    answer = session.post(url + path, data=body, headers={"content-type": "application/json"}, timeout=20)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith("the body")
