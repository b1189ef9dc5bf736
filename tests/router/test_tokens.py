"""Cut from the middle, never padded to the file's 128, put together by length."""

import numpy as np
import pytest

from tierserve.config import EncoderConfig
from tierserve.router import weights
from tierserve.router.tokens import SentenceTokenizer, batches, shapes

FIRST, LAST = 101, 102  # [CLS] and [SEP]
FOLDER = weights.locate(EncoderConfig().model)


@pytest.fixture(scope="module")
def tokenizer() -> SentenceTokenizer:
    return SentenceTokenizer(FOLDER, max_tokens=32)


def test_a_text_is_framed_and_not_padded(tokenizer: SentenceTokenizer) -> None:
    ids = tokenizer.ids("What is Python?")
    assert len(ids) == 6
    assert (ids[0], ids[-1]) == (FIRST, LAST)
    assert tokenizer.ids("") == [FIRST, LAST]


@pytest.mark.parametrize("words", [29, 30, 31, 500, 100_000])
def test_of_a_long_text_both_ends_are_read(tokenizer: SentenceTokenizer, words: int) -> None:
    start, end = "one " * 15, " two" * 15
    whole = tokenizer.ids(start + "and " * (words - 30) + end)
    one, two = tokenizer.ids("one")[1], tokenizer.ids("two")[1]
    assert len(whole) == 32
    assert whole.count(one) == 15
    assert whole.count(two) == 15


def test_what_stands_in_the_middle_of_a_long_text_counts_for_nothing(tokenizer: SentenceTokenizer) -> None:
    for size in (200, 100_000):
        middle = "word " * size
        assert tokenizer.ids(f"begin {middle} x {middle} end") == tokenizer.ids(f"begin {middle} y {middle} end")
        assert tokenizer.ids(f"begin {middle} end") != tokenizer.ids(f"begin {middle} fin")
        assert tokenizer.ids(f"begin {middle} end") != tokenizer.ids(f"start {middle} end")


def test_megabytes_are_not_tokenized_whole(tokenizer: SentenceTokenizer) -> None:
    read: list[int] = []
    inner = tokenizer._inner

    class Watched(SentenceTokenizer):
        def _inner(self, text: str) -> list[int]:
            read.append(len(text))
            return inner(text)

    watched = Watched(FOLDER, max_tokens=32)
    read.clear()
    ids = watched.ids("many words " * 1_000_000)
    assert len(ids) == 32
    assert sum(read) <= 32 * 16


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb" * 1000, "\x00", "🙂" * 5000, "\u202e\ufeff", " " * 100_000])
def test_any_text_has_ids(tokenizer: SentenceTokenizer, text: str) -> None:
    assert 2 <= len(tokenizer.ids(text)) <= 32


def test_batches_hold_every_row_once_and_only_shapes_that_are_known() -> None:
    random = np.random.default_rng(0)
    known = set(shapes(256))
    for count in (1, 5, 32):
        sequences = [list(range(1, 1 + random.integers(2, 257))) for _ in range(count)]
        seen: list[int] = []
        for rows, ids, mask in batches(sequences):
            assert ids.shape == mask.shape
            assert ids.shape in known
            seen += rows
            for row, line, there in zip(rows, ids, mask, strict=True):
                assert list(line[: len(sequences[row])]) == sequences[row]
                assert there.sum() == len(sequences[row])
        assert sorted(seen) == list(range(count))


def test_a_short_text_does_not_pay_for_a_long_one() -> None:
    sizes = [ids.shape for _, ids, _ in batches([[1] * 250, [1] * 5, [1] * 6, [1] * 251])]
    assert sizes == [(2, 8), (1, 256), (1, 256)]
