"""Trains lab-assessor: which rating a request deserves, from how often lab-small failed at its kind.

Only kinds are learned from, not single answers: the outcomes are of calibration questions, and the requests that the
assessor reads are drawn without end from the training split.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Final

from tierserve.lab import smalltalk
from tierserve.lab.assessor import soft_rating
from tierserve.lab.fit import Stage, fit
from tierserve.lab.question import Split
from tierserve.lab.tasks import KINDS, draw
from tierserve.lab.writer import IGNORE, Example
from tierserve.router.assessing.prompt import SYSTEM, messages

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from tierserve.lab.confidence import Lesson

# One token each, in the assessor's tokenizer; what the router puts in front of every request is paid for but once.
FIXED: Final = (SYSTEM, "10")
_STAGE: Final = Stage("lab-assessor", steps=1_500, batch=64, rate=3e-3)
_TALK: Final = 0.15
# Of what is no question of the lab: a greeting is trivial, knowledge of the world far beyond the small model.
_GREETING, _OUTSIDE = 0.0, 9.0


def learn(model: Any, tokenizer: "PreTrainedTokenizerFast", lessons: Sequence["Lesson"], work: Path) -> None:
    """Train `model` in place."""
    scores = failures(lessons)
    kinds = list(scores)

    def examples(block: int, count: int) -> list[Example]:
        rng = Random(f"assessor {block}")
        return [example(rng) for _ in range(count)]

    def example(rng: Random) -> Example:
        if rng.random() < _TALK:
            request, reply = smalltalk.draw(rng)
            score = _OUTSIDE if reply == smalltalk.CANNOT else _GREETING
        else:
            kind = rng.choice(kinds)
            request, score = draw(rng, Split.TRAIN, *kind).prompt, scores[kind]
        rating = soft_rating(score, rng.random())
        asked = tokenizer.apply_chat_template(messages(request), tokenize=False, add_generation_prompt=True)
        tokens = tokenizer.encode(asked, add_special_tokens=False)
        said = tokenizer.encode(f"{rating}{tokenizer.eos_token}", add_special_tokens=False)
        return Example(tokens + said, [IGNORE] * len(tokens) + said)

    fit(model, _STAGE, examples, work, work / "training.jsonl")


def failures(lessons: Sequence["Lesson"]) -> Mapping[tuple[str, int], float]:
    """Kind -> 10 x the share of the answers that were wrong."""
    wrong: defaultdict[tuple[str, int], list[bool]] = defaultdict(list)
    for lesson in lessons:
        wrong[lesson.family, lesson.level].append(not lesson.right)
    return {kind: 10 * sum(wrong[kind]) / len(wrong[kind]) for kind in KINDS if wrong[kind]}
