"""The plan over scripted engines: what is measured, kept, gone on with, and reported."""

import asyncio
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from direct.engines import Engine
from direct.lengths import Request, Traffic
from direct.models import TINY_LARGE, TINY_SMALL
from direct.report import rows, table, targets
from direct.stages import LARGE, LARGE_BESIDE, SMALL, TIERED, Record, Stages, Terms, TimeIsUp, stage
from direct.trials import Promise, Way, offered, saturated
from loadgen import Open, PlanError

from tests.direct.scripted import ScriptedEngine

SETTING = {"gpu": "scripted", "seconds": 1.0}
TERMS = Terms(
    at_once=16,
    seconds=0.4,
    common_seconds=0.6,
    slo_factor=20,
    tolerance=0.5,
    search=True,
    common_per_s=None,
)
TRAFFIC = Traffic([Request(8, 4), Request(4, 6)], seed=1)


def way(name: str, small: ScriptedEngine | None, large: ScriptedEngine | None, share: float) -> Way:
    return Way(name, cast(Engine | None, small), cast(Engine | None, large), share)


@pytest.fixture
def large() -> ScriptedEngine:
    return ScriptedEngine(TINY_LARGE, token_s=0.004, slots=2)


@pytest.fixture
def small() -> ScriptedEngine:
    return ScriptedEngine(TINY_SMALL, token_s=0.002, slots=16)


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


def everything(record: Record, small: ScriptedEngine, large: ScriptedEngine, runner: asyncio.Runner) -> None:
    stages = Stages(record, TRAFFIC, TERMS, runner)
    stages.of_all_large(way(LARGE, None, large, 1))
    stages.of_both(
        {
            SMALL: way(SMALL, small, None, 0),
            LARGE_BESIDE: way(LARGE_BESIDE, None, large, 1),
            TIERED: way(TIERED, small, large, 0.25),
        }
    )


def test_a_whole_plan_gives_every_row_and_target(
    small: ScriptedEngine, large: ScriptedEngine, runner: asyncio.Runner, tmp_path: Path
) -> None:
    record = Record(tmp_path / "stages.json", SETTING, resume=False)
    everything(record, small, large, runner)
    found = rows(record.stages, record.setting, large_share=0.25, price_per_hour=2.0)
    all_large, tiered, all_small, beside = found
    assert [row["way"] for row in found] == [LARGE, TIERED, SMALL, LARGE_BESIDE]
    assert all(row["saturated_per_s"] > 0 and row["gpu"] == "scripted" for row in found)
    assert all_large["highest_per_s"] > 0 and tiered["highest_per_s"] > 0 and all_small["highest_per_s"] is None
    assert 0 < all_large["e2e_p50_ms"] <= all_large["e2e_p99_ms"]
    assert all_large["large_share"] == 1 and 0 < tiered["large_share"] < 1
    assert tiered["r"] == pytest.approx(all_large["saturated_per_s"] / all_small["saturated_per_s"])
    assert all_large["cost_per_1000"] == pytest.approx(2000 / 3600 / all_large["saturated_per_s"])
    named = {target.name: target.value for target in targets(found)}
    assert list(named) == ["throughput_of_limit", "throughput_ratio", "p99_ratio", "cost_ratio", "large_share"]
    assert named["throughput_ratio"] == pytest.approx(tiered["highest_per_s"] / all_large["highest_per_s"])
    assert set(table(found)[0]) <= set(found[0])


def test_what_was_measured_is_not_measured_again(
    small: ScriptedEngine, large: ScriptedEngine, runner: asyncio.Runner, tmp_path: Path
) -> None:
    file = tmp_path / "stages.json"
    everything(Record(file, SETTING, resume=False), small, large, runner)
    before = file.read_text()
    made = small.tokens, large.tokens
    record = Record(file, SETTING, resume=True)
    assert Stages(record, TRAFFIC, TERMS, runner).knows_all_large
    assert Stages(record, TRAFFIC, TERMS, runner).knows_both
    everything(record, small, large, runner)
    assert (small.tokens, large.tokens) == made and file.read_text() == before


def test_a_plan_that_runs_out_of_time_keeps_what_it_has(
    large: ScriptedEngine, runner: asyncio.Runner, tmp_path: Path
) -> None:
    file = tmp_path / "stages.json"
    record = Record(file, SETTING, resume=False)
    record.add(stage(LARGE, "alone"), {"ttft_ms": 4.0, "tpot_ms": 4.0})
    with pytest.raises(TimeIsUp, match="all large: saturated"):
        Stages(record, TRAFFIC, replace(TERMS, until_s=-math.inf), runner).of_all_large(way(LARGE, None, large, 1))
    assert list(json.loads(file.read_text())["stages"]) == ["all large: alone"]
    found = rows(record.stages, record.setting, 0.25, 1.0)
    assert targets(found) == [] and found[0]["saturated_per_s"] is None
    assert table(found)[0]["saturated_per_s"] == "-"


def test_both_need_what_all_large_took(small: ScriptedEngine, large: ScriptedEngine, runner: asyncio.Runner) -> None:
    with pytest.raises(PlanError, match="--only alone"):
        Stages(Record(None, SETTING, resume=False), TRAFFIC, TERMS, runner).of_both(
            {SMALL: way(SMALL, small, None, 0), LARGE_BESIDE: way(LARGE_BESIDE, None, large, 1)}
        )


@pytest.mark.parametrize(
    ("written", "resume", "said"),
    [
        ({"setting": SETTING, "stages": {}}, False, "--resume"),
        ({"setting": SETTING | {"gpu": "another"}, "stages": {}}, True, "another gpu"),
        (["no stages"], True, "no file of stages"),
    ],
)
def test_a_file_of_something_else_is_not_gone_on_with(tmp_path: Path, written: Any, resume: bool, said: str) -> None:
    (tmp_path / "stages.json").write_text(json.dumps(written))
    with pytest.raises(PlanError, match=said):
        Record(tmp_path / "stages.json", SETTING, resume)


# --- trials


async def test_the_rate_of_two_engines_is_what_the_slower_one_sustains(
    small: ScriptedEngine, large: ScriptedEngine
) -> None:
    """Few callers wait at the large engine by the window's end; the small one answers far more than its part."""
    mixed = await saturated(way(TIERED, small, large, 0.25), TRAFFIC, 16, 0.3, 0.0)
    large.tokens = 0
    alone = await saturated(way(LARGE, None, large, 1), TRAFFIC, 16, 0.3, 0.1)
    assert mixed <= 1.5 * alone / 0.25


async def test_what_is_asked_at_the_end_is_broken_off(large: ScriptedEngine) -> None:
    await saturated(way(LARGE, None, large, 1), TRAFFIC, 16, 0.1, 0.1)
    assert large.broken_off == 16


async def test_a_load_that_is_too_much_ends_early_and_does_not_hold(large: ScriptedEngine) -> None:
    promise = Promise(0.0001, 0.0001, factor=1)
    window = await offered(way(LARGE, None, large, 1), TRAFFIC, Open(100, False), 0.5, 0.0, promise, whole=False)
    assert not window.held and window.missed == window.due == 50
    assert large.broken_off > 0 and len(window.samples) < 50


async def test_a_whole_window_answers_all_and_counts_the_missed(large: ScriptedEngine) -> None:
    promise = Promise(0.0001, 0.0001, factor=1)
    window = await offered(way(LARGE, None, large, 1), TRAFFIC, Open(100, False), 0.25, 0.125, promise, whole=True)
    assert len(window.samples) == window.due == 25 and window.missed == 25 and not window.held
    assert large.broken_off == 0


async def test_a_light_load_holds(small: ScriptedEngine) -> None:
    promise = Promise(1, 1, factor=100)
    window = await offered(way(SMALL, small, None, 0), TRAFFIC, Open(20, False), 0.5, 0.2, promise, whole=False)
    assert window.held and window.missed == 0
