from random import Random

import pytest

from tierserve.lab.assessor import soft_rating


@pytest.mark.parametrize("score", [0.0, 0.4, 5.5, 9.9, 10.0])
def test_soft_ratings_have_the_score_as_their_mean(score: float) -> None:
    rng = Random(0)
    ratings = [soft_rating(score, rng.random()) for _ in range(4000)]
    assert sum(ratings) / len(ratings) == pytest.approx(score, abs=0.05)
    assert max(ratings) - min(ratings) <= 1 and 0 <= min(ratings) and max(ratings) <= 10
