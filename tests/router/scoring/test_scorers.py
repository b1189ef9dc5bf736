from pathlib import Path

import numpy as np
import pytest

from tests.router.scoring.test_head import small_head
from tierserve.config import RouterConfig
from tierserve.core import Prompt
from tierserve.errors import ConfigError
from tierserve.router.embedding.encoder import SentenceEncoder
from tierserve.router.scoring.head import DEFAULT, Head
from tierserve.router.scoring.length import LengthScorer
from tierserve.router.scoring.scorers import build_scorer, load_head
from tierserve.router.scoring.seeds import SeedScorer


@pytest.mark.parametrize(("name", "kind"), [("head", Head), ("seeds", SeedScorer), ("length", LengthScorer)])
def test_the_scorer_is_the_configured_one(name: str, kind: type, encoder: SentenceEncoder) -> None:
    scorer = build_scorer(RouterConfig(scorer=name), encoder)
    assert isinstance(scorer, kind)
    for text in ("What is Python?", "", "\ud800\x00"):
        assert 0 <= scorer.score(Prompt(text), encoder.encode([text])[0]) <= 10


def test_a_fitted_head_is_the_default(encoder: SentenceEncoder) -> None:
    scorer = build_scorer(RouterConfig(), encoder)
    assert isinstance(scorer, Head)
    assert scorer.note == Head.load(DEFAULT).note


def test_the_configured_head_is_loaded(encoder: SentenceEncoder, tmp_path: Path) -> None:
    head = small_head(dimensions=1152, own=384)
    head.save(tmp_path / "mine.npz")
    scorer = build_scorer(RouterConfig(head=str(tmp_path / "mine.npz")), encoder)
    assert isinstance(scorer, Head)
    assert scorer.note == head.note


@pytest.mark.parametrize(("dimensions", "own"), [(384, 384), (6, 2), (1152, 768)])
def test_a_head_of_another_encoder_is_refused(
    dimensions: int, own: int, encoder: SentenceEncoder, tmp_path: Path
) -> None:
    path = tmp_path / "other.npz"
    small_head(dimensions=dimensions, own=own).save(path)
    with pytest.raises(
        ConfigError, match=r"was fitted on another encoder .* — fit one with `tierserve calibrate`"
    ) as e:
        load_head(path, encoder)
    assert str(path) in str(e.value)


def test_the_article_s_scorer_reads_the_sentence_s_own_part_alone(encoder: SentenceEncoder) -> None:
    scorer = SeedScorer(encoder)
    vector = encoder.encode(["Explain the CAP theorem trade-offs in distributed databases"])[0]
    changed = vector.copy()
    changed[encoder.own :] = np.nan
    assert scorer.score(Prompt(""), changed) == scorer.score(Prompt(""), vector) > 4
