"""The inside of a JSON string, split wherever it can be, against the standard library's parser."""

import json
import random
import re
from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tierserve.confidence.json_text import JsonText, without_surrogates

_HEX = st.text("0123456789abcdefABCDEF", min_size=4, max_size=4)
_PAIR = st.characters(min_codepoint=0x10000, max_codepoint=0x10FFFF).map(
    lambda character: "".join(rf"\u{unit:04x}" for unit in _utf16(character))
)
_HALF = st.integers(0xD800, 0xDFFF).map(lambda unit: rf"\u{unit:04X}")
# What a JSON string may hold, and raw control characters, which it may not, but which are read.
INSIDE = st.lists(
    st.one_of(
        st.text(st.characters(exclude_characters='"\\', exclude_categories=["Cs"]), max_size=3),
        st.sampled_from([r"\"", r"\\", r"\/", r"\b", r"\f", r"\n", r"\r", r"\t", "\n", "\x00", "\x7f"]),
        _HEX.map(r"\u{}".format),
        _PAIR,
        _HALF,
    ),
    max_size=8,
).map("".join)


def _utf16(character: str) -> Sequence[int]:
    raw = character.encode("utf-16-be")
    return [int.from_bytes(raw[at : at + 2]) for at in range(0, len(raw), 2)]


def expected(inside: str) -> str:
    return re.sub("[\ud800-\udfff]", "\N{REPLACEMENT CHARACTER}", json.loads(f'"{inside}"', strict=False))


def fed(*pieces: str) -> tuple[str, JsonText]:
    text = JsonText()
    return "".join(text.feed(piece) for piece in pieces), text


def cuts(text: str, seed: int) -> list[str]:
    places = sorted(random.Random(seed).choices(range(len(text) + 1), k=3))
    return [text[start:end] for start, end in zip([0, *places], [*places, len(text)], strict=True)]


@given(INSIDE)
@example(r"\ud83d" + "\n")
@example(r"\ud83d" + "\nA")
@example(r"\ud83d\ud83d\ude00")
@example(r"\ud83d\u0041\ude00")
@example(r"\ud83d\\ude00")
def test_at_every_split_it_is_what_a_parser_reads(inside: str) -> None:
    whole = inside + '"'
    for at in range(len(whole) + 1):
        read, text = fed(whole[:at], whole[at:])
        assert (read, text.ended, text.broken) == (expected(inside), True, False)


@given(INSIDE, st.integers(0, 1000))
def test_so_it_is_in_many_pieces_and_character_by_character(inside: str, seed: int) -> None:
    whole = inside + '"'
    for pieces in (cuts(whole, seed), whole):
        read, text = fed(*pieces)
        assert (read, text.ended, text.broken) == (expected(inside), True, False)


@given(INSIDE)
def test_what_was_given_is_never_taken_back_and_comes_as_soon_as_it_is_known(inside: str) -> None:
    """Of what was read at most an escape, or the first half of a pair and an escape, is held back."""
    text, read = JsonText(), ""
    for number, character in enumerate(inside, 1):
        read += text.feed(character)
        assert expected(inside).startswith(read)
        assert not text.ended and not text.broken
        known = re.match(r'(?:[^"\\]|\\[^u]|\\u[0-9a-fA-F]{4})*', inside[:number])
        assert known is not None
        certain = re.sub(r"\\u[dD][89abAB]..$", "", known[0])
        assert len(read) >= len(expected(certain))


@given(INSIDE, st.text(max_size=9))
def test_what_follows_the_closing_quote_is_not_the_string_s(inside: str, after: str) -> None:
    read, text = fed(inside + '"' + after, after, '"')
    assert (read, text.ended, text.broken) == (expected(inside), True, False)


@pytest.mark.parametrize(
    "bad", [r"\x", r"\u12g4", r"\ ", r"\u{41}", r"\U0041", r"\'", "\\\n", r"\ud83d\x", r"\ud83d\u0g"]
)
@given(before=INSIDE)
def test_what_can_t_be_a_json_string_is_broken_and_what_was_right_before_was_given(bad: str, before: str) -> None:
    for pieces in ([before + bad + 'more"'], [*before, *bad, *'more"']):
        read, text = fed(*pieces)
        assert text.broken and not text.ended
        assert expected(before).startswith(read.rstrip("\N{REPLACEMENT CHARACTER}"))
        assert text.feed('more"') == ""


@given(st.text(max_size=20), st.integers(0, 1000))
def test_no_text_makes_it_fail_or_depends_on_where_it_is_split(anything: str, seed: int) -> None:
    whole, pieces = fed(anything), fed(*cuts(anything, seed))
    assert whole[0] == pieces[0]
    assert (whole[1].ended, whole[1].broken) == (pieces[1].ended, pieces[1].broken)
    whole[0].encode()


@given(st.text(st.characters(categories=["Cs", "Lu", "So", "Cf"]), max_size=9))
@example("\ufeff\ud83d")
def test_only_halves_are_replaced(text: str) -> None:
    paired = text.encode("utf-16-be", "surrogatepass").decode("utf-16-be", "surrogatepass")
    assert without_surrogates(text) == re.sub("[\ud800-\udfff]", "\N{REPLACEMENT CHARACTER}", paired)
