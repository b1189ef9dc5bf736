from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.quality.conftest import outcomes
from tierserve.core import Prompt
from tierserve.errors import ConfigError
from tierserve.quality.calibrate import calibrate, encode, without
from tierserve.quality.fit import Fitted
from tierserve.quality.outcomes import Outcomes
from tierserve.router.embedding.encoder import SentenceEncoder

QUICK = ("linear", "kernel")


def spread(rows: Outcomes, *names: str) -> Outcomes:
    """The rows dealt out to sources."""
    return replace(rows, sources=np.array(names)[np.arange(len(rows)) % len(names)])


def test_the_order_of_prompts_is_kept_whatever_their_length(encoder: SentenceEncoder) -> None:
    texts = ["a longer text about tea and biscuits", "hi", "", "hi", "a text", "\ud800"] * 30
    vectors = encode(encoder, [Prompt(text) for text in texts])
    assert vectors.shape == (180, 1152)
    for text, vector in zip(texts[:6], vectors, strict=False):
        assert encoder.encode([text])[0] @ vector / 3 > 0.995


def test_of_several_sources_each_is_judged_by_heads_that_never_saw_it(
    encoder: SentenceEncoder, questions: Fitted
) -> None:
    _, report = calibrate(encoder, spread(questions.outcomes, "a", "b", "c"), None, QUICK)
    assert report.judged_by == "source"
    assert set(report.apgr) == set(QUICK)
    assert report.kind == max(report.apgr, key=lambda kind: report.apgr[kind])
    assert all(value > 0.6 for value in report.apgr.values())


def test_of_one_or_two_sources_questions_are_kept_back(encoder: SentenceEncoder, questions: Fitted) -> None:
    for names in (("a",), ("a", "b")):
        _, report = calibrate(encoder, spread(questions.outcomes, *names), None, QUICK)
        assert report.judged_by == "question"
        assert set(report.apgr) == set(QUICK)


def test_the_same_questions_to_three_pairs_of_models_are_kept_back_by_question(
    encoder: SentenceEncoder, questions: Fitted
) -> None:
    some = questions.outcomes[np.arange(0, len(questions.outcomes), 3)]
    pairs = [replace(some, sources=np.full(len(some), name)) for name in ("a", "b", "c")]
    together = Outcomes(
        [prompt for pair in pairs for prompt in pair.prompts],
        *(
            np.concatenate([getattr(pair, column) for pair in pairs])
            for column in ("small", "large", "sources", "categories")
        ),
    )
    _, report = calibrate(encoder, together, None, QUICK)
    assert report.judged_by == "question"
    assert all(value > 0.6 for value in report.apgr.values())


def test_a_source_without_a_gap_is_no_judge(encoder: SentenceEncoder, questions: Fitted) -> None:
    rows = spread(questions.outcomes, "a", "b", "c", "d")
    small = np.where(rows.sources == "d", 1, rows.small)
    _, report = calibrate(encoder, replace(rows, small=small), None, QUICK)
    assert report.judged_by == "source"
    rows = spread(questions.outcomes, "a", "b", "c")
    _, report = calibrate(encoder, replace(rows, small=np.where(rows.sources == "c", 1, rows.small)), None, QUICK)
    assert report.judged_by == "question"


def test_a_single_kind_needs_no_judge(encoder: SentenceEncoder, questions: Fitted) -> None:
    head, report = calibrate(encoder, questions.outcomes, None, ["linear"])
    assert (report.kind, report.apgr, report.judged_by) == ("linear", {}, "")
    assert str(head.note) == "300 of all (linear)"


@pytest.mark.parametrize("share", [0.05, 0.15, 0.3, 0.6])
def test_the_threshold_sends_the_asked_share_of_questions_up(
    share: float, encoder: SentenceEncoder, questions: Fitted
) -> None:
    head, report = calibrate(encoder, questions.outcomes, None, ["linear"], share)
    scores = head.scores(questions.vectors, questions.surface())
    # It was chosen by scores of heads that did not know the question.
    assert (scores > report.threshold).mean() == pytest.approx(share, abs=0.05)
    assert float(head.threshold) == pytest.approx(report.threshold)


def test_with_traffic_the_share_is_of_the_traffic(encoder: SentenceEncoder, questions: Fitted, traffic: Fitted) -> None:
    head, report = calibrate(encoder, questions.outcomes, traffic.outcomes, ["linear"], 0.3)
    scores = head.scores(traffic.vectors, traffic.surface())
    assert (scores > report.threshold).mean() == pytest.approx(0.3, abs=0.1)


def test_of_thresholds_that_will_do_it_is_the_default_one(encoder: SentenceEncoder, traffic: Fitted) -> None:
    """Where simple and hard lie apart, and as many are hard as are to be sent up, the threshold may lie anywhere."""
    hard = float((traffic.outcomes.gain > 0).mean())
    _, report = calibrate(encoder, None, traffic.outcomes, large_share=hard)
    assert report.threshold == 4.0


def test_the_same_rows_give_the_same_bytes(encoder: SentenceEncoder, questions: Fitted, tmp_path: Path) -> None:
    for name in ("a", "b"):
        head, _ = calibrate(encoder, questions.outcomes, None, QUICK)
        head.save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_without_a_source_nothing_of_its_questions_or_its_benchmark_is_left(questions: Fitted) -> None:
    """b asks two of a's three, c one of its four, d none."""
    texts = {"a": ["p", "q", "r"], "b": ["P?", "q\nA) x", "s"], "c": ["r", "t", "u", "v"], "d": ["w"]}
    prompts = [text for several in texts.values() for text in several]
    sources = [name for name, several in texts.items() for _ in several]
    rows = outcomes(prompts, np.zeros(len(prompts)), np.ones(len(prompts)), sources)
    others, own = without(Fitted(questions.vectors[: len(rows)], rows), "a")
    assert [prompt.text for prompt in own.outcomes.prompts] == ["p", "q", "r"]
    assert [prompt.text for prompt in others.outcomes.prompts] == ["t", "u", "v", "w"]
    assert (others.vectors == questions.vectors[[7, 8, 9, 10]]).all()


def refused(encoder: SentenceEncoder, data: Outcomes | None, traffic: Outcomes | None = None) -> ConfigError:
    with pytest.raises(ConfigError) as error:
        calibrate(encoder, data, traffic)
    assert error.value.remedy
    return error.value


def test_too_few_rows_are_refused(encoder: SentenceEncoder, questions: Fitted, traffic: Fitted) -> None:
    few = refused(encoder, questions.outcomes[np.arange(130, 179)])
    assert str(few) == "--data: 49 different prompts are too few — at least 50 are needed, hundreds to rank well"
    assert refused(encoder, None, traffic.outcomes[np.arange(10)]).where == "--traffic"
    assert refused(encoder, questions.outcomes, traffic.outcomes[np.arange(10)]).where == "--traffic"


def test_the_same_question_again_and_again_is_one(encoder: SentenceEncoder) -> None:
    rows = outcomes(["What is tea?", "what is TEA"] * 60, [0, 1] * 60, [1, 1] * 60)
    assert refused(encoder, rows).problem == "1 different prompts are too few"


def test_models_that_were_exchanged_are_noticed(encoder: SentenceEncoder, questions: Fitted) -> None:
    rows = questions.outcomes
    exchanged = refused(encoder, replace(rows, small=rows.large, large=rows.small))
    assert (exchanged.problem, exchanged.remedy) == (
        "the large model is no better than the small one",
        "are the two exchanged?",
    )
    assert refused(encoder, replace(rows, small=rows.large)).problem == exchanged.problem


def test_where_the_small_model_always_fails_nothing_is_learned(encoder: SentenceEncoder, questions: Fitted) -> None:
    all_hard = refused(encoder, replace(questions.outcomes, small=np.zeros(len(questions.outcomes))))
    assert all_hard.problem == "the small model is worse on every row"
    assert "add prompts that it does well on" in all_hard.remedy


@pytest.mark.parametrize("rare", [0, 1])
def test_traffic_with_hardly_a_hard_or_a_simple_prompt_is_refused(
    rare: int, encoder: SentenceEncoder, traffic: Fitted
) -> None:
    count = len(traffic.outcomes)
    small = np.full(count, 1.0 - rare)
    small[:14] = rare
    error = refused(encoder, None, replace(traffic.outcomes, small=small))
    hard = count - 14 if rare else 14
    assert error.problem == f"{hard} hard prompts and {count - hard} simple ones"
    small[14] = rare
    calibrate(encoder, None, replace(traffic.outcomes, small=small))
