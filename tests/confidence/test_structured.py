"""The structured form: read while it is written and as a whole, asked for, and held to by the real grammar compiler."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierserve.confidence.structured import (
    INSTRUCTIONS,
    PATTERNS,
    Answer,
    Position,
    Reader,
    grammar,
    instructed,
    read,
)

TEXTS = [
    "",
    "Oslo",
    'a "quoted" \\ word',
    "two\nlines\t",
    "Häß 漢字 😀",
    '{"confidence": 0.99, "content": "x"}',
    '"}',
    "\\",
]
JSONS: list[Any] = [
    {},
    [],
    {"a": {"b": [1, {"c": "}"}]}},
    [[]],
    "}",
    'x", "confidence": 0.9}',
    0,
    -1.5e3,
    True,
    None,
    "😀",
]
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=6,
)
hundredths = st.integers(0, 100)


def first(confidence: str, content: str) -> str:
    return f'{{"confidence": {confidence}, "content": {content}}}'


def last(confidence: str, content: str) -> str:
    return f'{{"content": {content}, "confidence": {confidence}}}'


def heard(pieces: Sequence[str], is_json: bool = False) -> tuple[str, Reader]:
    """All that is given, taken after each piece, and the reader at the end."""
    reader, taken = Reader(is_json), ""
    for piece in pieces:
        reader.feed(piece)
        taken += reader.take()
    reader.end()
    return taken + reader.take(), reader


def splits(whole: str) -> list[list[str]]:
    return [[whole[:at], whole[at:]] for at in range(len(whole) + 1)] + [list(whole)]


@given(text, hundredths, st.booleans())
def test_a_text_is_read_alike_wherever_it_is_split(content: str, hundredth: int, ascii: bool) -> None:
    for pieces in splits(first(f"{hundredth / 100:.2f}", json.dumps(content, ensure_ascii=ascii))):
        taken, reader = heard(pieces)
        assert (taken, reader.confidence, reader.broken) == (content, hundredth / 100, False)
        assert reader.begun == bool(content.strip())


@pytest.mark.parametrize("content", TEXTS)
def test_a_content_that_looks_like_the_form_is_a_content(content: str) -> None:
    for pieces in splits(first("0.25", json.dumps(content))):
        taken, reader = heard(pieces)
        assert (taken, reader.confidence, reader.broken) == (content, 0.25, False)


@given(values, hundredths, st.sampled_from([None, 1]))
def test_json_is_given_verbatim_wherever_it_is_split(value: Any, hundredth: int, indent: int | None) -> None:
    content = json.dumps(value, ensure_ascii=False, indent=indent)
    for pieces in splits(first(f"{hundredth / 100:.2f}", content)):
        taken, reader = heard(pieces, is_json=True)
        assert (taken, reader.confidence, reader.broken, reader.begun) == (content, hundredth / 100, False, True)


@pytest.mark.parametrize("value", JSONS, ids=str)
def test_json_that_was_cut_off_is_given_as_far_as_it_came(value: Any) -> None:
    content = json.dumps(value, ensure_ascii=False)
    start = first("0.50", "")[:-1]
    for at in range(1, len(content) + 1):
        for pieces in splits(start + content[:at]):
            assert heard(pieces, is_json=True)[0] == content[:at]


@given(values, text, hundredths)
def test_a_content_before_its_confidence_is_read_alike_wherever_it_is_split(
    value: Any, content: str, hundredth: int
) -> None:
    for is_json, written in ((True, json.dumps(value)), (False, json.dumps(content))):
        for pieces in splits(last(f"{hundredth / 100:.2f}", written)):
            reader, taken = Reader(is_json, Position.LAST), ""
            for piece in pieces:
                reader.feed(piece)
                taken += reader.take()
            reader.end()
            assert (taken, reader.confidence, reader.broken) == (written if is_json else content, None, False)


@given(values)
def test_what_follows_json_is_the_form_s(value: Any) -> None:
    content = json.dumps(value)
    for end in (" }", "}\n", "\n}\n", "} and more", "}}"):
        for pieces in splits(first("0.50", content)[:-1] + end):
            assert heard(pieces, is_json=True)[0] == content


def test_a_text_that_was_cut_off_is_given_as_far_as_it_is_known() -> None:
    whole = first("0.50", r'"ab\n\ud83d\ude00c"')
    known = [(r'"ab\n\ud83d\ude00c', "ab\n😀c"), (r'"ab\n\ud83d\ude0', "ab\n"), (r'"ab' + "\\", "ab"), ('"', "")]
    for written, content in known:
        taken, reader = heard([whole[: whole.index('"ab')] + written])
        assert (taken, reader.confidence, reader.broken) == (content, 0.5, False)


@pytest.mark.parametrize("is_json", [False, True])
def test_an_answer_cut_off_before_its_content_is_not_of_the_form(is_json: bool) -> None:
    start = first("0.50", "")[:-1]
    for at in range(len(start) + 1):
        taken, reader = heard(list(start[:at]), is_json)
        assert (taken, reader.broken, reader.begun) == ("", True, False)


@pytest.mark.parametrize(("number", "confidence"), [("1", 1.0), ("0", 0.0), ("0.123456", 0.123456), ("0.5", 0.5)])
@pytest.mark.parametrize("form", [' {{\n "confidence"\t:{} ,"content" :\r\n"a"}}', '{{"confidence":{},"content":"a"}}'])
def test_white_space_and_other_numbers_are_read(form: str, number: str, confidence: float) -> None:
    whole = form.format(number)
    assert read(whole) == Answer("a", confidence)
    for pieces in splits(whole):
        taken, reader = heard(pieces)
        assert (taken, reader.confidence, reader.broken) == ("a", confidence, False)


@pytest.mark.parametrize("number", ["-0.01", "1.01", "85", "-1", "9" * 20])
def test_a_number_that_is_no_confidence_states_none(number: str) -> None:
    assert read(first(number, '"a"')) == Answer("a", None)
    for pieces in splits(first(number, '"a"')):
        taken, reader = heard(pieces)
        assert (taken, reader.confidence, reader.broken) == ("a", None, False)


@pytest.mark.parametrize(
    "whole",
    [
        "Oslo",
        "",
        "[]",
        '{"content": "a", "confidence": 0.50}',
        '{"confidence": "0.50", "content": "a"}',
        '{"confidence": .5, "content": "a"}',
        '{"confidence": 0.50, "answer": "a"}',
        '{"confidence": 0.50, "content": a}',
        '{"confidence": 0.50, "content": {}}',
        '{"confidence": 0.50, "content": null}',
        r'{"confidence": 0.50, "content": "\x"}',
        "{" + " " * 500,
        '{"confidence": 0.' + "5" * 500,
    ],
)
def test_what_is_not_the_form_is_broken_and_nothing_of_it_is_given(whole: str) -> None:
    for pieces in splits(whole):
        taken, reader = heard(pieces)
        assert (taken, reader.broken) == ("", True)


def test_a_model_that_never_comes_to_the_form_is_found_out_before_it_ends() -> None:
    reader = Reader()
    reader.feed("I would say that the answer to this question, as far as anybody can know it, may well be")
    assert reader.broken


@given(text, hundredths)
def test_a_whole_answer_is_read_whichever_its_order(content: str, hundredth: int) -> None:
    for write in (first, last):
        assert read(write(f"{hundredth / 100:.2f}", json.dumps(content))) == Answer(content, hundredth / 100)


@given(values)
def test_a_whole_answer_s_json_is_verbatim(value: Any) -> None:
    for content in (json.dumps(value), json.dumps(value, indent=2), json.dumps(value, separators=(",", ":"))):
        for write in (first, last):
            assert read(write("0.75", content), is_json=True) == Answer(content, 0.75)


@given(st.text(max_size=30) | st.sampled_from(TEXTS).map(json.dumps).map(lambda content: last("0.50", content)[:-2]))
def test_whatever_stands_there_reading_it_does_not_fail(anything: str) -> None:
    for is_json in (False, True):
        read(anything, is_json)
        for pieces in splits(anything):
            heard(pieces, is_json)


@pytest.mark.parametrize(
    "whole",
    [
        "",
        "Oslo",
        last("0.50", '"Oslo')[:20],
        '{"confidence": 0.50}',
        '{"content": "a", "confidence": 0.50, "more": 1}',
        '{"content": 3, "confidence": 0.50}',
        '["content"]',
        "[" * 100_000,
    ],
    ids=lambda whole: whole[:20],
)
def test_what_is_no_whole_answer_is_none(whole: str) -> None:
    assert read(whole) is None


@pytest.mark.parametrize("stated", ['"0.9"', "true", "NaN", "Infinity", "null", "2", "-0.1", "1e400"])
def test_a_whole_answer_that_states_no_confidence_has_none(stated: str) -> None:
    assert read(last(stated, '"a"')) == Answer("a", None)
    assert read('{"content": "a"}') == Answer("a", None)


def test_halves_of_pairs_do_not_get_out() -> None:
    assert read(last("0.50", r'"a\ud83d"')) == Answer("a\N{REPLACEMENT CHARACTER}", 0.5)
    assert heard([first("0.50", r'"a\ud83d!"')])[0] == "a\N{REPLACEMENT CHARACTER}!"


USER = {"role": "user", "content": "hi"}


@pytest.mark.parametrize("position", Position)
@pytest.mark.parametrize("role", ["system", "developer"])
def test_the_instructions_stand_at_the_end_of_the_system_s(position: Position, role: str) -> None:
    said = INSTRUCTIONS[position]
    for content in ("Be brief.", [{"type": "text", "text": "Be brief."}]):
        system = {"role": role, "content": content, "name": "n"}
        assert instructed([system, USER], position) == [system | {"content": f"Be brief.\n\n{said}"}, USER]
        assert system["content"] is content, "the caller's own message was written into"
    parts = [{"type": "text", "text": "A."}, {"type": "text", "text": ""}, {"type": "text", "text": "B."}]
    assert instructed([{"role": role, "content": parts}], position)[0]["content"] == f"A.\n\nB.\n\n{said}"


@pytest.mark.parametrize("position", Position)
def test_without_a_system_s_message_they_stand_before_all_others(position: Position) -> None:
    expected = {"role": "system", "content": INSTRUCTIONS[position]}
    assert instructed([USER], position) == [expected, USER]
    for nothing in ({"role": "system", "content": None}, {"role": "system", "content": ""}, {"role": "system"}):
        assert instructed([nothing, USER], position) == [expected, USER]


def takes(grammar: Mapping[str, Any]) -> Any:
    """Whether xgrammar, which vLLM decodes with, takes a whole text, byte by byte as it would a token."""
    xgrammar = pytest.importorskip("xgrammar")
    if "regex" in grammar:
        compiled = xgrammar.Grammar.from_regex(grammar["regex"])
    else:
        compiled = xgrammar.Grammar.from_structural_tag(grammar["structural_tag"])
    vocabulary = [bytes([byte]) for byte in range(256)] + [b"</s>"]
    tokenizer = xgrammar.TokenizerInfo(vocabulary, stop_token_ids=[256])
    context = xgrammar.GrammarCompiler(tokenizer).compile_grammar(compiled)

    def accepts(text: str) -> bool:
        matcher = xgrammar.GrammarMatcher(context)
        return all(matcher.accept_token(byte) for byte in text.encode()) and matcher.accept_token(256)

    return accepts


@pytest.fixture(scope="module", params=Position)
def of_text(request: pytest.FixtureRequest) -> tuple[Position, Any]:
    return request.param, takes(grammar(request.param, None))


def test_the_grammar_takes_the_form_whatever_the_content(of_text: tuple[Position, Any]) -> None:
    position, accepts = of_text
    write = first if position is Position.FIRST else last
    for content in TEXTS:
        for confidence in ("0.00", "0.87", "1.00"):
            for ascii in (False, True):
                whole = write(confidence, json.dumps(content, ensure_ascii=ascii))
                assert accepts(whole)
                assert re.fullmatch(PATTERNS[position], whole)
                assert read(whole) == Answer(content, float(confidence))


def test_the_grammar_takes_nothing_else(of_text: tuple[Position, Any]) -> None:
    position, accepts = of_text
    write, other = (first, last) if position is Position.FIRST else (last, first)
    for whole in (
        other("0.50", '"a"'),
        *(write(number, '"a"') for number in ("0.5", "1.01", "0.500", "-0.50", ".50", "1", '"0.50"', "null")),
        *(write("0.50", content) for content in ("1", "{}", '"a" ', '"a', '"\n"', r'"\x"', r'"\u12"', "")),
        write("0.50", '"a"') + "\n",
        write("0.50", '"a"')[:-1],
    ):
        assert not accepts(whole), whole


TREE = {
    "$defs": {
        "node": {
            "type": "object",
            "properties": {
                "name": {"$ref": "#/$defs/name"},
                "children": {"type": "array", "items": {"$ref": "#/$defs/node"}},
            },
            "required": ["name", "children"],
            "additionalProperties": False,
        },
        "name": {"enum": ["Oslo", "漢", 'a "b"']},
    },
    "$ref": "#/$defs/node",
}


@pytest.mark.parametrize("position", Position)
def test_a_schema_s_own_references_hold_inside_the_form(position: Position) -> None:
    accepts, write = takes(grammar(position, TREE)), first if position is Position.FIRST else last
    good = {"name": "漢", "children": [{"name": 'a "b"', "children": []}]}
    whole = write("0.40", json.dumps(good, ensure_ascii=False))
    assert accepts(whole)
    answer = read(whole, is_json=True)
    assert answer is not None and json.loads(answer.content) == good
    for bad in ({"name": "Rome", "children": []}, {"name": "Oslo"}, {"name": "Oslo", "children": [{}]}, [], "a"):
        assert not accepts(write("0.40", json.dumps(bad)))
    assert not accepts(write("0.4", json.dumps(good, ensure_ascii=False)))
    assert not accepts(json.dumps(good, ensure_ascii=False))


@pytest.mark.parametrize("schema", [{"type": "object"}, {}, True], ids=str)
def test_any_object_is_one_inside_the_form_and_white_space_ends(schema: Any) -> None:
    accepts = takes(grammar(Position.FIRST, schema))
    assert accepts(first("0.50", '{"a": [1, {"b": null}]}'))
    assert not accepts(first("0.50", '{"a":' + " " * 20 + "1}"))
