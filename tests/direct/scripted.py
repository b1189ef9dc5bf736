"""An engine that takes a fixed time for each token, for any number of requests up to its slots."""

import asyncio
import time

from direct.models import Model
from loadgen.asking import Sample


class ScriptedEngine:
    def __init__(self, model: Model, token_s: float, slots: int) -> None:
        self.model = model
        self.tokens = 0
        self.broken_off = 0
        self._token_s = token_s
        self._slots = asyncio.Semaphore(slots)

    async def answer(self, prompt: list[int], output_tokens: int, due_s: float) -> Sample:
        sample = Sample(due_s, time.perf_counter(), prompt_tokens=len(prompt), model=self.model.name)
        try:
            async with self._slots:
                for _ in range(output_tokens):
                    await asyncio.sleep(self._token_s)
                    sample.first_s = sample.first_s or time.perf_counter()
                    sample.output_tokens += 1
                    self.tokens += 1
        except asyncio.CancelledError:
            self.broken_off += 1
            raise
        sample.end_s = time.perf_counter()
        return sample
