from random import Random

import pytest

from tierserve.lab.assessor import SYSTEM, expectation, messages, rating_tokens, soft_rating


class DigitTokenizer:
    """As Qwen2.5's: a token for each digit, none for "10"."""

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        assert not add_special_tokens
        return [ord(sign) for sign in text]


def test_where_ten_is_two_tokens_the_scale_ends_at_nine() -> None:
    assert rating_tokens(DigitTokenizer()) == {rating: ord(str(rating)) for rating in range(10)}


def test_the_expectation_is_a_mean() -> None:
    assert expectation({0: 1.0}) == 0
    assert expectation({0: 1.0, 10: 1.0}) == 5
    assert expectation({2: 0.3, 4: 0.1}) == pytest.approx(2.5)


@pytest.mark.parametrize("score", [0.0, 0.4, 5.5, 9.9, 10.0])
def test_soft_ratings_have_the_score_as_their_mean(score: float) -> None:
    rng = Random(0)
    ratings = [soft_rating(score, rng.random()) for _ in range(4000)]
    assert sum(ratings) / len(ratings) == pytest.approx(score, abs=0.05)
    assert max(ratings) - min(ratings) <= 1 and 0 <= min(ratings) and max(ratings) <= 10


def test_the_prompt_ends_with_the_request() -> None:
    system, user = messages("Add 1 and 2.")
    assert system == {"role": "system", "content": SYSTEM}
    assert user["content"].endswith("Request: Add 1 and 2.\nRating:")
