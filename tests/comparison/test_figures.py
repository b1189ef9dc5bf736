"""From rounds to rows, table and targets."""

import pytest
from comparison.figures import Measured, Terms, explanation, rows, table, targets
from comparison.limit import cost_ratio, limit
from comparison.ways import LARGE, LENGTH, SMALL, TIERED
from loadgen.asking import Sample

TERMS = Terms("big", slo_ms=400, common_per_s=5, idle_share=0.01, price_per_hour=7.2, cores=2)


def sample(ms: float, model: str = "big", error: str = "", escalated: bool = False) -> Sample:
    return Sample(10, 10, 10 + ms / 1000, model=model, error=error, escalated=escalated)


def measured() -> dict[str, Measured]:
    """Tiers at 3 of 3.07 times all large's rate, a quarter of the requests large and half of these escalated."""
    slow = [sample(1000), sample(200), sample(300), sample(400)]
    failed = [sample(9, error="timeout"), sample(60, "little")]
    mixed = [sample(500), sample(300, escalated=True), *(sample(50, "little") for _ in range(6))]
    return {
        LARGE: Measured([6, 5, 4], [4, 6], [slow, slow], [0.2, 0.4], right=[True, True, True, False]),
        TIERED: Measured([12], [15], [mixed], [0.1], right=[True, True, False, False]),
        LENGTH: Measured([11], [10], [failed], [0.1], client_late_ms=3),
        SMALL: Measured([50]),
    }


def test_the_limit_is_what_the_shares_cost() -> None:
    assert limit(1, 0.1) == 1
    assert limit(0, 0.1) == pytest.approx(10)
    assert limit(0.15, 0.1) == pytest.approx(1 / 0.235)
    assert cost_ratio(50, 5) == 0.1


def test_a_row_has_medians_and_spread() -> None:
    large, tiered, length, small = rows(measured(), TERMS)
    assert (large["saturated_per_s"], large["saturated_per_s_least"], large["saturated_per_s_most"]) == (5, 4, 6)
    assert large["highest_per_s"] == 5
    assert large["p99_ms"] == pytest.approx(1000)
    assert large["cpu_ms_per_request"] == pytest.approx(300)
    assert large["cost_per_1000"] == pytest.approx(1000 * 0.3 / 2 * 7.2 / 3600)
    assert (large["quality_pct"], large["quality_gap_points"]) == (75, 0)
    assert (tiered["large_share"], tiered["escalated_share"]) == (0.25, 0.125)
    assert (tiered["quality_pct"], tiered["quality_gap_points"]) == (50, 25)
    assert tiered["quality_gap_margin_points"] == pytest.approx(1.96 * 50 / 2)
    assert (length["errors"], length["requests"], length["large_share"]) == (1, 2, 0)
    assert small["p99_ms"] is None
    assert all(each["r"] == 0.1 for each in (large, tiered, length, small))
    assert [each["limit"] for each in (large, tiered)] == [1, pytest.approx(limit(0.25, 0.1))]
    assert all(set(each) == set(large) for each in (tiered, length, small))


def test_targets_come_from_the_rows() -> None:
    value = {target.name: target for target in targets(rows(measured(), TERMS), costly=True)}
    assert list(value) == [
        "throughput_of_limit",
        "throughput_ratio",
        "p99_ratio",
        "cost_ratio",
        "large_share",
        "quality_gap_points",
    ]
    assert value["throughput_ratio"].value == 3
    assert value["throughput_of_limit"].value == pytest.approx(3 / limit(0.25, 0.1))
    assert value["p99_ratio"].value == pytest.approx(0.5)
    assert value["cost_ratio"].value == pytest.approx(1 / 3)
    assert value["cost_ratio"].bound == pytest.approx(0.325 / 0.85)


def test_what_has_no_weights_has_no_quality_and_tiny_models_no_bound_on_throughput() -> None:
    found = measured()
    for way in found.values():
        way.right = ()
    names = [target.name for target in targets(rows(found, TERMS), costly=False)]
    assert names == ["throughput_of_limit", "p99_ratio", "cost_ratio", "large_share"]
    assert "right, %" not in {line[""] for line in table(rows(found, TERMS))}


def test_the_table_shows_the_article_beside_each_way() -> None:
    found = rows(measured(), TERMS)
    lines = {line[""]: line for line in table(found)}
    assert lines["highest rate within the SLO, 1/s"][LARGE] == "5 (4 to 6)"
    assert lines["highest rate within the SLO, 1/s"]["change"] == "+200%"
    assert lines["P99 at the common load, ms"]["the article"] == "1400 -> 810, -42%"
    assert lines["right, %"]["change"].startswith("-25.00")
    assert lines["large share"][LARGE] == "100.0%"
    assert lines["errors"][LENGTH] == "1"
    assert lines["client late (in the times), P99, ms"][LENGTH] == "3.0"
    assert all(list(line) == list(lines["large share"]) for line in lines.values())
    assert "r = 0.100" in explanation(found)
