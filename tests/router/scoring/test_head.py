"""Heads made by hand, where the arithmetic is looked at; the one that is shipped, where its judgement is."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests.conftest import ROOT
from tierserve.core import Prompt
from tierserve.errors import ConfigError
from tierserve.quality.fit import Fitted
from tierserve.quality.outcomes import Outcomes, read_outcomes
from tierserve.router.embedding.encoder import SentenceEncoder
from tierserve.router.scoring.features import NAMES, features
from tierserve.router.scoring.head import DEFAULT, Head, gelu
from tierserve.router.scoring.seeds import COMPLEX, SIMPLE

FLOATS = st.floats(width=32)  # NaN and infinities too
TEXTS = st.text(st.characters(), max_size=300)  # lone surrogates too


def small_head(dimensions: int = 6, own: int = 2, hidden: int = 3, landmarks: int = 2, seed: int = 0) -> Head:
    """Every part of a head at work, with weights out of a hat."""
    rng, d = np.random.default_rng(seed), dimensions + len(NAMES)

    def some(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    known = some(5, own)
    return Head(
        center=some(d),
        scale=np.abs(some(d)),
        slopes=some(d) / 10,
        net_in=some(d, hidden) / 10,
        net_bias=some(hidden),
        net_out=some(hidden),
        landmarks=some(landmarks, dimensions),
        landmark_weights=some(landmarks),
        width=np.array(1, np.float32),
        calibration=np.array([0.7, -0.3], np.float32),
        everyday=some(d + 1) / 10,
        everyday_hard=some(d + 1) / 10,
        example_texts=np.array([f"example {number}" for number in range(5)]),
        example_hard=np.array([True, False, True, False, False]),
        example_vectors=known / np.linalg.norm(known, axis=1, keepdims=True),
        threshold=np.array(4, np.float32),
        note=np.array("made by hand"),
    )


SMALL, SHIPPED = small_head(), Head.load(DEFAULT)


@given(text=TEXTS, vector=arrays(np.float32, 6, elements=FLOATS), turns=st.integers(1, 1000))
def test_the_score_is_finite_and_within_0_and_10_for_any_text_and_vector(
    text: str, vector: np.ndarray, turns: int
) -> None:
    with np.errstate(all="ignore"):
        score = SMALL.score(Prompt(text, turns), vector)
    assert 0 <= score <= 10
    assert np.isfinite(vector).all() or score == 10


@settings(max_examples=50)
@given(text=TEXTS, vector=arrays(np.float32, SHIPPED.dimensions, elements=FLOATS, fill=FLOATS))
def test_nor_does_the_shipped_head_leave_0_to_10(text: str, vector: np.ndarray) -> None:
    with np.errstate(all="ignore"):
        assert 0 <= SHIPPED.score(Prompt(text), vector) <= 10


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.characters(), max_size=2000))
def test_nor_with_the_real_encoder_s_vectors(encoder: SentenceEncoder, text: str) -> None:
    assert 0 <= SHIPPED.score(Prompt(text), encoder.encode([text])[0]) <= 10


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38, -3e38])
@pytest.mark.parametrize("place", [0, 400, 1151])
def test_a_vector_that_is_not_finite_scores_10_wherever_it_is_not(value: float, place: int) -> None:
    vector = np.zeros(SHIPPED.dimensions, np.float32)
    vector[place] = value
    with np.errstate(all="ignore"):
        score = SHIPPED.score(Prompt("What is Python?"), vector)
    assert score == 10 if not np.isfinite(value) else 0 <= score <= 10


def test_scores_of_many_are_the_scores_of_each(traffic: Fitted) -> None:
    together = SHIPPED.scores(traffic.vectors, traffic.surface())
    assert together.shape == (len(traffic.outcomes),)
    each = [SHIPPED.score(*row) for row in zip(traffic.outcomes.prompts, traffic.vectors, strict=True)]
    assert together == pytest.approx(np.array(each), abs=1e-3)


def test_the_score_is_the_two_experts_shared_by_what_is_everyday() -> None:
    prompt, vector = Prompt("What is 2 + 2?"), np.full(6, 0.3, np.float32)
    x = (np.concatenate([vector, features(prompt)]).astype(np.float64) - SMALL.center) * SMALL.scale

    def logistic(logit: float) -> float:
        return float(1 / (1 + np.exp(-logit)))

    hidden = SMALL.net_bias + x @ SMALL.net_in
    unit = x[:6] / np.linalg.norm(x[:6])
    kernel = [np.exp(-2 * (1 - unit @ landmark)) for landmark in SMALL.landmarks]
    rank = x @ SMALL.slopes + gelu(hidden) @ SMALL.net_out + kernel @ SMALL.landmark_weights
    everyday, hard = (logistic(x @ w[:-1] + w[-1]) for w in (SMALL.everyday, SMALL.everyday_hard))
    expected = 10 * (everyday * hard + (1 - everyday) * logistic(0.7 * rank - 0.3))
    assert SMALL.score(prompt, vector) == pytest.approx(expected, abs=1e-3)


def test_parts_that_are_empty_count_for_nothing() -> None:
    none = small_head(hidden=0, landmarks=0)
    inputs = np.ones((3, len(none.center)), np.float32)
    assert none.rank(inputs) == pytest.approx(inputs @ none.slopes)


@settings(deadline=None)  # the first one imports torch
@given(arrays(np.float32, 20, elements=st.floats(-20, 20, width=32)))
def test_gelu_is_torch_s_tanh_form(values: np.ndarray) -> None:
    import torch

    expected = torch.nn.functional.gelu(torch.from_numpy(values), approximate="tanh").numpy()
    assert gelu(values) == pytest.approx(expected, abs=1e-5)


def test_the_nearest_come_first() -> None:
    vector = np.array([1, 0, 9, 9, 9, 9], np.float32)  # of which the first two are the sentence's own
    nearest = SMALL.nearest(vector, 3)
    cosines = [each.cosine for each in nearest]
    assert cosines == sorted(SMALL.example_vectors[:, 0], reverse=True)[:3]
    for each in nearest:
        number = int(each.text.removeprefix("example "))
        assert each.hard == (number in (0, 2))
        assert each.cosine == pytest.approx(SMALL.example_vectors[number, 0])


def test_no_more_examples_are_near_than_there_are() -> None:
    vector = np.zeros(6, np.float32)
    assert len(SMALL.nearest(vector, 99)) == 5
    assert SMALL.nearest(vector, 0) == []
    none = replace(SMALL, example_texts=np.zeros(0, np.str_), example_vectors=np.zeros((0, 2), np.float32))
    assert none.nearest(vector, 3) == []


def test_a_saved_head_scores_alike(tmp_path: Path) -> None:
    path = tmp_path / "head.npz"
    rng = np.random.default_rng(0)
    vectors, texts = rng.normal(size=(500, 6)).astype(np.float32) / 2, [f"Prompt {n}? " * (n % 40) for n in range(500)]
    surface = np.stack([features(Prompt(text)) for text in texts])
    SMALL.save(path)
    loaded = Head.load(path)
    assert np.abs(loaded.scores(vectors, surface) - SMALL.scores(vectors, surface)).max() < 0.01
    assert loaded.example_texts.tolist() == SMALL.example_texts.tolist()
    assert loaded.example_hard.tolist() == SMALL.example_hard.tolist()
    assert (str(loaded.note), float(loaded.threshold)) == ("made by hand", 4)
    assert all(getattr(loaded, name).dtype != np.float16 for name in Head.__slots__)


def test_a_head_is_saved_to_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.npz", "b.npz"):
        SMALL.save(tmp_path / name)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_each_byte_that_is_damaged_is_noticed_or_does_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "head.npz"
    SMALL.save(path)
    content, vector = path.read_bytes(), np.full(6, 0.3, np.float32)
    before, refused = SMALL.score(Prompt("hi"), vector), 0
    for place in range(0, len(content), 5):
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        try:
            assert Head.load(path).score(Prompt("hi"), vector) == pytest.approx(before, abs=0.01)
        except ConfigError as error:
            assert str(path) in str(error)
            refused += 1
    assert refused > len(content) / 5 / 2


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.9, 0.999])
def test_a_file_that_is_cut_short_is_refused_with_a_remedy(share: float, tmp_path: Path) -> None:
    path = tmp_path / "head.npz"
    content = DEFAULT.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(
        ConfigError, match=r"router.head: .*head.npz holds no head .*fit one with `tierserve calibrate`"
    ):
        Head.load(path)


def test_files_that_are_something_else_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "head.npz"
    writers: list[Callable[[Any], Any]] = [
        lambda file: file.write(b"threshold: 4.0\n"),
        lambda file: np.save(file, np.zeros(3)),
        lambda file: np.savez(file, weights=np.zeros(3)),
    ]
    for write in writers:
        with path.open("wb") as file:
            write(file)
        with pytest.raises(ConfigError, match=r"head.npz holds no head .*fit one with `tierserve calibrate`"):
            Head.load(path)


def test_a_path_that_can_t_be_read_is_named(tmp_path: Path) -> None:
    for path, why in ((tmp_path / "absent.npz", "No such file or directory"), (tmp_path, "Is a directory")):
        with pytest.raises(ConfigError, match=rf"{path} can't be read \({why}\) — fit one"):
            Head.load(path)


class Pickled:
    """Leaves a trace where it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.trace),)


def test_what_is_pickled_in_a_file_is_never_run(tmp_path: Path) -> None:
    path, trace = tmp_path / "head.npz", tmp_path / "trace"
    write(path, note=np.array([Pickled(trace)], dtype=object))
    with pytest.raises(ConfigError, match=r"holds no head .*pickle"):
        Head.load(path)
    assert not trace.exists()


def write(path: Path, **changed: np.ndarray) -> None:
    """A head's file with some of its arrays changed."""
    SMALL.save(path)
    with np.load(path) as file:
        arrays = dict(file)
    np.savez(path, **arrays | changed)


@pytest.mark.parametrize(
    "changed",
    [
        {"format": np.array("tierserve-head-2")},
        {"features": np.array(NAMES[:-1])},
        {"features": np.array("words")},
        {"center": np.array(1, np.float32)},
        {"center": np.zeros(29, np.float32)},
        {"center": np.full(30, np.nan, np.float32)},
        {"center": np.zeros(30, np.complex64)},
        {"slopes": np.array(["one"] * 30)},
        {"slopes": np.full(30, np.inf, np.float32)},
        {"net_in": np.zeros((30, 4), np.float32)},
        {"net_out": np.array([1, 2, np.nan], np.float32)},
        {"landmarks": np.zeros((2, 30), np.float32)},
        {"landmark_weights": np.array([[1.0]], np.float32)},
        {"width": np.array("wide")},
        {"calibration": np.zeros(3, np.float32)},
        {"everyday": np.zeros(30, np.float32)},
        {"example_texts": np.zeros(5, np.float32)},
        {"example_hard": np.zeros(4, np.bool_)},
        {"example_vectors": np.array(1, np.float32)},
        {"example_vectors": np.zeros((4, 2), np.float32)},
        {"threshold": np.array(np.nan, np.float32)},
        {"note": np.array(["one", "two"])},
    ],
    ids=lambda changed: f"{next(iter(changed))} {next(iter(changed.values())).shape}",
)
def test_arrays_that_do_not_belong_together_are_refused(changed: dict[str, np.ndarray], tmp_path: Path) -> None:
    path = tmp_path / "head.npz"
    write(path)
    Head.load(path)
    write(path, **changed)
    with pytest.raises(ConfigError, match=r"router.head: .*head.npz .*fit one with `tierserve calibrate`"):
        Head.load(path)


# The article's examples of what a router by length gets wrong.
SHORT_AND_HARD = "Refactor this recursive algorithm to iterative with O(1) space complexity"
LONG_AND_SIMPLE = (
    "Summarize this email.\n\nHi everyone,\n\nthank you for coming to the meeting on Thursday. To sum up: we move into "
    "the new office in the first week of March. Boxes will be delivered on Monday, please label yours with your name "
    "and the number of your new room. Ines from facilities takes care of the plants. The old coffee machine stays, a "
    "better one is waiting for us. Parking is free until April, after that there will be passes, about which we will "
    "write again. If you need a desk of another height, tell Tom by Friday. On the day of the move itself there will "
    "be no meetings, and those who want to work from home may do so. Lunch is on the company that day. Please don't "
    "forget to empty the fridge, and to take your pictures off the walls, as the painters come the day after.\n\n"
    "The keys will be handed out at the entrance between eight and ten. If you can't be there, a colleague may take "
    "yours, but tell us before. All telephone numbers stay as they are.\n\nKind regards\nMaria"
)
THRESHOLD = 4.0


@pytest.mark.parametrize("text", [*SIMPLE, LONG_AND_SIMPLE], ids=lambda text: text[:30])
def test_what_the_article_calls_simple_stays_small(text: str, encoder: SentenceEncoder) -> None:
    assert SHIPPED.score(Prompt(text), encoder.encode([text])[0]) < THRESHOLD


@pytest.mark.parametrize("text", [*COMPLEX, SHORT_AND_HARD], ids=lambda text: text[:30])
def test_what_the_article_calls_complex_goes_to_the_large_model(text: str, encoder: SentenceEncoder) -> None:
    assert SHIPPED.score(Prompt(text), encoder.encode([text])[0]) > THRESHOLD


@pytest.mark.parametrize("turns", [2, 5, 50])
def test_a_later_turn_is_scored_like_a_first_one(turns: int, encoder: SentenceEncoder) -> None:
    """What the head was fitted on were first turns all: they teach nothing of later ones."""
    for text in (*SIMPLE, *COMPLEX):
        vector = encoder.encode([text])[0]
        first, later = (SHIPPED.score(Prompt(text, number), vector) for number in (1, turns))
        assert later == pytest.approx(first, abs=0.01)


def plain(text: str) -> str:
    return " ".join("".join(c if c.isalnum() else " " for c in text.lower()).split())


def test_none_of_the_article_s_prompts_was_fitted_on() -> None:
    mix = {plain(prompt.text) for prompt in read_outcomes([ROOT / "benchmarks" / "traffic.jsonl"]).prompts}
    mix |= {plain(text) for text in SHIPPED.example_texts}
    for text in (*SIMPLE, *COMPLEX, SHORT_AND_HARD, "Summarize this email."):
        assert not any(plain(text) in known for known in mix), text


def test_the_shipped_head_knows_the_traffic_s_prompts_with_their_labels(traffic: Fitted) -> None:
    outcomes: Outcomes = traffic.outcomes
    labels = {prompt.text: bool(hard) for prompt, hard in zip(outcomes.prompts, outcomes.gain > 0, strict=True)}
    known = dict(zip(SHIPPED.example_texts.tolist(), SHIPPED.example_hard.tolist(), strict=True))
    assert len(known) >= 300
    assert known.items() <= labels.items()


def test_the_shipped_head_is_small_and_says_what_it_was_fitted_on() -> None:
    assert DEFAULT.stat().st_size < 1_000_000
    assert "prompts of everyday traffic" in str(SHIPPED.note)
    assert SHIPPED.dimensions == 1152
