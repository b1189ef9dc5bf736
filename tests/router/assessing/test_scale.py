import numpy as np
import pytest

from tierserve.router.assessing.scale import mean_ratings

NONE = np.zeros((1, 0), np.float32)


def logits(*chances: float) -> np.ndarray:
    return np.log(np.maximum(np.array([chances], np.float32), 1e-30))


def test_the_rating_is_the_mean_of_what_would_be_said() -> None:
    said = [0.0] * 11
    said[2], said[10] = 0.75, 0.25
    assert mean_ratings(logits(*said), NONE) == pytest.approx([4.0])


def test_what_is_no_rating_does_not_count() -> None:
    """Logits are what the model gives for the ratings alone: they need not add up to 1."""
    said = [0.0] * 11
    said[3] = said[5] = 0.001
    assert mean_ratings(logits(*said), NONE) == pytest.approx([4.0])


@pytest.mark.parametrize(("ten_after_one", "mean"), [(0.0, 1.0), (1.0, 10.0), (0.5, 5.5)])
def test_a_ten_of_two_tokens_is_told_from_a_one_by_what_follows(ten_after_one: float, mean: float) -> None:
    said = [0.0] * 10
    said[1] = 1.0
    after = logits(ten_after_one, (1 - ten_after_one) / 2, (1 - ten_after_one) / 2)
    assert mean_ratings(logits(*said), after) == pytest.approx([mean], abs=1e-4)


def test_logits_of_any_size_give_ratings_within_the_scale() -> None:
    rng = np.random.default_rng(0)
    first = (rng.standard_normal((500, 10)) * 1e4).astype(np.float32)
    ratings = mean_ratings(first, (rng.standard_normal((500, 3)) * 1e4).astype(np.float32))
    assert ((ratings >= 0) & (ratings <= 10)).all()
    assert ratings.max() > 9 and ratings.min() < 1
