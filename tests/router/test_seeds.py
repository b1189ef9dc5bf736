import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tierserve.core import Prompt
from tierserve.router.seeds import COMPLEX, SIMPLE, SeedScorer


class Axes:
    """An encoder whose simple examples point along the first axes and whose complex ones along the last."""

    own = 6

    def encode(self, texts: tuple[str, ...]) -> np.ndarray:
        axes = np.eye(6, dtype=np.float32)
        return axes[:3] if tuple(texts) == SIMPLE else axes[3:]


PROMPT = Prompt("")
SCORER = SeedScorer(Axes())


def article_s_formula(vector: np.ndarray) -> float:
    simple, complex_ = vector[:3].max(), vector[3:].max()
    return float(10 * (complex_ / (simple + complex_ + 0.01)))


@given(arrays(np.float32, 6, elements=st.floats(1 / 64, 1, width=32)))
def test_it_is_the_article_s_formula_where_both_similarities_are_positive(vector: np.ndarray) -> None:
    assert SCORER.score(PROMPT, vector) == pytest.approx(article_s_formula(vector), abs=1e-4)


@given(arrays(np.float32, 6, elements=st.floats(width=32)))
def test_the_score_is_finite_and_within_0_and_10_for_any_vector(vector: np.ndarray) -> None:
    with np.errstate(all="ignore"):
        assert 0 <= SCORER.score(PROMPT, vector) <= 10


def test_a_negative_similarity_does_not_blow_the_score_up() -> None:
    vector = np.array([-0.5, -0.5, -0.5, 0.49, 0, 0], dtype=np.float32)
    assert article_s_formula(vector) > 10
    assert SCORER.score(PROMPT, vector) == pytest.approx(9.8, abs=0.01)


def test_each_of_the_article_s_examples_lies_on_its_side() -> None:
    for index in range(3):
        assert SCORER.score(PROMPT, np.eye(6, dtype=np.float32)[index]) < 4
        assert SCORER.score(PROMPT, np.eye(6, dtype=np.float32)[3 + index]) > 4
    assert len(SIMPLE) == len(COMPLEX) == 3
