import gzip
import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import ROOT
from tests.quality.conftest import outcomes
from tierserve.core import Prompt
from tierserve.errors import ConfigError
from tierserve.quality.outcomes import Outcomes, read_outcomes

ROW = {"prompt": "What is 2 + 2?", "small_score": 0, "large_score": 1}


def written(path: Path, *rows: Any) -> Path:
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    data = text.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_plain_and_gzipped_rows_are_read_alike(name: str, tmp_path: Path) -> None:
    full = {
        "prompt": "日本 \ud800",
        "small_score": 0.25,
        "large_score": True,
        "turns": 3,
        "source": "s",
        "category": "c",
    }
    read = read_outcomes([written(tmp_path / name, ROW, "", full, "  ")])
    assert read.prompts == (Prompt("What is 2 + 2?"), Prompt("日本 \ud800", 3))
    assert read.small.tolist() == [0, 0.25]
    assert read.large.tolist() == [1, 1]
    assert read.gain.tolist() == [1, 0.75]
    assert read.sources.tolist() == ["a", "s"]  # the file's name, where a row has none
    assert read.categories.tolist() == ["", "c"]


def test_rows_of_all_files_come_in_order(tmp_path: Path) -> None:
    read = read_outcomes([written(tmp_path / "b.jsonl", ROW), written(tmp_path / "a.jsonl.gz", ROW, ROW)])
    assert read.sources.tolist() == ["b", "a", "a"]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("{", "is not JSON"),
        ("\ufeff" + json.dumps(ROW), "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ('{"prompt": "x", "small_score": ' + "9" * 5000 + "}", "is not JSON"),
        ([1], "has no `prompt`"),
        ("null", "has no `prompt`"),
        (ROW | {"prompt": None}, "has no `prompt`"),
        (ROW | {"prompt": " \n"}, "has no `prompt`"),
        (ROW | {"prompt": ["x"]}, "has no `prompt`"),
        ({"prompt": "x", "large_score": 1}, "`small_score` must be a number from 0 to 1 (it is None)"),
        ({"prompt": "x", "small_score": 1}, "`large_score` must be a number from 0 to 1 (it is None)"),
        (ROW | {"small_score": "1"}, "`small_score` must be a number from 0 to 1 (it is '1')"),
        (ROW | {"small_score": 1.01}, "`small_score` must be a number from 0 to 1 (it is 1.01)"),
        (ROW | {"large_score": -1}, "`large_score` must be a number from 0 to 1 (it is -1)"),
        (ROW | {"large_score": float("nan")}, "`large_score` must be a number from 0 to 1 (it is nan)"),
        (ROW | {"large_score": float("inf")}, "`large_score` must be a number from 0 to 1 (it is inf)"),
        (ROW | {"large_score": 10**400}, "`large_score` must be a number from 0 to 1 (it is 1000"),
        (ROW | {"turns": 0}, "`turns` must be a number from 1"),
        (ROW | {"turns": 1.5}, "`turns` must be a number from 1"),
        (ROW | {"turns": "2"}, "`turns` must be a number from 1"),
        (ROW | {"turns": 10**400}, "`turns` must be a number from 1"),
    ],
    ids=lambda value: repr(value)[:60],
)
def test_a_bad_row_is_named_with_file_line_and_remedy(row: Any, problem: str, tmp_path: Path) -> None:
    for name in ("rows.jsonl", "rows.jsonl.gz"):
        path = written(tmp_path / name, ROW, "", row, ROW)
        with pytest.raises(ConfigError) as error:
            read_outcomes([path])
        assert str(error.value).startswith(f"{path}:3: ")
        assert problem in error.value.problem
        assert error.value.remedy


def test_files_that_can_t_be_read_are_named(tmp_path: Path) -> None:
    no_gzip = tmp_path / "a.jsonl.gz"
    no_gzip.write_text(json.dumps(ROW))
    cut = tmp_path / "b.jsonl.gz"
    cut.write_bytes(gzip.compress(json.dumps(ROW).encode() * 99)[:-12])
    no_text = tmp_path / "c.jsonl"
    no_text.write_bytes(gzip.compress(json.dumps(ROW).encode()))
    for path in (no_gzip, cut, no_text, tmp_path / "absent.jsonl", tmp_path):
        with pytest.raises(ConfigError, match=r"can't be read \(.*\) — name a file of JSON Lines") as error:
            read_outcomes([path])
        assert error.value.where == str(path)


def test_each_byte_of_a_gzipped_file_that_is_damaged_is_noticed_or_does_no_harm(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl.gz", *({**ROW, "prompt": f"What is {n} + {n * n}?"} for n in range(50)))
    content, before = path.read_bytes(), read_outcomes([path]).prompts
    refused = 0
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        try:
            assert read_outcomes([path]).prompts == before
        except ConfigError:
            refused += 1
    assert refused > len(content) / 2


def test_no_rows_are_an_error(tmp_path: Path) -> None:
    for name in ("empty.jsonl", "blank.jsonl.gz"):
        with pytest.raises(ConfigError, match=rf"{name}: holds no outcomes — rows look like"):
            read_outcomes([written(tmp_path / name, "", " ")])
    (tmp_path / "none.jsonl").touch()
    with pytest.raises(ConfigError, match="holds no outcomes"):
        read_outcomes([tmp_path / "none.jsonl"])


def rows(*prompts: str) -> Outcomes:
    return outcomes(prompts, np.zeros(len(prompts)), np.ones(len(prompts)))


SAME = (
    "Which gas do plants take up?",
    "which GAS do plants  take up",
    "Which gas do plants take up?\nA) Oxygen\nB) Carbon dioxide",
    "Which gas do plants take up?\n\n\nA. Nitrogen\nB. Oxygen\nC. Argon\nD. Carbon dioxide",
)


def test_a_question_is_one_whatever_its_choices_case_and_punctuation() -> None:
    asked = rows(*SAME, "Which gas do animals take up?").questions()
    assert len(set(asked[:4])) == 1
    assert asked[4] != asked[0]


def test_prompts_without_a_word_are_questions_of_their_own() -> None:
    assert len(set(rows("???", "!", "+", "\nA) x").questions())) == 4


@given(st.lists(st.sampled_from([*SAME, "b", "c?", "C", "d", "e", "\ud800", "?"]), min_size=1), st.integers(1, 5))
def test_a_fold_never_divides_a_question(texts: list[str], count: int) -> None:
    drawn = rows(*texts)
    folds, asked = drawn.folds(count, seed=1), drawn.questions()
    assert set(folds) <= set(range(count))
    for question in set(asked):
        assert len(set(folds[asked == question])) == 1
    assert (folds == rows(*texts).folds(count, seed=1)).all()


def test_folds_are_alike_in_size_and_follow_the_seed() -> None:
    many = rows(*(f"Question {n}" for n in range(103)))
    first, second = many.folds(5, 0), many.folds(5, 1)
    assert sorted(np.bincount(first)) == sorted(np.bincount(second)) == [20, 20, 21, 21, 21]
    assert (first != second).any()


def test_folds_do_not_depend_on_the_order_of_rows() -> None:
    texts = [f"Question {n}" for n in range(50)]
    forth, back = rows(*texts).folds(3, 0), rows(*reversed(texts)).folds(3, 0)
    assert forth.tolist() == back[::-1].tolist()


def test_no_rows_fall_into_no_folds() -> None:
    assert rows("a", "b")[np.zeros(2, bool)].folds(2, 0).tolist() == []


def test_rows_are_picked_by_mask_and_by_index() -> None:
    all_ = outcomes(["a", "b", "c"], [0, 0.5, 1], [1, 1, 1], ["x", "y", "z"])
    for chosen in (all_[np.array([True, False, True])], all_[np.array([0, 2])]):
        assert [prompt.text for prompt in chosen.prompts] == ["a", "c"]
        assert chosen.small.tolist() == [0, 1]
        assert chosen.sources.tolist() == ["x", "z"]
    assert len(all_) == 3


def test_one_long_prompt_does_not_cost_its_length_for_every_row() -> None:
    some = rows(*(f"Question {n}" for n in range(1000)), "long " * 100_000)
    tracemalloc.start()
    some.folds(2, 0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 50e6


@pytest.mark.timeout(20)
def test_megabytes_of_line_ends_are_one_question() -> None:
    assert len(set(rows("x" + "\n" * 1_000_000 + "y", "X " + "\n" * 2_000_000 + "y").questions())) == 1


def test_the_mix_is_of_its_promised_composition() -> None:
    mix = read_outcomes([ROOT / "benchmarks" / "traffic.jsonl"])
    assert len(mix) >= 300
    assert len({prompt.text for prompt in mix.prompts}) == len(set(mix.questions())) == len(mix)
    everyday = np.isin(mix.categories, ["intent", "lookup", "format", "follow-up", "faq"])
    assert everyday.mean() == pytest.approx(0.64, abs=0.02)
    assert set(mix.gain) == {0, 1}
    assert (mix.gain[everyday] == 0).all()
    hard = np.isin(mix.categories, ["algorithm", "system", "proof", "reasoning"])
    assert (hard == (mix.gain > 0)).all()
    assert 0.10 < hard.mean() < 0.20
