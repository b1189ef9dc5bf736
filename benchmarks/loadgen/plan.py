"""What is asked for: which servers, with which prompts, how often, for how long. Checked where it is made."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Literal
from urllib.parse import urlsplit

_PATHS = {"chat": "/chat/completions", "completion": "/completions"}


class PlanError(ValueError):
    """What was asked for can't be run. The text tells a person why."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A conversation as the API takes it; `output_tokens` bounds its answer (None: the plan's max_tokens does)."""

    messages: Sequence[Mapping[str, Any]]
    output_tokens: int | None = None

    @classmethod
    def of(cls, text: str, output_tokens: int | None = None) -> "Prompt":
        return cls([{"role": "user", "content": text}], output_tokens)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A model at a server. `url` is the server's, with /v1 or without; `name` is what rows call it."""

    url: str
    model: str
    name: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    api: Literal["chat", "completion"] = "chat"

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise PlanError(f"{self.url!r} is no URL of a server, such as http://127.0.0.1:8000")
        if self.api not in _PATHS:
            raise PlanError(f"api must be one of {', '.join(_PATHS)}, not {self.api!r}")
        object.__setattr__(self, "name", self.name or self.model)

    @property
    def address(self) -> str:
        """Where requests go."""
        base = self.url.rstrip("/")
        return (base if base.endswith("/v1") else f"{base}/v1") + _PATHS[self.api]


@dataclass(frozen=True, slots=True)
class Closed:
    """So many callers, each of whom asks again as soon as it is answered."""

    concurrency: int

    def __post_init__(self) -> None:
        if self.concurrency < 1:
            raise PlanError(f"concurrency must be at least 1, not {self.concurrency}")

    def __str__(self) -> str:
        return f"{self.concurrency} at once"


@dataclass(frozen=True, slots=True)
class Open:
    """Requests at times that do not depend on the answers: at random (Poisson) or evenly spaced."""

    rate_per_s: float
    poisson: bool = True

    def __post_init__(self) -> None:
        if not (math.isfinite(self.rate_per_s) and self.rate_per_s > 0):
            raise PlanError(f"a rate must be above 0 requests a second, not {self.rate_per_s:g}")

    def __str__(self) -> str:
        return f"{self.rate_per_s:g}/s {'Poisson' if self.poisson else 'constant'}"

    def due_s(self, random: Random) -> Iterator[float]:
        """Seconds after the start at which the requests are to be sent, without end."""
        due, index = 0.0, 0
        while True:
            due = due + random.expovariate(self.rate_per_s) if self.poisson else index / self.rate_per_s
            index += 1
            yield due


Load = Closed | Open


@dataclass(frozen=True)
class Plan:
    """Each load against each endpoint, in turns, `rounds` times; all endpoints get the same prompts at the same times.

    A trial measures for `seconds`, or else `count` requests, after `warmup_s` of the same load.
    """

    endpoints: Sequence[Endpoint]
    prompts: Sequence[Prompt]
    loads: Sequence[Load]
    seconds: float | None = None
    count: int | None = None
    warmup_s: float = 0
    rounds: int = 1
    stream: bool = True
    max_tokens: int = 64
    body: Mapping[str, Any] = field(default_factory=dict)  # more fields of each request; they win
    timeout_s: float = 600
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("endpoints", "prompts", "loads"):
            if not getattr(self, name):
                raise PlanError(f"no {name} given")
        names = [endpoint.name for endpoint in self.endpoints]
        if len(set(names)) < len(names):
            raise PlanError(f"two targets are called alike ({', '.join(names)}): name them apart")
        if (self.seconds is None) == (self.count is None):
            raise PlanError("give either the seconds that a trial takes or the count of its requests")
        for name in ("seconds", "count", "rounds", "max_tokens", "timeout_s"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise PlanError(f"{name} must be above 0, not {value:g}")
        if not (math.isfinite(self.warmup_s) and self.warmup_s >= 0):
            raise PlanError(f"warmup_s must be at least 0, not {self.warmup_s:g}")

    def bodies(self, endpoint: Endpoint) -> list[bytes]:
        """What is sent for each prompt: made beforehand, so that sending costs nothing."""
        return [json.dumps(self._body(endpoint, prompt)).encode() for prompt in self.prompts]

    def _body(self, endpoint: Endpoint, prompt: Prompt) -> dict[str, Any]:
        asked = {"messages": list(prompt.messages)} if endpoint.api == "chat" else {"prompt": _text(prompt)}
        streamed = {"stream": True, "stream_options": {"include_usage": True}} if self.stream else {}
        limit = {"max_tokens": prompt.output_tokens or self.max_tokens}
        return {"model": endpoint.model} | asked | limit | streamed | dict(self.body)


def _text(prompt: Prompt) -> str:
    return "\n".join(str(message["content"]) for message in prompt.messages)
