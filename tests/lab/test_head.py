"""The head of configs/lab.yaml knows what lab-small can't do: the real encoder, and no engine."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.conftest import ROOT
from tierserve.config import load
from tierserve.core import Prompt
from tierserve.lab.question import Split
from tierserve.lab.tasks import SIMPLE, mix
from tierserve.quality.calibrate import encode
from tierserve.router.scoring.features import features
from tierserve.router.scoring.head import Head

if TYPE_CHECKING:
    from tierserve.router.embedding.encoder import SentenceEncoder

ROUTER = load(ROOT / "configs" / "lab.yaml").router
# What lab-small gets wrong three times in four, and lab-large right: the gain that there is to be had.
HARD = (("shift", 3), ("shift", 5), ("steps", 2), ("steps", 3), ("extreme", 5))


@pytest.fixture(scope="module")
def head() -> Head:
    assert ROUTER.head is not None
    return Head.load(Path(ROUTER.head))


@pytest.fixture(scope="module")
def large(head: Head, encoder: "SentenceEncoder") -> dict[tuple[str, int], list[bool]]:
    """Of held-out questions of the mix, by kind: which go to the large tier."""
    questions = mix(Split.HELD_OUT, 600, seed=7)
    prompts = [Prompt(question.prompt) for question in questions]
    scores = head.scores(encode(encoder, prompts), np.stack([features(prompt) for prompt in prompts]))
    sent: dict[tuple[str, int], list[bool]] = {}
    for question, score in zip(questions, scores, strict=True):
        sent.setdefault((question.family, question.level), []).append(bool(score > ROUTER.threshold))
    return sent


@pytest.mark.parametrize("kind", SIMPLE, ids=str)
def test_simple_kinds_go_small(kind: tuple[str, int], large: dict[tuple[str, int], list[bool]]) -> None:
    assert len(large[kind]) > 100
    assert np.mean(large[kind]) < 0.02


@pytest.mark.parametrize("kind", HARD, ids=str)
def test_hard_kinds_mostly_go_large(kind: tuple[str, int], large: dict[tuple[str, int], list[bool]]) -> None:
    assert np.mean(large[kind]) > 0.5


def test_the_large_tier_gets_about_an_eighth(large: dict[tuple[str, int], list[bool]]) -> None:
    assert 0.08 < np.mean([sent for kind in large.values() for sent in kind]) < 0.18


def test_the_head_is_small_and_says_what_it_was_fitted_on(head: Head) -> None:
    assert ROUTER.head is not None
    assert Path(ROUTER.head).stat().st_size < 700_000
    assert str(head.note) == "2000 of lab-calibration (net)"
