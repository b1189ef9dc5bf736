"""From samples to numbers, on samples of which every number is known."""

from pathlib import Path
from typing import Any

import pytest
from loadgen import Closed, Endpoint, Open, PlanError, Price, Slo, Trial, summarise
from loadgen.asking import Sample
from loadgen.plots import draw
from loadgen.runner import Client

ENDPOINT = Endpoint("http://h", "auto")


def sample(due_s: float, took_s: float, **fields: Any) -> Sample:
    return Sample(**{"due_s": due_s, "sent_s": due_s, "end_s": due_s + took_s, "model": "small"} | fields)


def trial(samples: list[Sample], **fields: Any) -> Trial:
    return Trial(
        **{"endpoint": ENDPOINT, "load": Closed(1), "round": 0, "start_s": 100.0, "end_s": 110.0, "samples": samples}
        | fields
    )


def test_times_are_percentiles_of_what_was_measured() -> None:
    samples = [sample(100, ms / 1000, first_s=100 + ms / 2000, output_tokens=11) for ms in range(1, 101)]
    (row,) = summarise([trial(samples)])
    assert [row[f"e2e_{key}_ms"] for key in ("p50", "p90", "p95", "p99")] == pytest.approx([51, 91, 96, 100])
    assert row["ttft_p90_ms"] == pytest.approx(45.5)
    assert row["tpot_p99_ms"] == pytest.approx(5)


def test_rates_count_what_ended_within_the_window() -> None:
    measured = [sample(101, 1, output_tokens=5), sample(109, 2, output_tokens=50), sample(102, 1, error="timeout")]
    warm_up = [sample(99, 2, output_tokens=5), sample(98, 1, output_tokens=5)]
    (row,) = summarise([trial(measured, warm_up=warm_up)])
    assert row["requests_per_s"] == pytest.approx(2 / 10)
    assert row["output_tokens_per_s"] == pytest.approx(10 / 10)
    assert row["requests"] == 3
    assert row["e2e_p99_ms"] == pytest.approx(2000)  # whenever it ended


def test_rates_are_medians_over_rounds_and_times_are_pooled() -> None:
    rounds = [[sample(100, 0.1)] * count for count in (10, 30, 20)]
    (row,) = summarise([trial(samples, round=number) for number, samples in enumerate(rounds)])
    rates = [row[f"requests_per_s{which}"] for which in ("", "_least", "_most")]
    assert rates == pytest.approx([2, 1, 3])
    assert (row["rounds"], row["requests"], row["seconds"]) == (3, 60, 30)


def test_goodput_is_what_keeps_every_promise() -> None:
    slow_start = sample(100, 1, first_s=100.9, output_tokens=2)
    slow_tokens = sample(100, 1, first_s=100.1, output_tokens=2)
    good = sample(100, 1, first_s=100.1, output_tokens=101)
    failed = sample(100, 0.01, error="http 503")
    samples = [slow_start, slow_tokens, good, failed]
    (row,) = summarise([trial(samples)], Slo(ttft_ms=500, tpot_ms=100, e2e_ms=1000.1))
    assert (row["goodput_per_s"], row["within_slo"]) == (0.1, 0.25)
    (row,) = summarise([trial(samples)], Slo(e2e_ms=1000.1))
    assert row["within_slo"] == 0.75
    assert summarise([trial(samples)])[0]["within_slo"] is None


def test_a_whole_answer_brings_its_first_token_with_its_last() -> None:
    (row,) = summarise([trial([sample(100, 1, output_tokens=9)])], Slo(ttft_ms=500))
    assert row["within_slo"] == 0
    assert row["ttft_p50_ms"] is None


def test_a_promise_is_of_more_than_nothing() -> None:
    with pytest.raises(PlanError, match="e2e_ms must be above 0"):
        Slo(e2e_ms=0)


def test_shares_are_of_what_was_answered() -> None:
    samples = [sample(100, 1, escalated=False)] * 2
    samples += [sample(100, 1, model="large", escalated=True), sample(100, 1, model="large", escalated=False)]
    samples += [sample(100, 1, error="http 500"), sample(100, 1, error="timeout"), sample(100, 1, error="timeout")]
    (row,) = summarise([trial(samples)], large="large")
    assert (row["large_share"], row["escalated_share"]) == (0.5, 0.25)
    assert row["answered_by"] == {"small": 2, "large": 2}
    assert (row["errors"], row["errors_by_kind"]) == (3, {"timeout": 2, "http 500": 1})
    assert summarise([trial([sample(100, 1)])])[0]["escalated_share"] is None  # nobody said


def test_costs() -> None:
    tokens = {"prompt_tokens": 1000, "output_tokens": 100}
    samples = [sample(100, 1, **tokens)] * 3 + [sample(100, 1, model="large", **tokens)]
    prices = {"small": Price(0.1, 0.2), "large": Price(1, 2)}
    (row,) = summarise([trial(samples)], large="large", prices=prices)
    # 1000 + 2 x 100 tokens' worth at the large model; a tenth of it at the small one.
    assert row["cost_per_1000"] == pytest.approx(1000 * (3 * 0.12 + 1.2) / 4 / 1000)
    assert row["cost_of_all_large"] == pytest.approx((3 * 0.1 + 1) / 4)
    assert summarise([trial(samples)], prices={"small": Price(1, 1)})[0]["cost_per_1000"] is None


@pytest.mark.parametrize(
    ("client", "saturated"),
    [
        (Client(0.5, [0.001] * 100), False),
        (Client(0.95, [0.001] * 100), True),
        (Client(0.5, [0.001] * 97 + [0.05] * 3), True),
        (Client(0.5, []), False),
    ],
)
def test_a_client_that_was_the_bottleneck_says_so(client: Client, saturated: bool) -> None:
    (row,) = summarise([trial([sample(100, 1)], client=client), trial([sample(100, 1)], round=1)])
    assert row["client_saturated"] is saturated


def test_a_trial_that_was_broken_off_in_its_warm_up_has_no_numbers() -> None:
    (row,) = summarise([trial([], end_s=99.0, unfinished=3)], Slo(e2e_ms=1), "large")
    assert (row["requests"], row["unfinished"]) == (0, 3)
    unknown = ("requests_per_s", "goodput_per_s", "within_slo", "e2e_p50_ms", "large_share", "cost_per_1000")
    assert [row[key] for key in unknown] == [None] * len(unknown)


def test_every_row_has_the_same_keys_and_loads_stay_apart() -> None:
    streamed = trial([sample(100, 1, first_s=100.5, output_tokens=3)])
    whole = trial([sample(100, 1)], load=Open(2, poisson=False))
    rows = summarise([streamed, whole, trial([], load=Open(2))])
    assert [row["load"] for row in rows] == ["1 at once", "2/s constant", "2/s Poisson"]
    assert all(list(row) == list(rows[0]) for row in rows)


def test_plots(tmp_path: Path) -> None:
    trials = [trial([sample(100, 1, first_s=100.5)]), trial([sample(100, 1)], load=Closed(2)), trial([], load=Open(1))]
    drawn = draw(trials, summarise(trials), tmp_path / "new")
    assert [path.name for path in drawn] == ["latency.png", "load.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in drawn)
    assert [path.name for path in draw(trials[:1], summarise(trials[:1]), tmp_path)] == ["latency.png"]
