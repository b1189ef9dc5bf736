"""The adapter to vLLM's own OpenAI layer: request models, chat templates, tool and reasoning parsers, usage, logprobs.

vLLM builds that layer for FastAPI; here it runs without, under aiohttp. Import paths and behaviour are those of
vLLM 0.32.0 (vllm/entrypoints/openai), which is pinned.
"""

import asyncio
import json
import logging
import math
import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError
from vllm.entrypoints.generate.base.protocol import StreamOptions
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.chat_completion.serving import OpenAIServingChat
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.openai.completion.serving import OpenAIServingCompletion
from vllm.entrypoints.openai.models.protocol import BaseModelPath
from vllm.entrypoints.openai.models.serving import OpenAIServingModels
from vllm.entrypoints.serve import create_error_response
from vllm.entrypoints.serve.engine.protocol import ErrorInfo, ErrorResponse
from vllm.exceptions import GenerationError, VLLMError, VLLMValidationError
from vllm.renderers.online_renderer import OnlineRenderer
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.v1.structured_output.backend_xgrammar import has_xgrammar_unsupported_json_features

from tierserve.core import Call, Kind, Usage
from tierserve.errors import ContextOverflow, RequestError, TierBusy, TierserveError, TierUnavailable
from tierserve.tiers.base import Listener, Reply, armed
from tierserve.tiers.vllm_engine import heard_by
from tierserve.tiers.vllm_plain import (
    DONE,
    AtOnce,
    PlainChat,
    PlainCompletion,
    Raw,
    Stream,
    is_plain,
    serves_plainly,
    whole_chat,
)
from tierserve.tiers.vllm_tools import demanding

if TYPE_CHECKING:
    from vllm.v1.engine.async_llm import AsyncLLM

    from tierserve.config import TierConfig

log = logging.getLogger(__name__)

_MODELS: Mapping[Kind, type[Any]] = {Kind.CHAT: ChatCompletionRequest, Kind.COMPLETION: CompletionRequest}

# Fields of vLLM's request models that it reads elsewhere or not at all on these endpoints. To accept them would be to
# ignore them.
_REFUSED = {
    "request_id": "send the header x-request-id instead",
    "session_id": "send the header x-session-id instead",
    "kv_transfer_params": "this server does not disaggregate prefill",
    "ec_transfer_params": "this server does not disaggregate encoding",
    "return_token_offsets": "this server has no render endpoint",
    "return_prompt_text": "this server has no render endpoint",
    "mm_payload": "this server has no render endpoint",
    "return_mm_kwargs": "this server has no render endpoint",
    "vllm_xargs": "this server has no extensions that read it",
    "priority": "this server's queue is first come, first served",
    "watermarking": "this server has no watermark",
}
# What vLLM says when a prompt, or prompt and answer together, are too long.
_OVERFLOW = re.compile("maximum context length|max_model_len")
# Larger ones are refused: a choice among 8,000 texts (64 KiB) compiles in 0.2 s, one among 25,000 in 8 s, 100,000 take
# minutes, in which the engine compiles nothing else, whether or not anybody still waits for it.
_LARGEST_GRAMMAR_BYTES = 1 << 16
_LEAST_TEMPERATURE = 0.01  # vLLM would raise a lower one to this
_LARGEST_BIAS = 100
_LAST = 1 << 20  # a priority: lower goes first, callers' requests have 0
_ERROR_EVENT = 'data: {"error"'
_DONE = "data: [DONE]\n\n"
_USAGE_EVENT = '"choices":[]'


def parse(kind: Kind, body: Mapping[str, Any]) -> Any:
    """The caller's JSON as vLLM's request model. Raises RequestError for what can't be honoured."""
    try:
        request = _MODELS[kind].model_validate(_copied(body))  # vLLM's validators write into what they are given
    except VLLMValidationError as error:
        raise RequestError(str(error), error.parameter) from None
    except ValidationError as error:
        raise _from_pydantic(error) from None
    except Exception as error:  # the validators run before the types are checked, and trip over wrong ones
        raise RequestError(
            f"the request does not have the form of OpenAI's API ({type(error).__name__}: {error})"
        ) from None
    _refuse_what_would_be_ignored(request)
    _refuse_what_would_be_converted(request, body)
    _refuse_what_is_out_of_bounds(request, body)
    return request


def request_schema(kind: Kind) -> dict[str, Any]:
    """JSON Schema of the fields that `parse` takes."""
    schema: dict[str, Any] = _MODELS[kind].model_json_schema(ref_template="#/components/schemas/{model}")
    schema["properties"] = {name: field for name, field in schema["properties"].items() if name not in _REFUSED}
    return schema


def _copied(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _copied(part) for name, part in value.items()}
    return [_copied(part) for part in value] if isinstance(value, list) else value


def _refuse_what_would_be_ignored(request: Any) -> None:
    for name, value in (request.model_extra or {}).items():
        if value is not None:
            raise RequestError(f"unknown field `{name}`: remove it, or correct its name", name)
    for name, remedy in _REFUSED.items():
        if name in request.model_fields_set and getattr(request, name) is not None:
            raise RequestError(f"`{name}` is not supported: {remedy}", name)
    for name in ("stream_options", "response_format"):
        _refuse_unknown(getattr(request, name, None), name)
    tag = request.structured_outputs and request.structured_outputs.structural_tag
    if tag and _is_ignored_in_part(tag):
        remedy = "ask for the schema itself, by `structured_outputs.json`"
        raise RequestError(
            f"`structural_tag` has a schema that would be ignored in part: {remedy}", "structured_outputs"
        )


def _is_ignored_in_part(tag: str) -> bool:
    """vLLM asks this of schemas, and has another compiler for those that xgrammar can't enforce; not of tags."""
    try:
        return bool(has_xgrammar_unsupported_json_features(json.loads(tag)))
    except ValueError:
        return False  # no JSON at all, as the engine will say


def _refuse_unknown(section: Any, where: str) -> None:
    if not isinstance(section, BaseModel):
        return
    for name, value in (section.model_extra or {}).items():
        if value is not None:
            raise RequestError(f"unknown field `{where}.{name}`: remove it, or correct its name", where)
    for name in section.model_fields_set:
        _refuse_unknown(getattr(section, name, None), f"{where}.{name}")


def _refuse_what_would_be_converted(request: Any, body: Mapping[str, Any]) -> None:
    """pydantic takes "2" and true for numbers; a caller who sends them has made a mistake."""
    for name, value in body.items():
        taken = vars(request).get(name)
        if isinstance(taken, bool) and not isinstance(value, bool):
            raise RequestError(f"`{name}` must be true or false", name)
        if isinstance(taken, int | float) and not isinstance(taken, bool) and isinstance(value, str | bool):
            raise RequestError(f"`{name}` must be a number", name)
        if isinstance(taken, float) and not math.isfinite(taken):
            raise RequestError(f"`{name}` is out of range", name)


def _refuse_what_is_out_of_bounds(request: Any, body: Mapping[str, Any]) -> None:
    for name in ("response_format", "structured_outputs", "tools"):
        size = len(json.dumps(body[name])) if body.get(name) else 0
        if size > _LARGEST_GRAMMAR_BYTES:
            limit = f"{_LARGEST_GRAMMAR_BYTES} bytes of JSON"
            raise RequestError(f"`{name}` has {size} bytes; more than {limit} take too long to compile", name)
    temperature = request.temperature
    if temperature is not None and 0 < temperature < _LEAST_TEMPERATURE:
        raise RequestError(f"`temperature` must be 0 or at least {_LEAST_TEMPERATURE}", "temperature")
    if any(abs(bias) > _LARGEST_BIAS for bias in (request.logit_bias or {}).values()):
        raise RequestError(f"`logit_bias` must lie within -{_LARGEST_BIAS} and {_LARGEST_BIAS}", "logit_bias")


def _from_pydantic(error: ValidationError) -> RequestError:
    # A union reports every branch; the deepest finding belongs to the branch that came nearest.
    finding = max(error.errors(include_url=False, include_context=False), key=lambda found: len(found["loc"]))
    path = [str(part) for part in finding["loc"] if not str(part)[:1].isupper() and "[" not in str(part)]
    where = ".".join(path)
    return RequestError(f"{where}: {finding['msg']}" if where else str(finding["msg"]), where or None)


class OpenAILayer:
    """vLLM's chat and completion endpoints over one engine, without HTTP."""

    def __init__(self, engine: "AsyncLLM", config: "TierConfig") -> None:
        self._engine = engine
        self._name = config.name
        models = OpenAIServingModels(engine, [BaseModelPath(name=config.name, model_path=engine.model_config.model)])
        template = {"chat_template": _read(config.chat_template), "chat_template_content_format": "auto"}
        parsers = {
            "enable_auto_tools": config.tool_parser is not None,
            "tool_parser": demanding(config.tool_parser),
            "reasoning_parser": config.reasoning_parser,
        }
        render = partial(OnlineRenderer, model_config=engine.model_config, request_logger=None, **template, **parsers)
        self._renderer = render(renderer=engine.renderer)
        common = {"request_logger": None, "online_renderer": self._renderer}
        self._chat = OpenAIServingChat(engine, models, "assistant", **common, **template, **parsers)
        self._completion = OpenAIServingCompletion(engine, models, **common)
        at_once = {"request_logger": None, "online_renderer": render(renderer=AtOnce(engine.renderer))}
        self._plain_chat = PlainChat(engine, models, "assistant", **at_once, **template)
        self._plain_completion = PlainCompletion(engine, models, **common)
        self._serves_plainly = serves_plainly(engine, self._chat)

    def warm_up(self) -> None:
        """Compile templates. Blocks for a fraction of a second."""
        self._renderer.warmup()

    def output_limit(self, call: Call) -> tuple[str, int]:
        """The field that bounds the output, and the tokens that it asks for; 0 where it is left to the engine."""
        fields = vars(_parsed(call))  # to read max_tokens as an attribute is to be warned that it is deprecated
        limit = fields.get("max_completion_tokens")
        if limit is not None:
            return "max_completion_tokens", limit
        return "max_tokens", fields["max_tokens"] or 0

    async def count_prompt_tokens(self, call: Call) -> int:
        """Tokens of the longest prompt of the call, as the engine will see it. Raises as `generate` does."""
        return max(len(prompt.get("prompt_token_ids", ())) for prompt in await self._rendered(call))

    async def prewarm(self, call: Call) -> None:
        """Read the prompt into the prefix cache, at the lowest priority. Raises as `generate` does."""
        params = SamplingParams(max_tokens=1, detokenize=False, output_kind=RequestOutputKind.FINAL_ONLY)
        last = {"priority": _LAST} if self._knows_priorities else {}
        for number, prompt in enumerate(await self._rendered(call)):
            async with aclosing(self._engine.generate(prompt, params, f"prewarm-{number}-{call.id}", **last)) as read:
                try:
                    async for _ in read:
                        pass
                except Exception as error:
                    raise self._translated(error) from error

    async def _rendered(self, call: Call) -> Sequence[Any]:
        request = self._request(call)
        render = (
            self._chat.render_chat_request if call.kind is Kind.CHAT else self._completion.render_completion_request
        )
        try:
            rendered = await render(request)
        except Exception as error:
            raise self._translated(error) from error
        if isinstance(rendered, ErrorResponse):
            raise self._refusal(rendered.error)
        prompts: Sequence[Any] = rendered[1] if call.kind is Kind.CHAT else rendered
        return prompts

    async def generate(self, call: Call, listener: Listener | None = None) -> Reply:
        """See Tier.generate."""
        request = self._request(call)
        wants_usage = call.stream and request.stream_options and request.stream_options.include_usage
        plain = self._serves_plainly and is_plain(call.kind, request) and not request.priority
        if call.stream:
            request.stream_options = _with_usage(request.stream_options)
        if call.kind is Kind.CHAT:
            create = (self._plain_chat if plain else self._chat).create_chat_completion
        else:
            create = (self._plain_completion if plain else self._completion).create_completion
        try:
            with heard_by(listener):
                result = await create(request, None)
        except Exception as error:
            raise self._translated(error) from error
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise asyncio.CancelledError  # the layer turns a cancellation into an answer that nobody waits for
        if isinstance(result, ErrorResponse):
            raise self._refusal(result.error)
        if isinstance(result, Raw):
            return await self._plainly(call, result, bool(wants_usage))
        if not call.stream:
            usage = Usage(result.usage.prompt_tokens, result.usage.completion_tokens or 0)
            return Reply(result.model_dump_json().encode(), usage=usage)
        return await self._opened(result, bool(wants_usage))

    def _request(self, call: Call) -> Any:
        """A copy for this tier: the layer writes into its request, and another tier may need the same one."""
        update: dict[str, Any] = {"model": self._name, "request_id": call.id}
        if call.background and self._knows_priorities:
            update["priority"] = _LAST
        return _parsed(call).model_copy(update=update)

    @property
    def _knows_priorities(self) -> bool:
        return bool(self._engine.vllm_config.scheduler_config.policy == "priority")

    async def _plainly(self, call: Call, raw: Raw, wants_usage: bool) -> Reply:
        if call.stream:
            return await self._plain_stream(call.kind, raw, wants_usage)
        try:
            async for output in raw.outputs:
                whole = output
            body, usage = whole_chat(raw, whole, self._chat.system_fingerprint)
        except Exception as error:
            raise self._translated(error) from error
        return Reply(body, usage=usage)

    async def _plain_stream(self, kind: Kind, raw: Raw, wants_usage: bool) -> Reply:
        stream = Stream(kind, raw, self._chat.system_fingerprint, self._chat.parser_cls is not None)
        reply = Reply(usage=stream.usage)
        try:
            reply.events = await armed(self._plain_events(stream, raw, reply, wants_usage))
        except Exception as error:
            raise self._refusal(create_error_response(error).error) from error
        return reply

    async def _plain_events(
        self, stream: Stream, raw: Raw, reply: Reply, wants_usage: bool
    ) -> AsyncGenerator[bytes, None]:
        """After an empty one, which says that there are some: an error before that is raised, not told."""
        begun = False
        async with aclosing(raw.outputs):
            try:
                async for output in raw.outputs:
                    if stream.opening and not begun:
                        begun = True
                        yield b""
                        yield stream.opening
                    event = stream.event(output)
                    if event and not begun:
                        begun = True
                        yield b""
                    if event:
                        yield event
            except Exception as error:
                if not begun:
                    raise
                log.warning("%s broke off a stream: %s", self._name, type(error).__name__)
                reply.broken = True
                yield self._error(error)
            else:
                if wants_usage:
                    yield stream.usage_event()
            yield DONE

    async def _opened(self, chunks: AsyncGenerator[str, None], wants_usage: bool) -> Reply:
        """A streamed reply, once its first event is there and is not an error."""
        first = await anext(chunks)
        if first.startswith(_ERROR_EVENT):
            await chunks.aclose()
            error = ErrorInfo.model_validate(json.loads(first.removeprefix("data: "))["error"])
            raise self._refusal(error)
        reply = Reply()
        reply.events = await armed(self._events(first, chunks, reply, wants_usage))
        return reply

    async def _events(
        self, first: str, chunks: AsyncGenerator[str, None], reply: Reply, wants_usage: bool
    ) -> AsyncGenerator[bytes, None]:
        try:
            yield b""
            async for chunk in _chain(first, chunks):
                # Quotes inside generated text are escaped, so neither mark can occur there.
                if _USAGE_EVENT in chunk:
                    usage = json.loads(chunk.removeprefix("data: "))["usage"]
                    reply.usage = Usage(usage["prompt_tokens"], usage.get("completion_tokens") or 0)
                    if not wants_usage:
                        continue
                elif chunk.startswith(_ERROR_EVENT):
                    reply.broken = True
                    chunk = self._last_word() if self._engine.errored else chunk
                elif chunk != _DONE:
                    reply.usage.completion_tokens += 1  # at least; the exact number comes at the end, if that comes
                yield chunk.encode()
        finally:
            await chunks.aclose()

    def _last_word(self) -> str:
        """The event with which a stream ends whose engine died, or hung and was ended."""
        message = f"the tier {self._name} failed while it answered: send the request again"
        problem = {"message": message, "type": "service_unavailable", "param": None, "code": None}
        return f"data: {json.dumps({'error': problem})}\n\n"

    def _error(self, error: Exception) -> bytes:
        """As the layer tells it within a stream."""
        if self._engine.errored:
            return self._last_word().encode()
        if isinstance(error, GenerationError):
            told: str = self._chat._convert_generation_error_to_streaming_response(error)
        else:
            told = self._chat.create_streaming_error_response(error)
        return f"data: {told}\n\n".encode()

    def _translated(self, error: Exception) -> TierserveError | Exception:
        """An exception of vLLM's in our tree; one that is nobody's known fault stays itself, to be logged."""
        if isinstance(error, TierserveError):
            return error
        known = isinstance(error, VLLMError | ValueError | TypeError | ArithmeticError | NotImplementedError)
        if not known and type(error).__name__ != "TemplateError" and not self._engine.errored:
            return error
        return self._refusal(create_error_response(error).error)

    def _refusal(self, error: ErrorInfo) -> TierserveError:
        """A dead engine shows as an error like any other; whether it is dead is the engine's to say."""
        if self._engine.errored:
            return TierUnavailable(f"the engine of {self._name} has died")
        if error.code == HTTPStatus.SERVICE_UNAVAILABLE:
            return TierBusy(error.message)
        if _OVERFLOW.search(error.message):
            return ContextOverflow(error.message, error.param)
        # A live engine that fails on a request fails on what is in it: a number out of range, a grammar without end.
        message = error.message if error.code < HTTPStatus.INTERNAL_SERVER_ERROR or error.param else ""
        unsaid = "the engine can't take this request: a value is out of range, or a schema or grammar has no end"
        return RequestError(message or unsaid, error.param)


def _parsed(call: Call) -> Any:
    return call.parsed if call.parsed is not None else parse(call.kind, call.body)


async def _chain(first: str, rest: AsyncIterator[str]) -> AsyncIterator[str]:
    yield first
    async for chunk in rest:
        yield chunk


def _with_usage(options: StreamOptions | None) -> StreamOptions:
    """Usage is always asked for, since it is recorded; whether the caller sees it is decided later."""
    if options is None:
        return StreamOptions(include_usage=True)
    continuous = bool(options.include_usage and options.continuous_usage_stats)
    return StreamOptions(include_usage=True, continuous_usage_stats=continuous)


def _read(path: str | None) -> str | None:
    if path is None:
        return None
    with open(path, encoding="utf-8") as file:
        return file.read()
