"""What is heard of an answer that another server gives: its words and, asked for where need be, its logprobs."""

from collections.abc import Mapping
from typing import Any

from tierserve.core import Call, Heard, Kind, Usage
from tierserve.tiers.base import Listener


class RemoteEar:
    """Asks for logprobs that a listener wants and the caller did not, lets it hear them, and takes them out again."""

    def __init__(self, call: Call, listener: Listener | None) -> None:
        self.asks: dict[str, Any] = {}
        self._listener = listener
        self._chat = call.kind is Kind.CHAT
        wanted = listener.alternatives if listener else None
        if wanted is None:
            return
        asked = call.body.get("top_logprobs" if self._chat else "logprobs") or 0
        self._shown: int | None = asked if call.body.get("logprobs") not in (None, False) else None
        most = max(int(asked), wanted)
        self.asks = {"logprobs": True, "top_logprobs": most} if self._chat else {"logprobs": most}

    def hear(self, answer: dict[str, Any]) -> None:
        """A body, or an event of a stream; what the caller did not ask for is taken out."""
        if self._listener is None:
            return
        for choice in answer.get("choices") or ():
            said = choice.get("delta") or choice.get("message") or {}
            text = (said.get("content") if self._chat else choice.get("text")) or ""
            logprobs = self._taken(choice) if self.asks else []
            tokens = len(logprobs) or int(bool(text))
            ended = choice.get("finish_reason") is not None
            if tokens or ended:
                self._listener.hear(
                    Heard(choice.get("index", 0), text, tokens, logprobs, ended, usage_of(answer).prompt_tokens)
                )

    def _taken(self, choice: dict[str, Any]) -> list[list[float]]:
        """Of each token its own logprob, then those of the likeliest ones."""
        given = choice.get("logprobs") or {}
        if self._shown is None:
            choice["logprobs"] = None
        return self._of_chat(given) if self._chat else self._of_completion(given)

    def _of_chat(self, given: dict[str, Any]) -> list[list[float]]:
        found = []
        for token in given.get("content") or ():
            likeliest = token.get("top_logprobs") or []
            found.append([token["logprob"], *(other["logprob"] for other in likeliest)])
            token["top_logprobs"] = likeliest[: self._shown]
        return found

    def _of_completion(self, given: dict[str, Any]) -> list[list[float]]:
        own = given.get("token_logprobs") or []
        likeliest = given.get("top_logprobs") or [None] * len(own)
        given["top_logprobs"] = [others and dict(list(others.items())[: self._shown]) for others in likeliest]
        return [[one, *(others or {}).values()] for one, others in zip(own, likeliest, strict=True) if one is not None]


def usage_of(answer: Mapping[str, Any]) -> Usage:
    usage = answer.get("usage") or {}
    return Usage(int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0))
