"""The questions: graded exactly, drawn alike from the same seed, and no content in two splits."""

import json
from random import Random

import pytest

from tierserve.lab.question import Question, Split, split_of
from tierserve.lab.tasks import FAMILIES, KINDS, MIX, SIMPLE, draw, mix


@pytest.mark.parametrize(("family", "level"), KINDS)
def test_an_answer_of_its_own_is_right_and_another_one_wrong(family: str, level: int) -> None:
    rng = Random(f"{family} {level}")
    for _ in range(30):
        question = draw(rng, Split.TRAIN, family, level)
        assert question.is_right(question.answer)
        assert question.is_right(f" {question.answer}.\n")
        assert not question.is_right("")
        assert not question.is_right(question.answer + "x")
        assert not question.is_right("I do not know.")


def test_there_are_eight_families_and_more() -> None:
    assert len(FAMILIES) >= 8


def test_splits_share_no_content() -> None:
    contents = {split: set() for split in Split}
    for split in Split:
        rng = Random(f"contents {split}")
        for _ in range(4000):
            question = draw(rng, split, *rng.choice(KINDS))
            contents[split].add((question.family, question.content))
            assert split_of(question.family, question.content) is split
    assert not contents[Split.TRAIN] & contents[Split.HELD_OUT]
    assert not contents[Split.TRAIN] & contents[Split.CALIBRATION]
    assert not contents[Split.CALIBRATION] & contents[Split.HELD_OUT]


def test_splits_share_no_prompt() -> None:
    held_out = {question.prompt for question in mix(Split.HELD_OUT, 2000, seed=1)}
    assert not held_out & {question.prompt for question in mix(Split.TRAIN, 6000, seed=1)}


def test_a_content_keeps_its_split_whatever_the_wording() -> None:
    rng = Random(3)
    seen: dict[tuple[str, str], set[Split]] = {}
    prompts: dict[tuple[str, str], set[str]] = {}
    for _ in range(30_000):
        split = rng.choice(list(Split))
        question = draw(rng, split, "total", 2)
        seen.setdefault((question.family, question.content), set()).add(split)
        prompts.setdefault((question.family, question.content), set()).add(question.prompt)
    assert all(len(splits) == 1 for splits in seen.values())
    assert max(map(len, prompts.values())) > 1


def test_the_same_seed_draws_the_same_mix() -> None:
    assert mix(Split.HELD_OUT, 200, seed=4) == mix(Split.HELD_OUT, 200, seed=4)
    assert mix(Split.HELD_OUT, 200, seed=4) != mix(Split.HELD_OUT, 200, seed=5)


def test_the_mix_is_64_percent_simple() -> None:
    questions = mix(Split.CALIBRATION, 4000, seed=0)
    share = sum((question.family, question.level) in SIMPLE for question in questions) / len(questions)
    assert share == pytest.approx(0.64, abs=0.03)
    assert sum(share for kind, share in MIX.items() if kind in SIMPLE) == pytest.approx(64)
    assert sum(MIX.values()) == pytest.approx(100)


def test_the_mix_repeats_no_prompt_and_spreads_to_hard() -> None:
    questions = mix(Split.CALIBRATION, 2000, seed=0)
    assert len({question.prompt for question in questions}) == len(questions)
    assert {question.family for question in questions} == {family for family, _ in MIX}
    assert max(question.difficulty for question in questions) >= 6


def test_wording_varies() -> None:
    rng = Random(0)
    for family, level in KINDS:
        openings = {tuple(draw(rng, Split.TRAIN, family, level).prompt.split(" ")[:2]) for _ in range(200)}
        assert len(openings) >= 3, family


def _question(family: str, answer: str) -> Question:
    return Question(family, 1, 1.0, Split.TRAIN, "", "", answer)


def test_json_is_compared_by_value() -> None:
    question = _question("form", json.dumps({"name": "Anna", "age": 31}))
    assert question.is_right('{"age":31,"name":"Anna"}')
    assert not question.is_right('{"age":32,"name":"Anna"}')
    assert not question.is_right('{"age":31,"name":"Anna"')


def test_of_a_working_the_end_counts() -> None:
    question = _question("steps", "9, 15, 30")
    assert question.is_right("30")
    assert question.is_right("8, 15, 30")
    assert not question.is_right("9, 15, 31")
    assert not question.is_right("9, 15")
