"""python -m tierserve.lab outcomes: which of the pair got which question right, for a router to be fitted on.

The rows have the form of shared/data/README.md; token counts are the engines' own.
"""

import gzip
import hashlib
import json
from pathlib import Path

from tierserve.core import Role
from tierserve.lab.asking import ask, engines
from tierserve.lab.question import Split
from tierserve.lab.tasks import mix


async def write_outcomes(config: Path, out: Path, split: Split, count: int, seed: int) -> None:
    """Raises ConfigError or TierStartError."""
    questions = mix(split, count, seed)
    async with engines(config) as pair:
        names = {role: pair[role].name for role in Role}
        said = {role: await ask(pair[role], questions) for role in Role}
    with gzip.open(out, "wt", encoding="utf-8") as file:
        for small, large in zip(said[Role.SMALL], said[Role.LARGE], strict=True):
            question = small.question
            row = {
                "prompt": question.prompt,
                "source": f"lab-{split}",
                "id": hashlib.sha256(question.prompt.encode()).hexdigest()[:16],
                "category": f"{question.family}-{question.level}",
                "small_model": names[Role.SMALL],
                "large_model": names[Role.LARGE],
                "small_score": float(question.is_right(small.text)),
                "large_score": float(question.is_right(large.text)),
                "small_tokens": small.tokens,
                "large_tokens": large.tokens,
            }
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
