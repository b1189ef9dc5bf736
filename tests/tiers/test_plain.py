"""Plain answers are the layer's own, byte for byte: both are made here from the same outputs of an engine."""

import copy
import json
import os
import random
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from typing import Any

import pytest

from tierserve.config import TierConfig
from tierserve.core import Call, Heard, Kind
from tierserve.tiers.vllm_tier import VllmTier

pytestmark = pytest.mark.engine

USAGE = {"stream_options": {"include_usage": True}}
QUESTION = "The lamp is red. The phone ships to Oslo. Where does the phone ship to?"
OPTIONS: list[dict[str, Any]] = [
    {},
    USAGE,
    {"max_tokens": 1},
    {"max_completion_tokens": 3} | USAGE,
    {"temperature": 2.0, "seed": 3, "max_tokens": 60, "ignore_eos": True} | USAGE,
    {"stop": ["s", "o"], "max_tokens": 40, "ignore_eos": True, "seed": 1},
    {"stop": "lo", "include_stop_str_in_output": True},
    {"stop_token_ids": [4, 5, 6, 7, 8, 9, 10, 11, 12], "temperature": 2.0, "seed": 5, "ignore_eos": True},
    {"min_tokens": 12, "max_tokens": 16, "skip_special_tokens": False},
    {"response_format": {"type": "json_object"}, "max_tokens": 12},
    {"structured_outputs": {"regex": '[é€😀"\\\\]{9}'}, "max_tokens": 40} | USAGE,
    {"structured_outputs": {"choice": ["", "ä"]}},
    {"stream_interval": 4, "max_tokens": 16, "ignore_eos": True},
    {"n": 1, "user": "u", "top_p": 0.5, "repetition_penalty": 1.5, "logit_bias": {"5": 1}},
]
TEXTS = [
    "",
    "a",
    " ",
    "é€😀",
    '"\\/\b\f\n\r\t\x00\x1f\x7f',
    "data: [DONE]\n\n",
    '"choices":[]',
    'data: {"error"',
    "%b<text>",
]


@pytest.fixture(scope="module", params=["with a tool parser", "without"])
async def tier(request: pytest.FixtureRequest, lab: dict[str, Any]) -> AsyncIterator[VllmTier]:
    before = dict(os.environ)
    config = lab["tiers"]["small"] | {"tool_parser": "llama3_json" if request.param != "without" else None}
    tier = VllmTier(TierConfig(**config), "tiers.small")
    await tier.find_weights()
    await tier.start()
    yield tier
    await tier.stop()
    os.environ.clear()
    os.environ.update(before)


class Recorder:
    """Stands before an engine's `generate`: what that gave once, or was told to give, it gives again."""

    def __init__(self, generate: Any) -> None:
        self._generate = generate
        self.outputs: list[Any] = []
        self.recording = True

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self._recorded(*arguments, **options) if self.recording else self._replayed()

    async def _recorded(self, *arguments: Any, **options: Any) -> AsyncIterator[Any]:
        async with aclosing(self._generate(*arguments, **options)) as outputs:
            async for output in outputs:
                self.outputs.append(copy.deepcopy(output))
                yield output

    async def _replayed(self) -> AsyncIterator[Any]:
        for output in self.outputs:
            if isinstance(output, Exception):
                raise output
            yield copy.deepcopy(output)


@contextmanager
def recorder_before(tier: VllmTier) -> Iterator[Recorder]:
    engine: Any = tier._engine
    recorder = Recorder(engine.generate)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "generate", recorder)
        yield recorder


def calls(options: dict[str, Any], stream: bool) -> list[Call]:
    shared = {"temperature": 0, "max_tokens": 24} | options | {"stream": stream}
    if not stream:
        shared.pop("stream_options", None)
    chat = {"messages": [{"role": "user", "content": QUESTION}]} | shared
    completion = {"prompt": QUESTION} | {k: v for k, v in shared.items() if k != "max_completion_tokens"}
    return [Call("one", Kind.CHAT, chat, (), stream), Call("one", Kind.COMPLETION, completion, (), stream)]


async def told(tier: VllmTier, call: Call, plainly: bool) -> Any:
    """What the caller gets, as its bytes, or the error."""
    layer: Any = tier._layer
    with pytest.MonkeyPatch.context() as patch:
        if not plainly:
            patch.setattr(layer, "_serves_plainly", False)
        else:
            assert layer._serves_plainly
        try:
            reply = await tier.generate(call)
            parts = [reply.body] if reply.events is None else [event async for event in reply.events]
        except Exception as error:
            return type(error), str(error)
    for part in parts:
        assert part.count(b"\n\n") == (reply.events is not None), "one event at a time"
    made = [re.sub(rb'"created":\d+', b"", part) for part in parts]
    return made, (reply.usage if not reply.broken else None), reply.broken


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
async def test_a_plain_answer_is_the_layer_s(tier: VllmTier, options: dict[str, Any], stream: bool) -> None:
    for call in calls(options, stream):
        with recorder_before(tier) as recorder:
            expected = await told(tier, call, plainly=False)
            recorder.recording = False
            assert await told(tier, call, plainly=True) == expected


@pytest.mark.parametrize("seed", range(40))
async def test_whatever_the_engine_gives_is_told_alike(tier: VllmTier, seed: int) -> None:
    chance = random.Random(seed)
    for stream in (True, False):
        for call in calls(chance.choice([{}, USAGE]), stream):
            with recorder_before(tier) as recorder:
                recorder.recording = False
                recorder.outputs = outputs(chance)
                assert await told(tier, call, plainly=True) == await told(tier, call, plainly=False)


def outputs(chance: random.Random) -> list[Any]:
    """A few of an engine's outputs, the last one finished, or an exception in its place."""
    from vllm.exceptions import GenerationError
    from vllm.outputs import CompletionOutput, RequestOutput
    from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

    def output(finish: str | None, stop: int | str | None = None) -> RequestOutput:
        tokens = [7] * chance.choice([0, 1, 1, 2])
        choice = CompletionOutput(0, chance.choice(TEXTS), tokens, None, None, finish_reason=finish, stop_reason=stop)
        return RequestOutput("one", None, [1, 2, 3], None, [choice], finished=finish is not None)

    finish, stop = chance.choice([("stop", None), ("stop", "é"), ("stop", 7), ("length", None), ("error", None)])
    broken = chance.choice([EngineDeadError(), EngineGenerateError(), GenerationError(), ValueError("no"), None, None])
    return [output(None) for _ in range(chance.randrange(5))] + [broken or output(finish, stop)]


@pytest.mark.parametrize(
    "options",
    [
        {"n": 2},
        {"logprobs": True},
        {"echo": True, "add_generation_prompt": False},
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"stream_options": {"include_usage": True, "continuous_usage_stats": True}},
        {"return_token_ids": True},
        {"include_reasoning": False},
        {"prompt_logprobs": 0},
    ],
    ids=str,
)
async def test_more_than_a_text_is_left_to_the_layer(options: dict[str, Any]) -> None:
    from tierserve.tiers.vllm_openai import parse
    from tierserve.tiers.vllm_plain import is_plain

    (chat, _) = calls({}, stream=True)
    assert is_plain(Kind.CHAT, parse(Kind.CHAT, chat.body))
    assert not is_plain(Kind.CHAT, parse(Kind.CHAT, {**chat.body, **options}))


async def test_a_plain_answer_is_heard(tier: VllmTier) -> None:
    class Ear:
        alternatives = 0
        impatient = False
        text, tokens = "", 0

        def hear(self, heard: Heard) -> None:
            assert len(heard.logprobs) == heard.tokens
            self.text, self.tokens = self.text + heard.text, self.tokens + heard.tokens

    for stream in (True, False):
        ear = Ear()
        reply = await tier.generate(calls({}, stream)[0], ear)
        if reply.events is None:
            text = json.loads(reply.body)["choices"][0]["message"]["content"]
        else:
            events = [json.loads(e.removeprefix(b"data: ")) async for e in reply.events if b"[DONE]" not in e]
            text = "".join(event["choices"][0]["delta"].get("content") or "" for event in events)
        assert (ear.text, ear.tokens) == (text, reply.usage.completion_tokens)
        assert ear.text


async def test_a_short_chat_is_rendered_at_once_and_alike(tier: VllmTier) -> None:
    layer: Any = tier._layer
    for text in ("hello", "long " * 400):
        request = layer._request(calls({}, False)[0]).model_copy(
            update={"messages": [{"role": "user", "content": text}]}
        )
        rendered = [
            await renderer.render_chat(request) for renderer in (layer._renderer, layer._plain_chat.online_renderer)
        ]
        for _, (prompt,) in rendered:
            del prompt["arrival_time"]
        assert rendered[0] == rendered[1]
