"""A known opinion, given by what stands in the text; the encoder is the real one."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.quality.conftest import CALCULUS, KITCHEN, asked
from tierserve.core import Prompt
from tierserve.errors import ConfigError
from tierserve.quality.calibrate import encode
from tierserve.quality.distill import assess, distill
from tierserve.router.embedding.encoder import SentenceEncoder
from tierserve.router.scoring.features import features
from tierserve.router.scoring.head import DEFAULT, Head

PROMPTS = [Prompt(text) for text in asked(KITCHEN) + asked(CALCULUS)]


class Opinionated:
    """Rates calculus high and the kitchen low, a little higher the longer the text; may be interrupted."""

    def __init__(self, ends_after: int = 10_000) -> None:
        self.read: list[str] = []
        self._ends_after = ends_after

    def rate(self, texts: Sequence[str]) -> list[float]:
        if len(self.read) >= self._ends_after:
            raise KeyboardInterrupt
        self.read += texts
        return [7.0 * any(name in text for name in CALCULUS) + len(text) / 50 for text in texts]


def ratings_of(prompts: Sequence[Prompt]) -> np.ndarray:
    return np.array(Opinionated().rate([prompt.text for prompt in prompts]))


def test_an_interrupted_run_goes_on_where_it_was(tmp_path: Path) -> None:
    store, interrupted, again = tmp_path / "ratings.jsonl", Opinionated(ends_after=40), Opinionated()
    with pytest.raises(KeyboardInterrupt):
        assess(interrupted, PROMPTS, store, "one")
    with store.open("a") as file:
        file.write('{"prompt": "cut o')  # killed while it wrote
    ratings = assess(again, PROMPTS, store, "one")
    assert len(interrupted.read) == 40
    assert not set(interrupted.read) & set(again.read)
    assert len(again.read) == len(PROMPTS) - 40
    assert ratings == pytest.approx(ratings_of(PROMPTS))
    assert assess(Opinionated(ends_after=0), PROMPTS, store, "one") == pytest.approx(ratings), "nothing is left to do"


def test_what_another_assessor_said_does_not_count(tmp_path: Path) -> None:
    store, other = tmp_path / "ratings.jsonl", Opinionated()
    assess(Opinionated(), PROMPTS[:8], store, "one")
    assess(other, PROMPTS[:8], store, "another")
    assert len(other.read) == 8


def test_no_prompt_is_written_down(tmp_path: Path) -> None:
    store = tmp_path / "ratings.jsonl"
    assess(Opinionated(), PROMPTS[:8], store, "one")
    for line in store.read_text().splitlines():
        assert set(json.loads(line)) == {"prompt", "rating"}
        assert "bread" not in line


def test_the_head_takes_the_opinion_on(encoder: SentenceEncoder) -> None:
    base = Head.load(DEFAULT)
    ratings = ratings_of(PROMPTS)
    head, report = distill(encoder, base, PROMPTS, ratings, weight=1.0, large_share=0.5)
    assert report.kept[report.kind] == max(report.kept.values()) > 0.8 > report.before
    surface = np.stack([features(prompt) for prompt in PROMPTS])
    scores = head.scores(encode(encoder, PROMPTS), surface)
    assert np.abs(scores - ratings).mean() < 1.5
    assert np.mean(scores > report.threshold) == pytest.approx(0.5, abs=0.1)
    assert (head.example_texts == base.example_texts).all(), "it explains itself as the base does"
    assert str(head.note).endswith(str(base.note))


def test_its_weight_is_how_much_of_the_base_is_left(encoder: SentenceEncoder) -> None:
    base, vectors = Head.load(DEFAULT), encode(encoder, PROMPTS)
    surface = np.stack([features(prompt) for prompt in PROMPTS])
    before, ratings = base.scores(vectors, surface), ratings_of(PROMPTS)
    means = [
        float(distill(encoder, base, PROMPTS, ratings, weight)[0].scores(vectors, surface).mean())
        for weight in (0.1, 0.9)
    ]
    expected = [float((1 - weight) * before.mean() + weight * ratings.mean()) for weight in (0.1, 0.9)]
    assert means == pytest.approx(expected, abs=0.5)
    assert abs(expected[0] - expected[1]) > 1


@pytest.mark.parametrize(
    ("prompts", "ratings", "said"),
    [
        (PROMPTS[:20], ratings_of(PROMPTS[:20]), "20 different prompts are too few — at least 50"),
        (PROMPTS[:60], np.full(60, 3.0), "the assessor rates all of them alike"),
    ],
)
def test_what_teaches_nothing_is_refused(
    prompts: list[Prompt], ratings: np.ndarray, said: str, encoder: SentenceEncoder
) -> None:
    with pytest.raises(ConfigError, match=f"^--prompts: {said}"):
        distill(encoder, Head.load(DEFAULT), prompts, ratings, 0.5)
