from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierserve.core import Cause, Kind, Prompt, Role
from tierserve.errors import RequestError, UnknownModel
from tierserve.server.reading import check_id, read_call
from tierserve.tiers.pair import TierPair
from tierserve.tiers.scripted import ScriptedTier

TIERS = TierPair(ScriptedTier("llama-8b"), ScriptedTier("llama-70b"))


def user(content: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}]}


def read(body: dict[str, Any], kind: Kind = Kind.CHAT, header: str | None = None) -> Any:
    return read_call(kind, body, TIERS, "id", header)


@pytest.mark.parametrize(
    ("model", "header", "forced"),
    [
        ("auto", None, None),
        (None, None, None),
        ("llama-8b", None, (Role.SMALL, Cause.MODEL)),
        ("large", None, (Role.LARGE, Cause.MODEL)),
        ("auto", "llama-70b", (Role.LARGE, Cause.HEADER)),
        ("llama-8b", "large", (Role.LARGE, Cause.HEADER)),
    ],
)
def test_the_tier_is_the_router_s_to_choose_unless_named(model: Any, header: Any, forced: Any) -> None:
    body = user("hi") | ({} if model is None else {"model": model})
    call = read(body, header=header)
    assert call.forced == forced
    assert "model" not in call.body


def test_an_unknown_model_is_told_which_there_are() -> None:
    with pytest.raises(UnknownModel, match="no model 'gpt-4' here; there are `auto`, `llama-8b`, `llama-70b`"):
        read(user("hi") | {"model": "gpt-4"})
    with pytest.raises(RequestError, match="x-tierserve-tier names no tier; there are"):
        read(user("hi"), header="auto")


@pytest.mark.parametrize(
    ("messages", "scored"),
    [
        ([{"role": "system", "content": "be nice"}, {"role": "user", "content": "hi"}], "hi"),
        (
            [
                {"role": "user", "content": "first"},
                {"role": "assistant", "content": "answer"},
                {"role": "user", "content": "second"},
            ],
            "second",
        ),
        ([{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}], "a\nb"),
        ([{"role": "user", "content": "q"}, {"role": "tool", "content": "result", "tool_call_id": "1"}], "q"),
        ([{"role": "system", "content": "only this"}], "only this"),
        ([{"role": "user", "content": "q"}, {"role": "assistant", "content": None, "tool_calls": []}], "q"),
    ],
)
def test_what_the_user_said_last_is_scored(messages: list[Any], scored: str) -> None:
    assert read({"messages": messages}).prompts[0].text == scored


def test_turns_are_how_often_the_user_has_spoken() -> None:
    user, assistant = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
    assert read({"messages": [user]}).prompts == (Prompt("a", 1),)
    assert read({"messages": [user, assistant, user, assistant]}).prompts == (Prompt("a", 2),)
    assert read({"messages": [assistant]}).prompts == (Prompt("b", 1),)


def test_a_conversation_is_known_by_its_session_or_by_what_was_said() -> None:
    body = {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "a"}]}
    parts = [{"type": "text", "text": "a"}]
    later = {"messages": [*body["messages"][:1], {"role": "user", "content": parts}, {"role": "assistant"}]}
    later["messages"].append({"role": "user", "content": "b"})
    assert read(body).conversation.key in read(later).conversation.earlier
    sessions = [read_call(Kind.CHAT, dict(b), TIERS, "id", session_id="x").conversation for b in (body, later)]
    assert sessions[0] == sessions[1]
    assert read({"prompt": "a"}, Kind.COMPLETION).conversation is None


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "`messages` must be a list with at least one message"),
        ({"messages": []}, "`messages` must be a list"),
        ({"messages": "hi"}, "`messages` must be a list"),
        ({"messages": ["hi"]}, "`messages.0` must be an object"),
        ({"messages": [{"content": "hi"}]}, "`messages.0.role` must be one of"),
        ({"messages": [{"role": ["user"], "content": "hi"}]}, "`messages.0.role` must be one of"),
        (user(5), "`messages.0.content` must be a text or a list of parts"),
        (user(""), "the last message is empty"),
        (user(" \n"), "the last message is empty"),
        (user(None), "the last message is empty"),
        (user([]), "the last message is empty"),
        ({"messages": [{"role": "system", "content": ""}]}, "the last message is empty"),
        ({"messages": [*user("")["messages"], {"role": "assistant", "content": ""}]}, "the last message is empty"),
        (user([{"type": "image_url", "image_url": {"url": "x"}}]), "these models read text only"),
        (user([{"type": "text"}]), "must be a part of type `text`"),
        (user("hi") | {"stream": "yes"}, "`stream` must be true or false"),
        (user("hi") | {"model": 5}, "`model` must be a text"),
    ],
)
def test_a_chat_that_can_t_be_understood_is_told_what_to_change(body: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError, match=said.replace(".", r"\.")):
        read(body)


@pytest.mark.parametrize(("prompt", "texts"), [("a", ("a",)), (["a", "b"], ("a", "b"))])
def test_each_prompt_of_a_completion_is_scored(prompt: Any, texts: Any) -> None:
    assert read({"prompt": prompt}, Kind.COMPLETION).prompts == tuple(map(Prompt, texts))


@pytest.mark.parametrize("prompt", [None, "", [], [""], ["a", ""], [None], 5.5, {"a": 1}, [True], [[]]])
def test_a_completion_without_a_prompt_is_refused(prompt: Any) -> None:
    with pytest.raises(RequestError, match="`prompt`"):
        read({"prompt": prompt}, Kind.COMPLETION)


@pytest.mark.parametrize("prompt", [[1, 2], [[1, 2], [3]]])
def test_token_ids_need_a_tier(prompt: Any) -> None:
    with pytest.raises(RequestError, match="token ids can't be routed"):
        read({"prompt": prompt}, Kind.COMPLETION)
    assert read({"prompt": prompt, "model": "small"}, Kind.COMPLETION).prompts == ()


def test_more_prompts_than_can_be_routed_at_once_need_a_tier() -> None:
    prompts = [f"prompt {number}" for number in range(129)]
    with pytest.raises(RequestError, match="at most 128 prompts can be routed at once: name a tier"):
        read({"prompt": prompts}, Kind.COMPLETION)
    assert len(read({"prompt": prompts[:128]}, Kind.COMPLETION).prompts) == 128
    assert len(read({"prompt": prompts, "model": "small"}, Kind.COMPLETION).prompts) == 129


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_no_body_is_anything_but_a_call_or_a_request_error(value: Any) -> None:
    for body in (
        {"messages": value},
        {"messages": [value]},
        user(value),
        {"prompt": value},
        user("x") | {"model": value},
    ):
        for kind in Kind:
            try:
                read(dict(body), kind)
            except RequestError:
                pass


@pytest.mark.parametrize("given_id", ["", "a b", "a\n", "é", "x" * 129])
def test_an_id_is_what_can_stand_in_a_log_line(given_id: str) -> None:
    with pytest.raises(RequestError, match="x-request-id must be"):
        check_id("x-request-id", given_id)
    assert check_id("x-session-id", "x" * 128) == "x" * 128
