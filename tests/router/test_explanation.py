import pytest

from tierserve.config import RouterConfig
from tierserve.core import Cause, Decision, Role
from tierserve.errors import ConfigError
from tierserve.router.explanation import Explanation, explain
from tierserve.router.scoring.head import Example

NEAREST = [Example("Prove that\n\n the sum  converges", True, 0.876), Example("x" * 200, False, 0.5)]


def test_the_text_says_tier_score_scorer_and_the_nearest_in_one_line_each() -> None:
    explanation = Explanation(Decision(Role.LARGE, Cause.SCORE, 7.251), 4.0, "head", NEAREST)
    assert explanation.as_text("big").splitlines() == [
        "big (large): score 7.25 > 4, by head",
        "nearest known:",
        "  hard   0.88  Prove that the sum converges",
        f"  simple 0.50  {'x' * 87}...",
    ]


def test_a_score_on_the_threshold_stays_small() -> None:
    explanation = Explanation(Decision(Role.SMALL, Cause.SCORE, 4.0), 4.0, "length", [])
    assert explanation.as_text("little") == "little (small): score 4.00 <= 4, by length"


def test_where_there_is_no_score_the_cause_is_told() -> None:
    explanation = Explanation(Decision(Role.LARGE, Cause.UNSCORED), 4.0, "head", [])
    assert explanation.as_text("big") == "big (large): unscored, by head"
    assert explanation.as_json()["score"] is None


def test_the_json_holds_the_whole_of_it() -> None:
    explanation = Explanation(Decision(Role.LARGE, Cause.SCORE, 7.251), 4.0, "head", NEAREST)
    assert explanation.as_json() == {
        "role": "large",
        "score": 7.251,
        "threshold": 4.0,
        "cause": "score",
        "scorer": "head",
        "nearest": [
            {"prompt": "Prove that\n\n the sum  converges", "label": "hard", "cosine": 0.876},
            {"prompt": "x" * 200, "label": "simple", "cosine": 0.5},
        ],
    }


@pytest.mark.parametrize("scorer", ["seeds", "length"])
def test_a_scorer_that_knows_no_examples_shows_none(scorer: str) -> None:
    explanation = explain(RouterConfig(scorer=scorer), "What is Python?")
    assert explanation.examples == []
    assert (explanation.decision.role, explanation.scorer) == (Role.SMALL, scorer)


def test_a_head_that_is_not_there_is_an_error_with_its_path() -> None:
    with pytest.raises(ConfigError, match=r"router.head: nowhere.npz can't be read \(No such file or directory\)"):
        explain(RouterConfig(head="nowhere.npz"), "hi")
