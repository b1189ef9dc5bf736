"""python -m tierserve.lab judged: how sure lab-small was of each answer, and whether it was right; its confidence is
calibrated on that."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tierserve.confidence.judge import judge_for
from tierserve.config import EscalationConfig, load
from tierserve.core import Call, Kind, Prompt, Role
from tierserve.errors import ConfigError
from tierserve.lab.asking import LONGEST, engines, for_each
from tierserve.lab.question import Question, Split
from tierserve.lab.tasks import mix
from tierserve.tiers.base import Tier


def write_judged(config: Path, out: Path, split: Split, count: int, seed: int) -> None:
    """Judged as the node in `config` judges, without its calibration. Raises ConfigError or TierStartError."""
    rows = asyncio.run(_rows(config, mix(split, count, seed)))
    out.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


async def _rows(config: Path, questions: Sequence[Question]) -> list[dict[str, Any]]:
    escalation = load(config).escalation
    if escalation is None:
        raise ConfigError(f"{config}: escalation", "is off", "say how answers are to be judged")
    async with engines(config) as pair:

        async def judged(number: int, question: Question) -> dict[str, Any]:
            return await _judged(pair[Role.SMALL], question, escalation, f"judged-{number}")

        return await for_each(questions, judged, escalation.judged_by)


async def _judged(tier: Tier, question: Question, escalation: EscalationConfig, id: str) -> dict[str, Any]:
    body = {"messages": [{"role": "user", "content": question.prompt}], "temperature": 0, "max_tokens": LONGEST}
    # No threshold: each answer is to be heard to its end.
    judge = judge_for(escalation.model_copy(update={"threshold": 0.0}), Call(id, Kind.CHAT, body, (Prompt("-"),)))
    assert judge is not None
    reply = await tier.generate(judge.call, judge)
    judge.end()
    assert judge.finding is not None
    content = json.loads(judge.body(reply.body))["choices"][0]["message"]["content"]
    return {
        "prompt": question.prompt,
        "estimator": escalation.judged_by,
        "confidence": judge.finding.confidence or 0.0,
        "right": float(question.is_right(content or "")),
    }
