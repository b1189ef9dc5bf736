import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierserve.core import Prompt
from tierserve.router.scoring.length import LengthScorer

NONE = np.zeros(0, np.float32)


def score(text: str) -> float:
    return LengthScorer().score(Prompt(text), NONE)


def test_the_article_s_200_characters_are_where_the_threshold_lies() -> None:
    assert score("x" * 200) == pytest.approx(4)
    assert score("") == 0
    assert score("x" * 5_000_000) < 10


@given(st.text(st.characters()), st.text(st.characters(), min_size=1))
def test_a_longer_text_scores_higher_whatever_it_says(text: str, more: str) -> None:
    assert 0 <= score(text) < score(text + more) <= 10
