"""A request's body: read within bounds of size and time, parsed strictly, and counted before anybody works on it.

Raises RequestError for what a body holds, and aiohttp's HTTP errors for what it is: 408, 413, 415.
"""

import asyncio
import math
from collections.abc import Mapping
from typing import Any

import jiter
from aiohttp import web

from tierserve.config import LimitsConfig, ServerConfig
from tierserve.errors import Overloaded, RequestError

_JSON = "application/json"
_RETRY_AFTER_S = 1.0
_SCALARS = {str, int, bool, type(None)}
# From how many values on it takes less time to ask a list for its types than to go through it; token ids are many.
_LONG = 32
# Lists of a body, and the option that bounds each.
_LISTS = {
    "messages": "messages",
    "tools": "tools",
    "functions": "tools",
    "stop": "stop",
    "stop_token_ids": "stop",
    "bad_words": "stop",
}
# Numbers of a body, and the option that bounds each.
_NUMBERS = {
    "n": "choices",
    "best_of": "choices",
    "logprobs": "logprobs",
    "top_logprobs": "logprobs",
    "prompt_logprobs": "logprobs",
    "max_tokens": "max_tokens",
    "max_completion_tokens": "max_tokens",
    "min_tokens": "max_tokens",
}


class BodyReader:
    """Reads bodies; knows how much of them it holds, over all requests. `bounds` may be replaced at any time."""

    def __init__(self, bounds: ServerConfig) -> None:
        self.bounds = bounds
        self.held_bytes = 0  # of bodies that are still coming in

    async def read(self, request: web.BaseRequest) -> dict[str, Any]:
        """The body, as JSON within the limits. Raises RequestError, Overloaded, or an error of aiohttp's."""
        _check_media(request)
        body = parse_json(await self._raw(request))
        check_limits(body, self.bounds.limits)
        return body

    async def _raw(self, request: web.BaseRequest) -> bytes:
        content, most = request.content, self._most()
        if (request.content_length or 0) > most:
            raise _too_large(most)  # before any of it is read
        if content.is_eof():  # all of it came with the head, as most bodies do: nothing to wait for
            raw = content.read_nowait()
            if len(raw) > most:
                raise _too_large(most)
            return raw
        try:
            async with asyncio.timeout(self.bounds.body_s):
                return await self._gathered(content, most)
        except TimeoutError:
            raise web.HTTPRequestTimeout(
                text=f"the body was not complete after {self.bounds.body_s:g} s: send it faster"
            ) from None

    async def _gathered(self, content: Any, most: int) -> bytes:
        raw = bytearray()
        all_bodies = int(self.bounds.limits.reading_mb * 2**20)
        try:
            while chunk := await content.readany():
                raw += chunk
                self.held_bytes += len(chunk)
                if len(raw) > most:
                    raise _too_large(most)
                if self.held_bytes > all_bodies:
                    raise Overloaded("the server is reading as many bodies as it may: come again", _RETRY_AFTER_S)
            return bytes(raw)
        finally:
            self.held_bytes -= len(raw)

    def _most(self) -> int:
        return int(self.bounds.max_body_mb * 2**20)


def parse_json(raw: bytes) -> dict[str, Any]:
    """Strict JSON in UTF-8: no key twice, no NaN, no lone surrogates, no nesting without end. Raises RequestError.

    A key that stands twice is refused since the next reader of the same body may take the other one.
    """
    try:
        body = jiter.from_json(raw, allow_inf_nan=False, catch_duplicate_keys=True)
    except ValueError as error:
        raise RequestError(f"the body is not valid JSON: {error}") from None
    if not isinstance(body, dict):
        raise RequestError("the body must be a JSON object")
    return body


def check_limits(body: Mapping[str, Any], limits: LimitsConfig) -> None:
    """Counts what a body holds; types are the readers' after it to check. Raises RequestError."""
    for name, value in body.items():
        kind = type(value)
        if kind is list or kind is dict:
            _check_length(name, value, limits)
        elif kind is int or kind is float:
            _check_number(name, value, limits)
    _check_shape(body, limits)
    _check_parts(body.get("messages"), limits)
    _check_choices(body, limits)


def _check_length(name: str, value: list[Any] | dict[str, Any], limits: LimitsConfig) -> None:
    if name == "prompt":
        return  # token ids, or as many texts as there are choices
    option = _LISTS.get(name, "entries")
    most = getattr(limits, option)
    if len(value) > most:
        raise _too_many(f"`{name}` has {len(value)} entries", most, option, name)


def _check_number(name: str, value: float, limits: LimitsConfig) -> None:
    if math.isinf(value):  # 1e999
        raise RequestError(f"`{name}` is out of range", name)
    option = _NUMBERS.get(name)
    if option is None:
        return
    most = getattr(limits, option)
    if most is not None and value > most:
        raise _too_many(f"`{name}` is {value}", most, option, name)
    if option == "logprobs" and value < 0:  # to vLLM: those of the whole vocabulary
        raise RequestError(f"`{name}` must be 0 to {most}", name)


def _check_parts(messages: Any, limits: LimitsConfig) -> None:
    if not isinstance(messages, list):
        return
    parts = 0
    for message in messages:
        if isinstance(message, dict):
            for name in ("content", "tool_calls"):
                if type(value := message.get(name)) is list:
                    parts += len(value)
    if parts > limits.parts:
        raise _too_many(f"`messages` has {parts} content parts and tool calls", limits.parts, "parts", "messages")


def _check_choices(body: Mapping[str, Any], limits: LimitsConfig) -> None:
    prompt = body.get("prompt")
    # What is not a list of prompts is one: a text, or its token ids.
    prompts = len(prompt) if isinstance(prompt, list) and prompt and type(prompt[0]) is not int else 1
    asked = prompts * max(_number(body.get("n")), _number(body.get("best_of")))
    if asked > limits.choices:
        raise _too_many(f"{prompts} prompts ask for {asked:g} answers", limits.choices, "choices", "prompt")


def _number(value: Any) -> float:
    return value if type(value) in (int, float) else 1


def _check_shape(body: Mapping[str, Any], limits: LimitsConfig) -> None:
    """Depth, number of values, and numbers beyond all numbers. A level at a time: no recursion to exhaust."""
    level: list[Any] = [body]
    depth = values = 0
    while level:
        depth += 1
        if depth > limits.depth:
            raise _too_many("the body has lists and objects nested deeper", limits.depth, "depth")
        inner: list[Any] = []
        for container in level:
            values += len(container)
            if values > limits.values:
                raise _too_many("the body has more values", limits.values, "values")
            parts = container.values() if type(container) is dict else container
            if len(parts) >= _LONG and set(map(type, parts)) <= _SCALARS:
                continue
            for part in parts:
                kind = type(part)
                if kind is dict or kind is list:
                    inner.append(part)
                elif kind is float and math.isinf(part):
                    raise RequestError("a number in the body is out of range")
        level = inner


def _check_media(request: web.BaseRequest) -> None:
    """A page of any site can make a browser send a form or a text here without asking, but not JSON: so nothing else,
    nor what names no type, is taken for it. Nothing compressed is, for a small body may grow without end."""
    kind = request.headers.get("content-type", "")
    if kind != _JSON and (request.content_type != _JSON or (request.charset or "utf-8").lower() != "utf-8"):
        raise _unsupported(f"content-type must be {_JSON}, in UTF-8; it is {kind[:100]!r}", "accept", _JSON)
    coding = request.headers.get("content-encoding", "identity")
    if coding.lower() != "identity":
        raise _unsupported("compressed bodies are not read here: send it as it is", "accept-encoding", "identity")


def _unsupported(text: str, header: str, value: str) -> web.HTTPUnsupportedMediaType:
    return web.HTTPUnsupportedMediaType(text=text, headers={header: value})


def _too_large(most: int) -> web.HTTPRequestEntityTooLarge:
    return web.HTTPRequestEntityTooLarge(
        most, text=f"the body exceeds {most} bytes: send less (the server's option is server.max_body_mb)"
    )


def _too_many(found: str, most: float, option: str, param: str | None = None) -> RequestError:
    return RequestError(
        f"{found}; at most {most} are taken: send less (the server's option is server.limits.{option})", param
    )
