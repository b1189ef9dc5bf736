"""From the body of a request to a Call: what every tier needs to know of it, checked. Raises RequestError."""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from tierserve.core import ANYBODY, Call, Caller, Cause, Kind, Prompt, Role
from tierserve.errors import Forbidden, RequestError, UnknownModel
from tierserve.router.rules.conversations import identify
from tierserve.tiers.pair import TierPair

AUTO = "auto"

_MOST_ROUTED = 128

# What may stand in a header and in a log line without a second look.
_ID = re.compile(r"[\x21-\x7e]{1,128}")
# What the engines' chat templates are given of a message.
MESSAGE_FIELDS = {
    "role",
    "content",
    "name",
    "tool_calls",
    "tool_call_id",
    "reasoning",
    "reasoning_content",
    "refusal",
}
ROLES = ("system", "developer", "user", "assistant", "tool", "function")


def read_call(
    kind: Kind,
    body: dict[str, Any],
    tiers: TierPair,
    request_id: str,
    forced_tier: str | None = None,
    session_id: str | None = None,
    caller: Caller = ANYBODY,
) -> Call:
    """`forced_tier` and `session_id` are headers' values; the first wins over `model`.

    Raises RequestError, and Forbidden for a tier that the caller's key may not have.
    """
    forced = _forced(body.pop("model", AUTO), forced_tier, tiers, caller)
    stream = body.get("stream")
    if not isinstance(stream, bool | None):
        raise RequestError("`stream` must be true or false", "stream")
    conversation = None
    if kind is Kind.CHAT:
        messages = _messages(body)
        prompts: tuple[Prompt, ...] = (_said_last(messages),)
        conversation = identify(messages, session_id, caller.key)
    else:
        prompts = _prompts(body, forced is None)
    parsed = tiers.parse(kind, body)
    return Call(request_id, kind, body, prompts, bool(stream), forced, parsed, conversation, caller)


def known_role(header: str | None, tiers: TierPair, caller: Caller) -> Role | None:
    """The tier that a request is for whatever its body says; None: that, or the router, has to tell."""
    if header is not None:
        return tiers.role_of(header)
    return _only_role(caller)


def check_id(header: str, value: str) -> str:
    """The value of a header by which callers name something of theirs."""
    if not _ID.fullmatch(value):
        raise RequestError(f"{header} must be 1 to 128 printable ASCII characters without spaces", header)
    return value


def _forced(model: Any, header: str | None, tiers: TierPair, caller: Caller) -> tuple[Role, Cause] | None:
    """The tier that the caller names; else the one that the key may have, where that is only one."""
    named = _named(model, header, tiers)
    if named is not None:
        if named[0] not in caller.tiers:
            raise Forbidden(f"the key {caller.key} may not have {tiers[named[0]].name}: ask for `{AUTO}`")
        return named
    only = _only_role(caller)
    return None if only is None else (only, Cause.KEY)


def _only_role(caller: Caller) -> Role | None:
    return next(iter(caller.tiers)) if len(caller.tiers) == 1 else None


def _named(model: Any, header: str | None, tiers: TierPair) -> tuple[Role, Cause] | None:
    if not isinstance(model, str):
        raise RequestError("`model` must be a text", "model")
    tier_names = ", ".join(f"`{tier.name}`" for tier in tiers)
    role = None if model == AUTO else tiers.role_of(model)
    if model != AUTO and role is None:
        raise UnknownModel(f"there is no model {model!r} here; there are `{AUTO}`, {tier_names}", "model")
    if header is not None:
        forced = tiers.role_of(header)
        if forced is None:
            raise RequestError(
                f"x-tierserve-tier names no tier; there are {tier_names}, small and large", "x-tierserve-tier"
            )
        return forced, Cause.HEADER
    return None if role is None else (role, Cause.MODEL)


def _messages(body: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Role and text of each message."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise RequestError("`messages` must be a list with at least one message", "messages")
    texts = [_message_text(message, f"messages.{index}") for index, message in enumerate(messages)]
    return [(message["role"], text) for message, text in zip(messages, texts, strict=True)]


def _said_last(messages: Sequence[tuple[str, str]]) -> Prompt:
    """What the user said last, which is what is scored; without a user message, whatever was said last."""
    by_user = [index for index, (role, _) in enumerate(messages) if role == "user"]
    scored = by_user[-1] if by_user else len(messages) - 1
    text = messages[scored][1]
    if not text.strip():
        raise RequestError("the last message is empty: say something", f"messages.{scored}.content")
    return Prompt(text, max(len(by_user), 1))


def _message_text(message: Any, where: str) -> str:
    if not isinstance(message, dict):
        raise RequestError(f"`{where}` must be an object with `role` and `content`", where)
    if message.get("role") not in ROLES:
        raise RequestError(f"`{where}.role` must be one of {', '.join(ROLES)}", f"{where}.role")
    _refuse_unknown(message, MESSAGE_FIELDS, where)
    content = message.get("content")
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise RequestError(f"`{where}.content` must be a text or a list of parts", f"{where}.content")
    return "\n".join(_part_text(part, f"{where}.content.{index}") for index, part in enumerate(content))


def _part_text(part: Any, where: str) -> str:
    if isinstance(part, dict) and part.get("type") in ("text", "refusal"):
        _refuse_unknown(part, ("type", part["type"]), where)
        text = part.get(part["type"])
        if isinstance(text, str):
            return text
    raise RequestError(f"`{where}` must be a part of type `text`: these models read text only", where)


def _refuse_unknown(value: Mapping[str, Any], known: Collection[str], where: str) -> None:
    for name in value:
        if name not in known and value[name] is not None:
            raise RequestError(f"unknown field `{where}.{name}`: remove it, or correct its name", f"{where}.{name}")


def _prompts(body: Mapping[str, Any], scored: bool) -> tuple[Prompt, ...]:
    """Each prompt of a completion request. Token ids are some tokenizer's, and can't be scored."""
    prompt = body.get("prompt")
    prompts = prompt if isinstance(prompt, list) else [prompt]
    if not prompts or any(not isinstance(one, str | int | list) or isinstance(one, bool) for one in prompts):
        raise RequestError("`prompt` must be a text, a list of texts, or token ids", "prompt")
    if any(one == "" or one == [] for one in prompts):
        raise RequestError("`prompt` is empty: say something", "prompt")
    texts = [one for one in prompts if isinstance(one, str)]
    if scored and len(texts) > _MOST_ROUTED:
        raise RequestError(
            f"at most {_MOST_ROUTED} prompts can be routed at once: name a tier instead of `{AUTO}`", "prompt"
        )
    if len(texts) == len(prompts):
        return tuple(Prompt(text) for text in texts)
    if scored:
        raise RequestError(f"token ids can't be routed: send text, or name a tier instead of `{AUTO}`", "prompt")
    return ()
