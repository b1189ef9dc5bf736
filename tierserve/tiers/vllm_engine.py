"""vLLM's engine, with an ear: what it generates for a call is heard before the OpenAI layer makes an answer of it.

The layer knows nothing of that. It builds no logprobs that the caller did not ask for, though the engine gives them.
"""

from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.v1.engine.async_llm import AsyncLLM

from tierserve.core import Heard

if TYPE_CHECKING:
    from vllm.outputs import CompletionOutput, RequestOutput

    from tierserve.tiers.base import Listener


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


def _prepare(params: SamplingParams, listener: "Listener") -> None:
    if listener.alternatives is not None and params.logprobs != -1:
        params.logprobs = max(params.logprobs or 0, listener.alternatives)
    # An answer that is wanted as a whole is heard while it grows. Of several choices the layer expects the last output
    # to hold all, which only this kind gives.
    if params.output_kind is RequestOutputKind.FINAL_ONLY and params.n == 1:
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
                listener.hear(
                    Heard(
                        first + choice.index,
                        choice.text[characters:],
                        len(choice.token_ids) - tokens,
                        _logprobs(choice, tokens) if listener.alternatives is not None else (),
                        choice.finish_reason is not None,
                        prompt_tokens,
                    )
                )
            yield output
    finally:
        await outputs.aclose()


def _logprobs(choice: "CompletionOutput", first: int) -> list[list[float]]:
    """Of each token from `first` on: its own, then those that came with it."""
    return [
        [known[token].logprob, *(other.logprob for other in known.values())]
        for token, known in zip(choice.token_ids[first:], (choice.logprobs or [])[first:], strict=True)
    ]
