"""Cut from the middle, never padded to the file's 128, put together by length."""

import numpy as np
import pytest

from tierserve.config import EncoderConfig
from tierserve.router.embedding import weights
from tierserve.router.embedding.tokens import SentenceTokenizer, batches, shapes

FIRST, LAST = 101, 102  # [CLS] and [SEP]
FOLDER = weights.locate(EncoderConfig().model)


@pytest.fixture(scope="module")
def tokenizer() -> SentenceTokenizer:
    return SentenceTokenizer(FOLDER, max_tokens=32)


def test_a_text_is_framed_and_not_padded(tokenizer: SentenceTokenizer) -> None:
    (ids,) = tokenizer.ids(["What is Python?"])
    assert len(ids) == 6
    assert (ids[0], ids[-1]) == (FIRST, LAST)
    assert tokenizer.ids([""]) == [[FIRST, LAST]]


@pytest.mark.parametrize("words", [29, 30, 31, 500, 100_000])
def test_of_a_long_text_both_ends_are_read(tokenizer: SentenceTokenizer, words: int) -> None:
    start, end = "one " * 15, " two" * 15
    whole, (_, one, _), (_, two, _) = tokenizer.ids([start + "and " * (words - 30) + end, "one", "two"])
    assert len(whole) == 32
    assert whole.count(one) == 15
    assert whole.count(two) == 15


def test_what_stands_in_the_middle_of_a_long_text_counts_for_nothing(tokenizer: SentenceTokenizer) -> None:
    for size in (200, 100_000):
        middle = "word " * size
        text, other_middle, other_end, other_start = tokenizer.ids(
            [f"begin {middle} x {middle} end", f"begin {middle} y {middle} end", f"begin {middle} fin", middle + "end"]
        )
        assert text == other_middle
        assert text != other_end
        assert text != other_start


def test_megabytes_are_not_tokenized_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = SentenceTokenizer(FOLDER, max_tokens=32)
    tokenize, read = tokenizer._inner, []

    def watched(texts: list[str]) -> list[list[int]]:
        read.extend(texts)
        return tokenize(texts)

    monkeypatch.setattr(tokenizer, "_inner", watched)
    (ids,) = tokenizer.ids(["many words " * 1_000_000])
    assert len(ids) == 32
    assert sum(map(len, read)) <= 32 * 16


def test_texts_together_have_the_ids_they_have_alone(tokenizer: SentenceTokenizer) -> None:
    texts = ["short", "long " * 10_000, "", "some more words " * 20, "\ud800", "x" * 10_000]
    assert tokenizer.ids(texts) == [tokenizer.ids([text])[0] for text in texts]


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb" * 1000, "\x00", "🙂" * 5000, "\u202e\ufeff", " " * 100_000])
def test_any_text_has_ids(tokenizer: SentenceTokenizer, text: str) -> None:
    (ids,) = tokenizer.ids([text])
    assert 2 <= len(ids) <= 32


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
