import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tierserve.errors import ConfigError
from tierserve.quality.calibrate import calibrate
from tierserve.quality.evaluate import MEASURES, as_json, as_table, evaluate, plot, scores_of
from tierserve.quality.fit import Fitted
from tierserve.quality.outcomes import Outcomes
from tierserve.router.embedding.encoder import SentenceEncoder
from tierserve.router.scoring.head import DEFAULT, Head

SCORERS = ["head", "seeds", "length", "random"]


@pytest.fixture(scope="module")
def scores(encoder: SentenceEncoder, questions: Fitted) -> dict[str, np.ndarray]:
    head, _ = calibrate(encoder, questions.outcomes, None, ["linear"])
    return scores_of(encoder, head, questions.outcomes)


@pytest.fixture(scope="module")
def rows(questions: Fitted) -> Outcomes:
    return questions.outcomes


def test_each_scorer_scores_each_row(scores: dict[str, np.ndarray], rows: Outcomes) -> None:
    assert list(scores) == SCORERS
    for values in scores.values():
        assert values.shape == (len(rows),)
        assert (values >= 0).all() and (values <= 10).all()


def test_a_head_that_was_fitted_to_these_questions_is_best_and_random_is_chance(
    scores: dict[str, np.ndarray], rows: Outcomes
) -> None:
    found = evaluate(scores, rows)
    best = found["head"]["apgr"]
    assert all(best.low > found[name]["apgr"].value for name in SCORERS[1:])
    assert found["random"]["apgr"].value == pytest.approx(0.5)
    assert found["head"]["cpt50"].value < 0.5
    assert found["head"]["quality_at_15"].value < found["head"]["quality_at_30"].value


def test_the_json_has_the_promised_form(scores: dict[str, np.ndarray], rows: Outcomes) -> None:
    report = as_json([Path("a.jsonl"), Path("b.jsonl.gz")], evaluate(scores, rows))
    assert set(report) == {"data", "scorers"}
    assert report["data"] == ["a.jsonl", "b.jsonl.gz"]
    assert set(report["scorers"]) == set(SCORERS)
    for measured in report["scorers"].values():
        assert list(measured) == list(MEASURES) == ["apgr", "cpt50", "cpt80", "quality_at_15", "quality_at_30"]
        for interval in measured.values():
            assert set(interval) == {"value", "low", "high"}
            assert all(type(number) is float for number in interval.values())


def test_the_table_has_a_line_for_each_scorer_and_says_what_it_is_of(
    scores: dict[str, np.ndarray], rows: Outcomes
) -> None:
    lines = as_table(rows, evaluate(scores, rows)).splitlines()
    assert [line.split()[0] for line in lines[1:5]] == SCORERS
    assert all(title in lines[0] for title in MEASURES.values())
    assert len({len(line) for line in lines[:5]}) == 1
    assert lines[-1].startswith("300 prompts; small model alone 0.")


def test_outcomes_without_a_gap_are_an_error_of_the_data(scores: dict[str, np.ndarray], rows: Outcomes) -> None:
    with pytest.raises(ConfigError, match="--data: the large model is no better .* — routing can win nothing there"):
        evaluate(scores, replace(rows, small=rows.large))


@pytest.mark.parametrize(("name", "begins"), [("p.png", b"\x89PNG"), ("p.pdf", b"%PDF"), ("p.svg", b"<?xml")])
def test_a_plot_is_of_the_kind_that_its_name_says(
    name: str, begins: bytes, scores: dict[str, np.ndarray], rows: Outcomes, tmp_path: Path
) -> None:
    plot(tmp_path / name, scores, rows)
    assert (tmp_path / name).read_bytes().startswith(begins)


@pytest.mark.parametrize("name", ["absent/p.png", "p.notakind", "folder.png"])
def test_a_plot_that_can_t_be_written_says_what_would(
    name: str, scores: dict[str, np.ndarray], rows: Outcomes, tmp_path: Path
) -> None:
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(ConfigError, match=r"--plot: .* can't be written .* — name a .png, .svg or .pdf"):
        plot(tmp_path / name, scores, rows)


def test_without_matplotlib_the_plot_says_how_to_get_it(
    scores: dict[str, np.ndarray], rows: Outcomes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ConfigError, match="--plot: needs matplotlib — pip install matplotlib"):
        plot(tmp_path / "p.png", scores, rows)


def test_the_shipped_head_ranks_everyday_traffic(encoder: SentenceEncoder, traffic: Fitted) -> None:
    found = evaluate(scores_of(encoder, Head.load(DEFAULT), traffic.outcomes), traffic.outcomes)
    assert found["head"]["apgr"].value > 0.9
    assert found["head"]["apgr"].low > found["seeds"]["apgr"].high
    assert found["head"]["quality_at_15"].value > 0.99
