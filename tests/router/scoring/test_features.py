import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tierserve.core import Prompt
from tierserve.router.scoring.features import NAMES, features

# st.characters() holds lone surrogates and NUL; the other half is what the patterns look for.
TEXTS = st.text(st.characters(), max_size=500) | st.text(st.sampled_from("aA1.,?!\\$%{};`\n\r ()=/\x00\ud800é٣²"))


def feature(name: str, text: str, turns: int = 1) -> float:
    return float(features(Prompt(text, turns))[NAMES.index(name)])


def count(name: str, text: str) -> int:
    return round(float(np.expm1(feature(name, text))))


@given(text=TEXTS, turns=st.integers(0, 1_000_000))
@example("", 0)
@example("\x00", 1)
@example("\ud800\udfff", 1)
def test_they_are_finite_for_any_text(text: str, turns: int) -> None:
    found = features(Prompt(text, turns))
    assert found.shape == (len(NAMES),)
    assert found.dtype == np.float32
    assert np.isfinite(found).all()
    assert (found >= 0).all()


@pytest.mark.timeout(10)
@pytest.mark.parametrize(
    "repeat", [".", "?!", "1.", "1", "\\", "\\a", "$", "`", "{", "\n", "A) ", "a", "a(", "x.", " ", "\x00"]
)
def test_two_hundred_times_megabytes_of_what_a_pattern_begins_with_are_read(repeat: str) -> None:
    """Seconds more are needed where each of thousands of marks reads on to the end of its run."""
    text = repeat * (1_000_000 // len(repeat)) + "x"
    prompt = Prompt(text + text)
    for _ in range(200):
        assert np.isfinite(features(prompt)).all()


def test_of_megabytes_both_ends_are_read_and_all_characters_counted() -> None:
    middle = "tea " * 500_000
    assert count("questions", "Why? " + middle + "Really?") == 2
    assert count("characters", middle) == pytest.approx(2_000_000, rel=1e-4)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("characters", "four", 4),
        ("words", "It's 2 words, isn't it? No: naïve 日本", 9),
        ("sentences", "One. Two?! Three... v1.2 e.g.x", 3),
        ("sentences", "No end", 0),
        ("numbers", "1,000.50 and 3 and 2.5", 3),
        ("digits", "1,000.50 and 3", 7),
        ("mathematics", r"\frac{a}{b} = 2", 2),
        ("code", "def f(x):\n    return {x};\n", 4),
        ("questions", "Who? What?", 2),
        ("lines", "a\nb\nc", 2),
        ("different_numbers", "3 and 3 and 4", 2),
        ("percentages", "5 % or 6%", 2),
        ("fractions", "1/2 of 0.5", 2),
        ("commas", "a, b, c", 2),
        ("choices", "Which?\nA) one\nB) two\nK) no choice", 2),
        ("negations", "Which is NOT false, except here", 3),
        ("quantities", "twice per day, if each", 4),
    ],
)
def test_what_is_counted(name: str, text: str, expected: int) -> None:
    assert count(name, text) == expected


def test_shares_and_lengths() -> None:
    assert feature("word_length", "a bbb") == 2
    assert feature("different_words", "The the cat cat") == 0.5
    assert feature("longest_word", "a " + "b" * 80) == 50
    assert feature("longest_number", "1 22 333") == 3
    assert feature("capitals", "AbCd") == 0.5
    assert feature("beyond_ascii", "日本ab") == 0.5


def test_turns_are_what_the_conversation_has() -> None:
    one, nine = features(Prompt("hi", 1)), features(Prompt("hi", 9))
    assert NAMES[-1] == "turns"
    assert np.expm1(nine[-1]) == pytest.approx(9, rel=1e-5)
    assert (one[:-1] == nine[:-1]).all()


def test_names_are_different() -> None:
    assert len(set(NAMES)) == len(NAMES)
