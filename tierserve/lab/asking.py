"""Questions put to the tiers, as a caller would put them: many at once, through the real engines' own OpenAI layer."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from tqdm import tqdm  # type: ignore[import-untyped]

from tierserve.config import LogConfig, load
from tierserve.core import Call, Kind, Prompt
from tierserve.lab.question import Question
from tierserve.lab.structured import INSTRUCTIONS, PATTERNS, Position
from tierserve.telemetry.logs import configured
from tierserve.tiers.base import Tier
from tierserve.tiers.pair import TierPair, build_tiers

Result = TypeVar("Result")

_AT_ONCE: Final = 64
# The longest answer of the tasks, in the structured form, has 25 tokens.
LONGEST: Final = 96


@dataclass(frozen=True, slots=True)
class Said:
    question: Question
    text: str
    tokens: int
    mean_logprob: float


@asynccontextmanager
async def engines(config: Path) -> AsyncIterator[TierPair]:
    """Both tiers of a node, up. Raises ConfigError or TierStartError."""
    pair = build_tiers(load(config).tiers)
    with configured(LogConfig(level="warning")):
        await pair.start()
        try:
            yield pair
        finally:
            await pair.stop()


async def ask(tier: Tier, questions: Sequence[Question], order: Position | None = None) -> list[Said]:
    """Answers at temperature 0, in plain text or, with an order, in the structured form."""

    async def said(number: int, question: Question) -> Said:
        return await _ask(tier, question, order, f"lab-{tier.name}-{order}-{number}")

    return await for_each(questions, said, f"{tier.name}, {order or 'plain'}")


async def for_each(
    questions: Sequence[Question], answer: Callable[[int, Question], Awaitable[Result]], what: str
) -> list[Result]:
    """`answer(number, question)` of each, many at once; with a progress bar."""
    slots = asyncio.Semaphore(_AT_ONCE)
    with tqdm(total=len(questions), desc=what, mininterval=2) as progress:

        async def one(number: int, question: Question) -> Result:
            async with slots:
                result = await answer(number, question)
            progress.update()
            return result

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(number, question)) for number, question in enumerate(questions)]
    return [task.result() for task in tasks]


async def _ask(tier: Tier, question: Question, order: Position | None, id: str) -> Said:
    body: dict[str, Any] = {
        "messages": [{"role": "user", "content": question.prompt}],
        "temperature": 0,
        "max_tokens": LONGEST,
        "logprobs": True,
    }
    if order is not None:
        body["messages"].insert(0, {"role": "system", "content": INSTRUCTIONS[order]})
        body["structured_outputs"] = {"regex": PATTERNS[order]}
    reply = await tier.generate(Call(id, Kind.CHAT, body, (Prompt(question.prompt),)))
    choice = json.loads(reply.body)["choices"][0]
    logprobs = [token["logprob"] for token in choice["logprobs"]["content"]]
    return Said(
        question,
        choice["message"]["content"] or "",
        reply.usage.completion_tokens,
        sum(logprobs) / max(1, len(logprobs)),
    )
