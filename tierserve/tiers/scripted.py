"""A tier that follows a script: for tests of what happens in which order. It knows nothing and claims nothing.

What a script says:

    ScriptedTier("small", ["Hel", "lo"])                   # two deltas
    ScriptedTier("small", [TierUnavailable("gone")])       # dead before the first delta
    ScriptedTier("small", ["Hel", gate, RuntimeError()])   # says something, waits for the event, breaks off
    ScriptedTier("small", [("Hel", 0.9), ("lo", 0.4)])     # deltas, and how probable each was
"""

import asyncio
import json
import math
from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import Any

from prometheus_client import Metric

from tierserve.core import Call, Heard, Kind, Queue, Usage
from tierserve.errors import ContextOverflow, TierUnavailable
from tierserve.tiers.base import Listener, Occupancy, Reply, TierState, armed, queue_of

Step = str | tuple[str, float] | BaseException | asyncio.Event


class ScriptedTier:
    """Each string is a delta of one token, an exception is raised, an event is waited for. In prompts a word counts as
    one token."""

    def __init__(
        self,
        name: str,
        script: Sequence[Step] = ("Hello",),
        max_model_len: int | None = None,
        slots: int | None = None,
    ) -> None:
        self.name = name
        self.script = script
        self.max_model_len = max_model_len
        self.slots = slots  # replies that count as being worked on; those beyond wait, though the script runs on
        self.state = TierState.STOPPED
        self.waiting_for = ""
        self.calls: list[Call] = []
        self.prewarmed: list[Call] = []
        self.prewarm_gate: asyncio.Event | None = None  # prewarming waits for it
        self.running = 0  # replies that are neither finished nor closed

    @property
    def queue(self) -> Queue:
        return queue_of(self.running, self.slots)

    @property
    def occupancy(self) -> Occupancy:
        return Occupancy(self.running)

    async def find_weights(self) -> None:
        pass

    async def start(self) -> None:
        self.state = TierState.READY

    async def stop(self) -> None:
        self.state = TierState.STOPPED

    async def fits(self, call: Call) -> bool:
        return self.max_model_len is None or _words(call) <= self.max_model_len

    async def generate(self, call: Call, listener: Listener | None = None) -> Reply:
        if self.state is not TierState.READY:
            raise TierUnavailable(f"{self.name} is {self.state}")
        if not await self.fits(call):
            raise ContextOverflow(f"{_words(call)} words exceed {self.max_model_len}: shorten the prompt", "messages")
        self.calls.append(call)
        deltas = self._deltas(call, listener)
        if not call.stream:
            texts = [text async for text in deltas]
            usage = Usage(_words(call), len(texts))
            return Reply(json.dumps(self._body(call, "".join(texts), usage)).encode(), usage=usage)
        first = await anext(deltas)
        reply = Reply()
        reply.events = await armed(self._events(call, first, deltas, reply))
        return reply

    async def prewarm(self, call: Call) -> bool:
        if self.prewarm_gate is not None:
            await self.prewarm_gate.wait()
        self.prewarmed.append(call)
        return True

    def metrics(self) -> Iterator[Metric]:
        return iter(())

    async def _deltas(self, call: Call, listener: Listener | None) -> AsyncGenerator[str, None]:
        self.running += 1
        last = max((number for number, step in enumerate(self.script) if isinstance(step, str | tuple)), default=None)
        try:
            for number, step in enumerate(self.script):
                if isinstance(step, BaseException):
                    raise step
                if isinstance(step, asyncio.Event):
                    await step.wait()
                    continue
                text, probability = step if isinstance(step, tuple) else (step, 1.0)
                if listener is not None:
                    ended = number == last and number == len(self.script) - 1
                    listener.hear(Heard(0, text, 1, [[math.log(probability)]], ended, _words(call)))
                yield text
        finally:
            self.running -= 1

    async def _events(
        self, call: Call, first: str, rest: AsyncGenerator[str, None], reply: Reply
    ) -> AsyncGenerator[bytes, None]:
        reply.usage = Usage(_words(call), 0)
        try:
            yield b""
            yield self._event(call, first, reply.usage)
            async for text in rest:
                yield self._event(call, text, reply.usage)
        except Exception as error:
            reply.broken = True
            yield f"data: {json.dumps({'error': {'message': str(error), 'type': 'server_error'}})}\n\n".encode()
        finally:
            await rest.aclose()
        yield b"data: [DONE]\n\n"

    def _event(self, call: Call, text: str, usage: Usage) -> bytes:
        usage.completion_tokens += 1
        chat = call.kind is Kind.CHAT
        choice: dict[str, Any] = {"index": 0, "delta": {"content": text}} if chat else {"index": 0, "text": text}
        kind = "chat.completion.chunk" if chat else "text_completion"
        event = {"id": call.id, "object": kind, "created": 0, "model": self.name, "choices": [choice]}
        return f"data: {json.dumps(event)}\n\n".encode()

    def _body(self, call: Call, text: str, usage: Usage) -> dict[str, Any]:
        chat = call.kind is Kind.CHAT
        said = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        return {
            "id": call.id,
            "object": "chat.completion" if chat else "text_completion",
            "created": 0,
            "model": self.name,
            "choices": [{"index": 0, "finish_reason": "stop", **said}],
            "usage": {
                "prompt_tokens": usage.prompt_tokens,
                "completion_tokens": usage.completion_tokens,
                "total_tokens": usage.prompt_tokens + usage.completion_tokens,
            },
        }


def _words(call: Call) -> int:
    return sum(len(prompt.text.split()) for prompt in call.prompts)
