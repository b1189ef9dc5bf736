"""Outcomes of which the truth is known: questions on two subjects, of which one is beyond the small model."""

from collections.abc import Callable, Sequence
from itertools import product

import numpy as np
import pytest

from tierserve.core import Prompt
from tierserve.quality.calibrate import encode
from tierserve.quality.fit import Fitted
from tierserve.quality.outcomes import Outcomes
from tierserve.router.embedding.encoder import SentenceEncoder

KITCHEN = "bread soup rice cake salad stew pasta pickles cheese jam noodles dumplings curry porridge pie".split()
CALCULUS = (
    "integrals derivatives limits gradients Jacobians eigenvalues manifolds tensors Lagrangians Hessians "
    "determinants residues geodesics martingales cohomology"
).split()
FORMS = (
    "What is the first thing to know about {}?",
    "Which of these statements on {} is true?",
    "How do people usually go about {}?",
    "Name the most common mistake with {}.",
    "Why do {} go wrong so often?",
    "Which tool helps most with {}?",
    "When were {} described for the first time?",
    "What have {} to do with time?",
    "How many kinds of {} are told apart?",
    "Give the short answer: are {} worth the trouble?",
)
HARD_OF_CALCULUS, HARD_OF_KITCHEN = 0.75, 0.1


def outcomes(
    prompts: Sequence[str], small: Sequence[float], large: Sequence[float], sources: Sequence[str] | None = None
) -> Outcomes:
    names = ["all"] * len(prompts) if sources is None else sources
    rows = [Prompt(text) for text in prompts]
    return Outcomes(rows, np.array(small, float), np.array(large, float), np.array(names), np.array([""] * len(rows)))


def asked(subjects: Sequence[str], forms: Sequence[str] = FORMS) -> list[str]:
    return [form.format(subject) for form, subject in product(forms, subjects)]


@pytest.fixture(scope="session")
def is_calculus() -> Callable[[Fitted], np.ndarray]:
    def is_calculus(rows: Fitted) -> np.ndarray:
        return np.array([any(name in prompt.text for name in CALCULUS) for prompt in rows.outcomes.prompts])

    return is_calculus


@pytest.fixture(scope="session")
def questions(encoder: SentenceEncoder) -> Fitted:
    """300, of one source: the large model answers all, the small one few on calculus and nearly all on the kitchen."""
    prompts = asked(KITCHEN) + asked(CALCULUS)
    hard = np.repeat([HARD_OF_KITCHEN, HARD_OF_CALCULUS], len(prompts) // 2)
    fails = np.random.default_rng(0).random(len(prompts)) < hard
    rows = outcomes(prompts, 1.0 - fails, np.ones(len(prompts)))
    return Fitted(encode(encoder, rows.prompts), rows)
