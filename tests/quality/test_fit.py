from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from tests.quality.conftest import asked, outcomes
from tierserve.quality.calibrate import encode
from tierserve.quality.fit import KINDS, Fitted, cross_ranks, fit_head, fit_rank, rank_of
from tierserve.quality.measures import Recovery
from tierserve.router.embedding.encoder import SentenceEncoder
from tierserve.router.scoring.features import NAMES
from tierserve.router.scoring.head import Head

Truth = Callable[[Fitted], np.ndarray]


def apgr(ranks: np.ndarray, rows: Fitted) -> float:
    return Recovery(ranks.astype(np.float64), rows.outcomes.small, rows.outcomes.large).apgr()


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_finds_the_subject_that_is_beyond_the_small_model(
    kind: str, questions: Fitted, is_calculus: Truth
) -> None:
    ranks = cross_ranks(questions, kind, folds=3)
    assert np.isfinite(ranks).all()
    assert roc_auc_score(is_calculus(questions), ranks) > 0.9
    assert apgr(ranks, questions) > 0.6


def test_a_head_knows_subjects_in_words_it_never_saw(
    questions: Fitted, is_calculus: Truth, encoder: SentenceEncoder
) -> None:
    head = fit_rank(questions, "linear")
    texts = ["Boil the potatoes, then fry the onions.", "The curl of a conservative vector field vanishes."]
    rows = outcomes(texts, [1, 0], [1, 1])
    kitchen, calculus = rank_of(head, Fitted(encode(encoder, rows.prompts), rows))
    assert calculus > kitchen


def test_where_length_decides_length_is_learned(questions: Fitted) -> None:
    texts = [prompt.text for prompt in questions.outcomes.prompts]
    long = np.arange(len(texts)) % 2 == 1
    longer = [
        text + " Please say so in a few plain words." * bool(more) for text, more in zip(texts, long, strict=True)
    ]
    rows = outcomes(longer, 1.0 - long, np.ones(len(texts)))
    ranks = cross_ranks(Fitted(questions.vectors, rows), "linear", folds=3)  # the vectors say nothing of it
    assert roc_auc_score(long, ranks) > 0.95


def test_where_nothing_can_be_learned_the_longer_question_ranks_higher(questions: Fitted) -> None:
    chance = np.random.default_rng(1).permutation(questions.outcomes.small)
    head = fit_rank(Fitted(questions.vectors, replace(questions.outcomes, small=chance)), "linear")
    words = len(head.slopes) - len(NAMES) + NAMES.index("words")
    assert head.slopes[words] == max(head.slopes) > 0


@pytest.mark.parametrize("kind", ["linear", "kernel"])
def test_what_a_source_gains_on_the_whole_says_nothing_of_its_questions(kind: str, questions: Fitted) -> None:
    """The kitchen's and calculus's means lie far apart; as sources of their own that must not be learned."""
    count = len(questions.outcomes)
    sources = np.array(["kitchen"] * (count // 2) + ["calculus"] * (count // 2))
    apart = replace(questions.outcomes, sources=sources, small=questions.outcomes.small / 2 + 0.5)
    poorer = replace(apart, small=apart.small - 0.5 * (sources == "calculus"))
    one, other = (fit_rank(Fitted(questions.vectors, rows), kind) for rows in (apart, poorer))
    assert one.slopes == pytest.approx(other.slopes, abs=1e-5)
    assert one.landmark_weights == pytest.approx(other.landmark_weights, abs=1e-4)


def test_within_two_sources_of_different_means_the_truth_is_still_found(questions: Fitted, is_calculus: Truth) -> None:
    """Every other row is of a source on which the small model always does worse."""
    sources = np.where(np.arange(len(questions.outcomes)) % 2, "hard", "easy")
    small = questions.outcomes.small / 2 + 0.5 * (sources == "easy")
    ranks = cross_ranks(
        Fitted(questions.vectors, replace(questions.outcomes, sources=sources, small=small)), "linear", folds=3
    )
    assert roc_auc_score(is_calculus(questions), ranks) > 0.9
    assert 0.4 < roc_auc_score(sources == "hard", ranks) < 0.6


@pytest.mark.parametrize("kind", ["linear", "net"])
def test_probabilities_are_near_the_frequencies(kind: str, questions: Fitted) -> None:
    fold = questions.outcomes.folds(2, seed=0)
    for number in (0, 1):
        kept = questions[fold == number]
        head = fit_head(questions[fold != number], None, kind, own=384)
        probability = head.scores(kept.vectors, kept.surface()) / 10
        better = kept.outcomes.gain > 0
        assert probability.mean() == pytest.approx(better.mean(), abs=0.1)
        for rows in (probability > np.median(probability), probability <= np.median(probability)):
            assert probability[rows].mean() == pytest.approx(better[rows].mean(), abs=0.25)  # 75 rows


def test_a_question_s_rank_is_of_a_head_that_never_saw_it(questions: Fitted) -> None:
    """With labels of chance, what is ranked well was learned by heart."""
    chance = np.random.default_rng(2).permutation(questions.outcomes.small)
    rows = replace(questions.outcomes, small=chance)
    twice = Fitted(np.tile(questions.vectors, (2, 1)), rows[np.tile(np.arange(len(rows)), 2)])
    ranks = cross_ranks(twice, "kernel", folds=3)
    by_heart = rank_of(fit_rank(twice, "kernel"), twice)
    assert 0.35 < apgr(ranks, twice) < 0.65 < apgr(by_heart, twice)


@pytest.mark.parametrize("kind", KINDS)
def test_a_fitted_head_is_kept_by_its_file(kind: str, questions: Fitted, traffic: Fitted, tmp_path: Path) -> None:
    path = tmp_path / "head.npz"
    head = fit_head(questions, traffic, kind, own=384, note="of a test")
    head.save(path)
    loaded = Head.load(path)
    for rows in (questions, traffic):
        before, after = (each.scores(rows.vectors, rows.surface()) for each in (head, loaded))
        assert np.abs(before - after).max() < 0.01
    assert str(loaded.note) == "of a test"


@pytest.mark.parametrize("kind", ["linear", "net"])
def test_everyday_prompts_are_judged_by_what_the_traffic_says(kind: str, questions: Fitted, traffic: Fitted) -> None:
    head = fit_head(questions, traffic, kind, own=384)
    alone = fit_head(questions, None, kind, own=384)
    scores = head.scores(traffic.vectors, traffic.surface())
    hard = traffic.outcomes.gain > 0
    assert roc_auc_score(hard, scores) > 0.98
    assert roc_auc_score(hard, scores) > roc_auc_score(hard, alone.scores(traffic.vectors, traffic.surface()))


@pytest.mark.parametrize("with_questions", [False, True])
@pytest.mark.parametrize("half", [0, 1])
def test_a_half_of_the_mix_teaches_the_other(
    half: int, with_questions: bool, traffic: Fitted, questions: Fitted
) -> None:
    fold = traffic.outcomes.folds(2, seed=0)
    kept = traffic[fold == half]
    head = fit_head(questions if with_questions else None, traffic[fold != half], "linear", own=384)
    scores = head.scores(kept.vectors, kept.surface())
    assert roc_auc_score(kept.outcomes.gain > 0, scores) >= 0.95
    assert 0.10 <= (scores > 4.0).mean() <= 0.20


def test_examples_are_of_the_traffic_and_no_longer_than_people_read(traffic: Fitted, encoder: SentenceEncoder) -> None:
    half = traffic[np.arange(0, len(traffic.outcomes), 2)]  # few enough for all to be kept
    long = [replace(half.outcomes.prompts[0], text="long " * 100_000), *half.outcomes.prompts[1:]]
    head = fit_head(None, Fitted(half.vectors, replace(half.outcomes, prompts=long)), "linear", own=384)
    assert len(head.example_texts) == len(head.example_hard) == len(head.example_vectors) == len(long)
    assert head.example_vectors.shape[1] == encoder.own
    assert head.example_texts.nbytes < 5e6
    assert any(text.startswith("long long") for text in head.example_texts)


def test_a_head_of_questions_alone_has_examples_of_them(questions: Fitted) -> None:
    head = fit_head(questions, None, "linear", own=384)
    row = [prompt.text for prompt in questions.outcomes.prompts].index(head.example_texts[0])
    nearest = head.nearest(questions.vectors[row], 3)
    assert nearest[0].text == questions.outcomes.prompts[row].text and nearest[0].cosine == pytest.approx(1, abs=1e-3)
    assert set(head.example_hard) == {True, False}


def test_of_private_questions_no_text_is_kept(questions: Fitted) -> None:
    head = fit_head(questions, None, "linear", own=384, private=True)
    assert head.nearest(questions.vectors[0], 3) == []
    open_one = fit_head(questions, None, "linear", own=384)
    assert (head.slopes == open_one.slopes).all() and head.calibration.tolist() == open_one.calibration.tolist()


def test_fitting_twice_gives_the_same_head(questions: Fitted, traffic: Fitted, tmp_path: Path) -> None:
    for name in ("a", "b"):
        fit_head(questions, traffic, "net", own=384, seed=3).save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_constant_inputs_count_for_nothing(questions: Fitted) -> None:
    head = fit_head(questions, None, "linear", own=384)
    turns = len(head.center) - len(NAMES) + NAMES.index("turns")
    assert head.scale[turns] == 0  # all are first turns: what a second one means is not known
    assert head.scale.max() < 1000


def test_forms_and_subjects_are_all_asked_once() -> None:
    texts = asked(["a", "b"])
    assert len(set(texts)) == len(texts) == 20


def test_a_kernel_head_does_not_hang_on_questions_that_are_asked_twice(questions: Fitted, tmp_path: Path) -> None:
    twice = questions[np.arange(len(questions.outcomes)).repeat(2)]
    head = fit_rank(twice, "kernel")
    assert np.abs(head.landmark_weights).max() < 100
    head.save(tmp_path / "head.npz")
    moved = rank_of(Head.load(tmp_path / "head.npz"), questions) - rank_of(head, questions)
    assert np.abs(moved).max() < 0.01
