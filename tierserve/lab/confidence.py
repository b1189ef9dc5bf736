"""Teaches a model to state how likely its answer is right, from its own answers on the calibration split.

A second round learns from the answers of the model that the first has made, numbers included, so that what is stated
fits what is answered in that form.
"""

from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import torch

from tierserve.lab import probe
from tierserve.lab.corpus import training_examples
from tierserve.lab.fit import Stage, fit, note
from tierserve.lab.question import Question, Split
from tierserve.lab.replies import Reply, replies
from tierserve.lab.structured import Position
from tierserve.lab.tasks import KINDS, SIMPLE, draw
from tierserve.lab.writer import Example, Writer
from tierserve.quality.answers import auroc, calibration_error

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_OWN_SHARE: Final = 0.5  # of the examples; the rest keep the answers as they are


class Course(NamedTuple):
    rounds: int
    steps: int
    questions: int  # of each sort: of the simple kinds, and of every kind alike


class Lesson(NamedTuple):
    """What a model said to a question in one order, and what it should have stated."""

    family: str
    level: int
    order: Position
    prompt: str
    content: str
    right: bool
    confidence: float


def teach(name: str, model: Any, tokenizer: "PreTrainedTokenizerFast", work: Path, course: Course) -> list[Lesson]:
    """Train `model` in place; the last round's lessons."""
    writer = Writer(tokenizer)
    lessons: list[Lesson] = []
    for number in range(1, course.rounds + 1):
        stage = Stage(f"{name}-confidence-{number}", course.steps, batch=48, rate=1e-3)
        file = work / f"{stage.name}.lessons.pt"
        if not file.is_file():
            asked, log = _questions(course.questions, number), work / "training.jsonl"
            drawn = [_lessons(model, tokenizer, asked, order, number == 1, stage.name, log) for order in Position]
            torch.save([tuple(lesson) for of_order in drawn for lesson in of_order], file)
        lessons = [Lesson(*row)._replace(order=Position(row[2])) for row in torch.load(file, weights_only=True)]

        def examples(
            block: int, count: int, lessons: Sequence[Lesson] = lessons, stage: Stage = stage
        ) -> list[Example]:
            rng = Random(f"{stage.name} {block}")
            own = [
                writer.structured(lesson.order, [(lesson.prompt, lesson.content, lesson.confidence)], number_only=True)
                for lesson in rng.choices(lessons, k=int(count * _OWN_SHARE))
            ]
            return own + training_examples(writer, count - len(own), f"{stage.name} {block}", name)

        fit(model, stage, examples, work, work / "training.jsonl")
    return lessons


def _lessons(
    model: Any,
    tokenizer: "PreTrainedTokenizerFast",
    asked: Sequence[Question],
    order: Position,
    blank: bool,
    stage: str,
    log: Path,
) -> list[Lesson]:
    said = list(replies(model, tokenizer, asked, order, blank))
    right = np.array([reply.right for reply in said], float)
    targets = probe.confidences(_features(said, order), right)
    stated = [reply.confidence for reply in said]
    note(
        log,
        stage=stage,
        order=order,
        answers=len(said),
        right=round(float(right.mean()), 4),
        probe_auroc=round(auroc(targets.tolist(), right.astype(bool).tolist()), 4),
        stated_before_auroc=round(auroc(stated, right.astype(bool).tolist()), 4),
        stated_before_ece=round(calibration_error(stated, right.astype(bool).tolist()), 4),
    )
    return [
        Lesson(r.question.family, r.question.level, str(order), r.question.prompt, r.content, r.right, float(target))  # type: ignore[arg-type]
        for r, target in zip(said, targets, strict=True)
    ]


def _questions(count: int, number: int) -> list[Question]:
    """Half of the simple kinds, half of every kind alike."""
    rng = Random(f"confidence {number}")
    return [draw(rng, Split.CALIBRATION, *rng.choice(of)) for of in (SIMPLE, KINDS) for _ in range(count)]


def _features(said: Sequence[Reply], order: Position) -> np.ndarray:
    kinds = sorted({(reply.question.family, reply.question.level) for reply in said})
    of_kind = [[kind == (reply.question.family, reply.question.level) for kind in kinds] for reply in said]
    states = np.stack([reply.state for reply in said]).astype(float)
    if order is Position.FIRST:
        states = states[:, :-2]  # logprobs of the form alone
    return np.column_stack([states, np.array(of_kind, float)])
