"""python -m tierserve.lab train: from nothing to the three checkpoints. Goes on where it was interrupted.

First the answers, by themselves; then, from the model's own answers on the calibration split, the confidence; then the
assessor, from where lab-small failed there. The held-out split is not read.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

from tierserve.lab import assessment, checkpoint, confidence
from tierserve.lab.confidence import Course, Lesson
from tierserve.lab.corpus import tokenizer_corpus, training_examples
from tierserve.lab.fit import Stage, fit
from tierserve.lab.growth import grow
from tierserve.lab.tokenizer import llama_tokenizer, qwen_tokenizer
from tierserve.lab.writer import FIXED, Example, Writer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# The parts of the training, by what they make; the sprout has lab-small's shape and grows into lab-large.
_PARTS: Final = {
    "sprout": (
        Stage("sprout", steps=7_000, batch=24, rate=3e-3),
        Stage("sprout-practice", steps=2_000, batch=24, rate=2e-3, decay=0.9),
    ),
    "lab-large": (Stage("lab-large", steps=1_600, batch=24, rate=8e-4, decay=1.0),),
    "lab-small": (
        Stage("lab-small", steps=4_000, batch=24, rate=3e-3, decay=0.5),
        Stage("lab-small-practice", steps=1_500, batch=24, rate=2e-3, decay=0.9),
    ),
}
# The stated confidence of lab-small is what decides on escalation; lab-large learns the form and less about itself.
_COURSES: Final = {"lab-small": Course(2, 500, 4_000), "lab-large": Course(1, 200, 1_000)}
_EARLY: Final = 1_000  # steps that are taken in the easier mix
LOG: Final = "training.jsonl"


def train(names: Sequence[str], folder: Path, work: Path, threads: int) -> None:
    """Train these of the checkpoints and write them to `folder`, with the log; `work` keeps what an interrupted run
    needs. The assessor learns from lab-small's answers, so lab-small is trained before it where it was not."""
    torch.set_num_threads(threads)
    work.mkdir(parents=True, exist_ok=True)
    tokenizer = llama_tokenizer(tokenizer_corpus(), FIXED)
    for name in _COURSES:
        if name in names:
            model, _ = _tier(name, tokenizer, work)
            checkpoint.save(model, tokenizer, folder / name)
    if "lab-assessor" in names:
        _, lessons = _tier("lab-small", tokenizer, work)
        assessor_tokenizer = qwen_tokenizer(tokenizer_corpus(), assessment.FIXED)
        assessor = checkpoint.new_model("lab-assessor", assessor_tokenizer)
        assessment.learn(assessor, assessor_tokenizer, lessons, work)
        checkpoint.save(assessor, assessor_tokenizer, folder / "lab-assessor")
    shutil.copy(work / LOG, folder / LOG)


def _tier(name: str, tokenizer: "PreTrainedTokenizerFast", work: Path) -> tuple[Any, list[Lesson]]:
    """A tier's model that can answer and state its confidence, and what it learned the latter from."""
    model = checkpoint.new_model(name, tokenizer)
    if name == "lab-large":
        sprout = checkpoint.new_model("lab-small", tokenizer)
        _learn(sprout, "sprout", tokenizer, work)
        grow(sprout, model)
    _learn(model, name, tokenizer, work)
    return model, confidence.teach(name, model, tokenizer, work, _COURSES[name])


def _learn(model: Any, name: str, tokenizer: "PreTrainedTokenizerFast", work: Path) -> None:
    writer = Writer(tokenizer)
    for number, stage in enumerate(_PARTS[name]):
        # Only what begins from nothing needs the easier mix at first.
        early = _EARLY if number == 0 and name != "lab-large" else 0

        def examples(block: int, count: int, stage: Stage = stage, early: int = early) -> list[Example]:
            seed = f"{'practice' if 'practice' in stage.name else 'answers'} {block}"
            return training_examples(writer, count, seed, stage.name, block * count < early * stage.batch)

        fit(model, stage, examples, work, work / LOG)
