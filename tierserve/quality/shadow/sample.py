"""Which answers can be compared, and what has to be known of them for that. Pure.

Compared are single answers in plain text to what is text itself: the judge reads text, and so does the encoder. Not
compared are calls that may be answered by calling a tool, several answers, and prompts given as token ids.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tierserve.core import Call, Cause, Kind, Outcome, Prompt, Role, Status

# Fields of a body that say how the answer is wanted, not what: the comparison wants one, whole, without logprobs.
_OF_THE_FORM: Final = frozenset(
    {"stream", "stream_options", "logprobs", "top_logprobs", "n", "best_of", "echo", "prompt_logprobs", "user"}
)
_LIMITS: Final = ("max_completion_tokens", "max_tokens")  # the first one counts


@dataclass(frozen=True, slots=True)
class Sample:
    """One that was drawn: how the request went, and what was asked, as text."""

    outcome: Outcome
    request: str


def can_be_drawn(outcome: Outcome, max_prompt_chars: int) -> bool:
    """Whether the small tier answers by the router's choice, its caller may have the large one too, and the answer can
    be compared. Of an outcome that is not complete yet: that it ends well is for `was_answered` to say."""
    call, decision = outcome.call, outcome.decision
    if decision is None or decision.role is not Role.SMALL or decision.cause is Cause.FAILOVER:
        return False  # a failover's answer is no choice of the router's
    if call.forced is not None or Role.LARGE not in call.caller.tiers:
        return False
    if (call.body.get("n") or 1) != 1 or (call.body.get("best_of") or 1) != 1 or call.body.get("echo"):
        return False
    if call.body.get("tools") or call.body.get("functions"):
        return False
    request = request_text(call)
    return request is not None and len(request) <= max_prompt_chars


def was_answered(outcome: Outcome, max_tokens: int) -> bool:
    """Whether the whole of it, of at most so many tokens, reached the caller, and was kept."""
    sent = outcome.sent
    whole = outcome.status is Status.OK and sent is not None and sent.whole
    return whole and outcome.usage.completion_tokens <= max_tokens


def request_text(call: Call) -> str | None:
    """What was asked, for a judge to read: a chat's messages each with its role, or a completion's prompt. None where
    it is not text alone."""
    if call.kind is Kind.COMPLETION:
        prompt = call.body.get("prompt")
        return prompt if isinstance(prompt, str) else None
    messages = call.body.get("messages")
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        return None
    said = [_said(message) for message in messages]
    if any(each is None for each in said):
        return None
    if len(said) == 1:
        return said[0][1] if said[0] else None
    return "\n\n".join(f"{role}: {text}" for role, text in filter(None, said))


def large_call(call: Call, max_tokens: int) -> tuple[Call, bool]:
    """The same question to the large tier, in the background and as a whole; and whether the limit on its answer is
    the comparison's own, no less than the caller had it."""
    body = {name: value for name, value in call.body.items() if name not in _OF_THE_FORM}
    asked: int | None = next(filter(None, [body.pop(name, None) for name in _LIMITS]), None)
    limited = asked is None or asked > max_tokens
    body["max_tokens"] = max_tokens if limited else asked
    return background(f"shadow-{call.id}", call.kind, body, call.prompts), limited


def background(id: str, kind: Kind, body: Mapping[str, Any], prompts: tuple[Prompt, ...]) -> Call:
    """A call of the node's own, for nobody."""
    return Call(id, kind, body, prompts, background=True)


def _said(message: Any) -> tuple[str, str] | None:
    """Who, and what; None where that is not text alone."""
    if not isinstance(message, Mapping) or message.get("tool_calls"):
        return None
    content = message.get("content")
    if isinstance(content, Sequence) and not isinstance(content, str):
        parts = [part.get("text") if isinstance(part, Mapping) else None for part in content]
        texts = [part for part in parts if isinstance(part, str)]
        content = "".join(texts) if len(texts) == len(parts) else None
    return (str(message.get("role")), content) if isinstance(content, str) else None
