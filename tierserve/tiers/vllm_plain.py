"""Plain answers: one text, without tools, logprobs or token ids. Most are; for them vLLM's layer does too much.

Up to the engine's outputs everything is the layer's: checks, templates, sampling parameters, errors. From there on it
would build a pydantic model for each token, and let its tool parser, though there are no tools, read the text so far
again. Here the same JSON is put together from bytes that stay the same and the text.
tests/tiers/test_plain.py compares the two byte by byte.
"""

import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic_core import to_json
from vllm.entrypoints.openai.chat_completion.serving import OpenAIServingChat
from vllm.entrypoints.openai.completion.serving import OpenAIServingCompletion
from vllm.exceptions import GenerationError
from vllm.parser.abstract_parser import DelegatingParser

from tierserve.core import Kind, Usage

if TYPE_CHECKING:
    from vllm.outputs import CompletionOutput, RequestOutput

DONE = b"data: [DONE]\n\n"
_SHORT = 1_000  # characters: less than half a millisecond of the event loop's time


@dataclass(frozen=True, slots=True)
class Raw:
    """What the engine makes of one request, and by what names it goes out."""

    outputs: "AsyncGenerator[RequestOutput, None]"
    id: str
    model: str
    role: str


class PlainChat(OpenAIServingChat):
    """Gives the engine's outputs instead of an answer. Built without the tier's tool parser."""

    def chat_completion_stream_generator(
        self, request: Any, outputs: Any, request_id: str, model: str, *_: Any, **__: Any
    ) -> Raw:
        return Raw(outputs, request_id, model, self.get_chat_request_role(request))

    async def chat_completion_full_generator(self, *arguments: Any, **options: Any) -> Raw:
        return self.chat_completion_stream_generator(*arguments, **options)

    def _effective_chat_template_kwargs(self, request: Any) -> dict[str, Any]:
        return {}  # read by parsers alone, which there are none of


class PlainCompletion(OpenAIServingCompletion):
    """The same for streamed completions."""

    def completion_stream_generator(
        self, request: Any, prompts: Any, outputs: Any, request_id: str, created: int, model: str, **_: Any
    ) -> Raw:
        return Raw(_unnumbered(outputs), request_id, model, "")


async def _unnumbered(outputs: "AsyncGenerator[tuple[int, RequestOutput], None]") -> Any:
    try:
        async for _, output in outputs:
            yield output
    finally:
        await outputs.aclose()


class AtOnce:
    """A renderer of vLLM's that renders a short chat here and now.

    vLLM hands the template to one thread and the tokens to another, so that a long prompt does not hold up the event
    loop. For a short one the way there and back costs more than it saves: 0.26 ms of CPU, and 0.19 without.
    """

    def __init__(self, renderer: Any) -> None:
        self._renderer = renderer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._renderer, name)

    async def render_chat_async(self, conversations: Any, *arguments: Any, **options: Any) -> Any:
        if all(_is_short(conversation) for conversation in conversations):
            return self._renderer.render_chat(conversations, *arguments, **options)
        return await self._renderer.render_chat_async(conversations, *arguments, **options)


def _is_short(conversation: Any) -> bool:
    texts = [message.get("content") for message in conversation if isinstance(message, dict)]
    written = [text for text in texts if isinstance(text, str)]
    return len(written) == len(conversation) and sum(len(text) for text in written) <= _SHORT


def serves_plainly(engine: Any, chat: OpenAIServingChat) -> bool:
    """Whether, on this engine and with the parsers of its `chat`, what is plainly asked is plainly answered."""
    config, parser = engine.vllm_config, chat.parser_cls
    if config.speculative_config is not None or config.kv_transfer_config is not None:
        return False
    if config.model_config.is_encoder_decoder or config.aux_output_config.enable_return_routed_experts:
        return False
    if parser is None:
        return True
    only_calls = parser.reasoning_parser_cls is None and not parser.always_adjust_request
    usual = parser.parse is DelegatingParser.parse and parser.parse_delta is DelegatingParser.parse_delta
    return bool(only_calls and usual and not parser.tool_parser_cls.engine_based_streaming)


def is_plain(kind: Kind, request: Any) -> bool:
    """Whether a request of vLLM's form asks for one text and no more. What shapes the text alone may be anything."""
    options = request.stream_options
    if (request.n or 1) != 1 or request.echo or request.use_beam_search or request.return_token_ids:
        return False
    if request.prompt_logprobs is not None or (options and options.continuous_usage_stats):
        return False
    if kind is Kind.CHAT:
        no_tools = request.tool_choice == "none" and not request.tools
        return bool(no_tools and not request.logprobs and request.include_reasoning)
    # Whole ones the layer reads in the same function that prepares them.
    single = isinstance(request.prompt, str) and request.prompt_embeds is None
    return bool(request.stream and single and request.logprobs is None and request.max_tokens is not None)


class Stream:
    """One stream's events. `usage` counts along.

    Where the tier has a tool parser (`skips_empty`) the layer leaves out what says nothing; else it does not.
    """

    def __init__(self, kind: Kind, raw: Raw, fingerprint: str | None, skips_empty: bool) -> None:
        self.usage = Usage()
        self._skips_empty = skips_empty and kind is Kind.CHAT
        self._form = _FORMS[kind]
        self._fingerprint = fingerprint
        names = {"id": raw.id, "object": self._form.chunk, "created": int(time.time()), "model": raw.model}
        self._head = b"data: " + to_json(names)[:-1] + b',"choices":['
        before, self._after = self._form.piece.split(_TEXT)
        self._before = self._head + before
        self.opening = self._head + self._form.opening % to_json(raw.role) if kind is Kind.CHAT else b""

    def event(self, output: "RequestOutput") -> bytes:
        """What the output adds; nothing where that is nothing. Raises GenerationError."""
        if output.prompt_token_ids is not None:
            self.usage.prompt_tokens = len(output.prompt_token_ids)
        (choice,) = output.outputs
        _raise_if_failed(choice)
        if not choice.text and not choice.token_ids and not self.usage.completion_tokens:
            return b""  # a part of the prompt was read
        self.usage.completion_tokens += len(choice.token_ids)
        if choice.finish_reason is not None:
            return self._last(choice)
        if not choice.text and self._skips_empty:
            return b""
        return self._before + to_json(choice.text) + self._after

    def usage_event(self) -> bytes:
        fingerprint = b"" if self._fingerprint is None else b',"system_fingerprint":' + to_json(self._fingerprint)
        return self._head + b'],"usage":{' + _counts(self.usage) + b"}" + fingerprint + b"}\n\n"

    def _last(self, choice: "CompletionOutput") -> bytes:
        silent = self._skips_empty and not choice.text
        text = b"" if silent else self._form.text % to_json(choice.text)
        return self._head + self._form.last % (text, to_json(choice.finish_reason), to_json(choice.stop_reason))


@dataclass(frozen=True, slots=True)
class _Form:
    """An endpoint's events, from the choice on."""

    chunk: str
    piece: bytes
    last: bytes
    text: bytes
    opening: bytes = b""


_TEXT = b"<text>"
_FORMS = {
    Kind.CHAT: _Form(
        chunk="chat.completion.chunk",
        opening=b'{"index":0,"delta":{"role":%b,"content":""},"logprobs":null,"finish_reason":null}],'
        b'"prompt_token_ids":null,"prompt_text":null}\n\n',
        piece=b'{"index":0,"delta":{"content":<text>},"logprobs":null,"finish_reason":null,"token_ids":null}]}\n\n',
        last=b'{"index":0,"delta":{%b},"logprobs":null,"finish_reason":%b,"stop_reason":%b,"token_ids":null}]}\n\n',
        text=b'"content":%b',
    ),
    Kind.COMPLETION: _Form(
        chunk="text_completion",
        piece=b'{"index":0,"text":<text>,"logprobs":null,"finish_reason":null,"stop_reason":null,'
        b'"prompt_token_ids":null,"token_ids":null}]}\n\n',
        last=b'{"index":0,%b,"logprobs":null,"finish_reason":%b,"stop_reason":%b,"prompt_token_ids":null,'
        b'"token_ids":null}]}\n\n',
        text=b'"text":%b',
    ),
}


def whole_chat(raw: Raw, output: "RequestOutput", fingerprint: str | None) -> tuple[bytes, Usage]:
    """The body of a whole answer. Raises GenerationError."""
    (choice,) = output.outputs
    _raise_if_failed(choice)
    usage = Usage(len(output.prompt_token_ids or ()), len(choice.token_ids))
    body = _WHOLE % {
        b"id": to_json(raw.id),
        b"created": int(time.time()),
        b"model": to_json(raw.model),
        b"role": to_json(raw.role),
        b"text": to_json(choice.text),
        b"finish": to_json(choice.finish_reason or "stop"),
        b"stop": to_json(choice.stop_reason),
        b"fingerprint": to_json(fingerprint),
        b"counts": _counts(usage),
    }
    return body, usage


_WHOLE = (
    b'{"id":%(id)b,"object":"chat.completion","created":%(created)d,"model":%(model)b,"choices":[{"index":0,'
    b'"message":{"role":%(role)b,"content":%(text)b,"refusal":null,"annotations":null,"audio":null,'
    b'"function_call":null,"reasoning":null},"logprobs":null,"finish_reason":%(finish)b,"stop_reason":%(stop)b,'
    b'"token_ids":null,"routed_experts":null}],"service_tier":null,"system_fingerprint":%(fingerprint)b,'
    b'"usage":{%(counts)b,"prompt_tokens_details":null,"completion_tokens_details":null},"prompt_logprobs":null,'
    b'"prompt_token_ids":null,"prompt_text":null,"kv_transfer_params":null,"ec_transfer_params":null,"metrics":null}'
)


def _counts(usage: Usage) -> bytes:
    total = usage.prompt_tokens + usage.completion_tokens
    counts = b'"prompt_tokens":%d,"total_tokens":%d,"completion_tokens":%d'
    return counts % (usage.prompt_tokens, total, usage.completion_tokens)


def _raise_if_failed(choice: "CompletionOutput") -> None:
    """As the layer does."""
    if choice.finish_reason == "error":
        raise GenerationError("Internal server error")
