"""vLLM's engine, with an ear: what it generates for a call is heard before the OpenAI layer makes an answer of it.

The layer knows nothing of that. It builds no logprobs that the caller did not ask for, though the engine gives them.
"""

import logging
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from vllm.logprobs import FlatLogprobs
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.v1.engine.async_llm import AsyncLLM

from tierserve.core import Heard

if TYPE_CHECKING:
    from vllm.outputs import CompletionOutput, RequestOutput

    from tierserve.tiers.base import Listener

log = logging.getLogger(__name__)


class _Ear:
    """A listener of one call, which may become several requests of the engine's: a completion, one for each prompt."""

    def __init__(self, listener: "Listener") -> None:
        self.listener = listener
        self.choices = 0  # of the requests so far

    def take(self, choices: int) -> int:
        """The number of the first of these choices."""
        first, self.choices = self.choices, self.choices + choices
        return first


# The layer calls `generate` within the call that it is given, in the same task.
_ear: ContextVar[_Ear | None] = ContextVar("ear", default=None)


@contextmanager
def heard_by(listener: "Listener | None") -> Iterator[None]:
    """Whatever is asked of an engine within the block is heard."""
    token = _ear.set(_Ear(listener) if listener else None)
    try:
        yield
    finally:
        _ear.reset(token)


class Engine(AsyncLLM):
    def generate(
        self, prompt: Any, sampling_params: SamplingParams, request_id: str, **options: Any
    ) -> "AsyncGenerator[RequestOutput, None]":
        ear = _ear.get()
        if ear is not None:
            _prepare(sampling_params, ear.listener)
        outputs: AsyncGenerator[RequestOutput, None] = super().generate(prompt, sampling_params, request_id, **options)
        if ear is None:
            return outputs
        return _heard(outputs, ear.listener, ear.take(sampling_params.n), sampling_params)

    async def add_request(self, request_id: str, prompt: Any, params: Any, *arguments: Any, **options: Any) -> Any:
        queue = await super().add_request(request_id, prompt, params, *arguments, **options)
        state = self.output_processor.request_states.get(queue.request_id)
        if state is not None and _only_heard(params):
            # Else each token with a logprob is made into a text once more, which nobody reads.
            state.logprobs_processor.tokenizer = None
        return queue


def _prepare(params: SamplingParams, listener: "Listener") -> None:
    # -1: all tokens' logprobs. With ids: those tokens', and the sampled one's comes with them.
    if listener.alternatives is not None and params.logprobs != -1 and not params.logprob_token_ids:
        # vLLM's leaner form, where the layer does not read them.
        params.flat_logprobs = params.logprobs is None
        params.logprobs = max(params.logprobs or 0, listener.alternatives)
    # An answer that is wanted as a whole is heard while it grows, at the cost of an output for each token. Of several
    # choices the layer expects the last output to hold all, which only FINAL_ONLY gives.
    if listener.impatient and params.output_kind is RequestOutputKind.FINAL_ONLY and params.n == 1:
        params.output_kind = RequestOutputKind.CUMULATIVE


async def _heard(
    outputs: "AsyncGenerator[RequestOutput, None]", listener: "Listener", first: int, params: SamplingParams
) -> "AsyncGenerator[RequestOutput, None]":
    whole = params.output_kind is not RequestOutputKind.DELTA
    known: dict[int, tuple[int, int]] = {}  # of each choice the tokens and characters heard before
    try:
        async for output in outputs:
            prompt_tokens = len(output.prompt_token_ids or ())
            for choice in output.outputs:
                tokens, characters = known.get(choice.index, (0, 0)) if whole else (0, 0)
                known[choice.index] = len(choice.token_ids), len(choice.text)
                heard = Heard(
                    first + choice.index,
                    choice.text[characters:],
                    len(choice.token_ids) - tokens,
                    _logprobs(choice, tokens) if listener.alternatives is not None else (),
                    choice.finish_reason is not None,
                    prompt_tokens,
                )
                try:
                    listener.hear(heard)
                except Exception:  # here the layer would take a fault of ours for the caller's
                    log.exception("what an answer grew by could not be judged")
            yield output
    finally:
        await outputs.aclose()


def _only_heard(params: Any) -> bool:
    """Whether the logprobs are for a listener alone. The layer never asks for the flat form."""
    return isinstance(params, SamplingParams) and params.flat_logprobs


def _logprobs(choice: "CompletionOutput", first: int) -> list[list[float]]:
    """Of each token from `first` on: its own, then those that came with it, each token once."""
    if isinstance(choice.logprobs, FlatLogprobs):
        return list(_flat(choice.logprobs, first))
    return [
        [known[token].logprob, *(other.logprob for other in known.values())]
        for token, known in zip(choice.token_ids[first:], (choice.logprobs or [])[first:], strict=True)
    ]


def _flat(found: FlatLogprobs, first: int) -> Iterator[list[float]]:
    for start, end in zip(found.start_indices[first:], found.end_indices[first:], strict=True):
        own, *others = found.token_ids[start:end]
        likeliest = found.logprobs[start + 1 if own in others else start : end]
        yield [found.logprobs[start], *likeliest]
