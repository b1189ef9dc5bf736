import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT
from tierserve import __version__
from tierserve.cli import main
from tierserve.lab.question import Split
from tierserve.lab.tasks import mix

COMMAND = str(Path(sys.executable).with_name("tierserve"))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """The command in this process: exit status, standard output, standard error."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["tierserve", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        code = ended.value.code
        assert isinstance(code, int)
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def write(tmp_path: Path) -> Callable[[Any], str]:
    def write(data: Any) -> str:
        path = tmp_path / "node.yaml"
        path.write_text(yaml.safe_dump(data))
        return str(path)

    return write


@pytest.mark.parametrize("arguments", [["--help"], ["schema"], ["--version"]])
def test_a_light_command_answers_within_a_second_of_cpu_time(arguments: list[str]) -> None:
    def cpu_s() -> float:
        process = subprocess.Popen([COMMAND, *arguments], stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        return usage.ru_utime + usage.ru_stime

    assert min(cpu_s() for _ in range(3)) < 1


def test_version(run: Callable[..., tuple[int, str, str]]) -> None:
    assert run("--version") == (0, f"tierserve {__version__}\n", "")


def test_schema_is_what_editors_read(run: Callable[..., tuple[int, str, str]]) -> None:
    status, out, _ = run("schema")
    schema = json.loads(out)
    assert status == 0
    assert schema["additionalProperties"] is False
    assert set(schema["properties"]) >= {"server", "router", "tiers", "log"}


def test_no_configuration_is_a_usage_error(run: Callable[..., tuple[int, str, str]]) -> None:
    for arguments in ([], ["check"], ["route", "hello"]):
        status, _, err = run(*arguments)
        assert status == 2
        assert "--config FILE is missing" in err


def test_an_absent_file_says_so(run: Callable[..., tuple[int, str, str]]) -> None:
    status, out, err = run("check", "--config", "nowhere.yaml")
    assert (status, out) == (2, "")
    assert err.startswith("tierserve: nowhere.yaml: can't be read")


def test_the_option_may_stand_on_either_side_of_the_command(run: Callable[..., tuple[int, str, str]]) -> None:
    for arguments in (["--config", "nowhere.yaml", "check"], ["check", "--config", "nowhere.yaml"]):
        assert "nowhere.yaml" in run(*arguments)[2]


@pytest.mark.engine
@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "configs").glob("*.yaml")))
def test_every_configuration_that_we_ship_is_valid(name: str, run: Callable[..., tuple[int, str, str]]) -> None:
    status, out, err = run("check", "--config", str(ROOT / "configs" / name))
    assert status == 0, err
    assert out.endswith("valid\n")


@pytest.mark.engine
@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("tensor_paralel_size", 2, "tiers.small.engine.tensor_paralel_size: vLLM's AsyncEngineArgs has no such option"),
        ("max_model_len", "long", "tiers.small.engine.max_model_len"),
        ("gpu_memory_utilization", 1.5, "tiers.small.engine.gpu_memory_utilization"),
        ("quantization", 8, "tiers.small.engine.quantization"),
        ("served_model_name", "x", "set the tier's `name`"),
        ("device_ids", [0, 0], "names a device twice"),
        ("device_ids", [0, 1], "2 devices, but tensor x pipeline x data parallel size is 1"),
    ],
)
def test_engine_options_are_checked_by_path(
    option: str, value: Any, said: str, lab: dict[str, Any], write: Any, run: Any
) -> None:
    lab = json.loads(json.dumps(lab))
    lab["tiers"]["small"]["engine"][option] = value
    status, _, err = run("check", "--config", write(lab))
    assert status == 2
    assert said in err
    assert "Traceback" not in err


def test_route_prints_the_decision(lab: dict[str, Any], write: Any, run: Any) -> None:
    """By the head that comes with tierserve: it has examples to show."""
    path = write(lab | {"router": {}})
    status, out, _ = run("route", "--config", path, "What is Python?")
    assert status == 0
    first, title, *nearest = out.splitlines()
    assert re.fullmatch(r"lab-small \(small\): score \d\.\d\d <= 4, by head", first)
    assert title == "nearest known:"
    assert [line.split()[0] for line in nearest] == ["simple"] * 3
    hard = "Explain the CAP theorem trade-offs in distributed databases"
    status, out, _ = run("route", "--config", path, "--json", hard)
    decision = json.loads(out)
    assert decision.pop("score") > 4
    nearest = decision.pop("nearest")
    assert decision == {"tier": "lab-large", "role": "large", "threshold": 4.0, "cause": "score", "scorer": "head"}
    assert len(nearest) == 3
    assert all(set(each) == {"prompt", "label", "cosine"} for each in nearest)
    assert "hard" in {each["label"] for each in nearest}
    assert nearest == sorted(nearest, key=lambda each: -each["cosine"])


@pytest.mark.parametrize(
    ("prompt", "decision"),
    [
        ("The lamp is red. The phone ships to Oslo. Where does the phone ship to?", r"lab-small \(small\): .* <= 4"),
        ("Shift XCI by 2 in the alphabet.", r"lab-large \(large\): .* > 4"),
    ],
)
def test_route_asks_the_head_of_the_configuration(prompt: str, decision: str, run: Any) -> None:
    status, out, err = run("route", "--config", str(ROOT / "configs" / "lab.yaml"), prompt)
    assert status == 0, err
    first, title, *nearest = out.splitlines()
    assert re.fullmatch(rf"{decision}, by head", first)
    assert (title, len(nearest)) == ("nearest known:", 3)


def test_route_of_nothing_is_a_usage_error(lab: dict[str, Any], write: Any, run: Any) -> None:
    status, _, err = run("route", "--config", write(lab), "  ")
    assert status == 2
    assert "the prompt is empty" in err


TRAFFIC = str(ROOT / "benchmarks" / "traffic.jsonl")
PROMPTS = len(Path(TRAFFIC).read_text().splitlines())


def test_a_head_is_fitted_and_then_routes_and_is_evaluated(
    lab: dict[str, Any], write: Any, run: Any, tmp_path: Path
) -> None:
    head, plot = tmp_path / "mine.npz", tmp_path / "curve.png"
    status, out, err = run("calibrate", "--traffic", TRAFFIC, "--out", str(head))
    assert status == 0, err
    fitted, threshold = out.splitlines()
    assert fitted == f"{head}: fitted to {PROMPTS} prompts of everyday traffic"
    assert re.fullmatch(r"router.threshold: \d\.\d\d sends 15% to the large tier", threshold)

    lab = json.loads(json.dumps(lab)) | {"router": {"head": "mine.npz"}}  # beside the configuration's file
    status, out, err = run("route", "--config", write(lab), "--json", "Prove that there are infinitely many primes.")
    assert status == 0, err
    assert json.loads(out)["score"] > 4

    status, out, err = run("evaluate", "--data", TRAFFIC, "--head", str(head), "--json", "--plot", str(plot))
    assert status == 0, err
    report = json.loads(out)
    assert set(report) == {"data", "scorers"}
    assert report["data"] == [TRAFFIC]
    assert set(report["scorers"]) == {"head", "seeds", "length", "random"}
    for measured in report["scorers"].values():
        assert set(measured) == {"apgr", "cpt50", "cpt80", "quality_at_15", "quality_at_30"}
        assert all(set(interval) == {"value", "low", "high"} for interval in measured.values())
    assert report["scorers"]["head"]["apgr"]["value"] > 0.9
    assert report["scorers"]["random"]["apgr"]["value"] == pytest.approx(0.5)
    assert plot.read_bytes().startswith(b"\x89PNG")

    status, out, err = run("evaluate", "--data", TRAFFIC, "--config", write(lab))
    assert status == 0, err
    assert out.splitlines()[1].split()[:2] == ["head", f"{report['scorers']['head']['apgr']['value']:.3f}"]


def test_calibrate_says_how_each_kind_did_on_what_it_had_not_seen(run: Any, tmp_path: Path) -> None:
    data, head = tmp_path / "sums.jsonl", tmp_path / "head.npz"
    sums = [" plus ".join(str((7 * row + 3 * term) % 50) for term in range(2 + row % 6)) for row in range(90)]
    rows = [{"prompt": f"What is {each}?", "small_score": each.count("plus") < 3, "large_score": 1} for each in sums]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ("--data", str(data), "--traffic", TRAFFIC, "--large-share", "0.2", "--out", str(head))
    status, out, err = run("calibrate", *options)
    assert status == 0, err
    *kinds, fitted, threshold = out.splitlines()
    assert [line.split()[0] for line in kinds] == ["linear", "kernel", "net"]
    assert all(re.search(r"APGR 0\.\d{3} on questions that it was not fitted on$", line) for line in kinds)
    assert re.fullmatch(rf"{head}: fitted to 90 of sums \(\w+\); {PROMPTS} prompts of everyday traffic", fitted)
    assert re.fullmatch(r"router.threshold: \d\.\d\d sends 20% to the large tier", threshold)


def test_calibrate_needs_outcomes_and_a_place_to_write(run: Any, tmp_path: Path) -> None:
    status, _, err = run("calibrate", "--out", str(tmp_path / "head.npz"))
    assert status == 2
    assert "name outcome files, --data, --traffic or both, or a decision log" in err
    status, _, err = run("calibrate", "--traffic", TRAFFIC)
    assert status == 2
    assert "required: --out" in err
    (tmp_path / "folder.npz").mkdir()
    for path, said in (
        (tmp_path / "absent" / "h.npz", "there is no folder"),
        (tmp_path / "folder.npz", "can't be written"),
    ):
        status, out, err = run("calibrate", "--traffic", TRAFFIC, "--out", str(path))
        assert (status, out) == (2, "")
        assert err.startswith("tierserve: --out: ")
        assert said in err
        assert " — " in err


@pytest.mark.parametrize("share", ["0", "1", "-0.1", "1.5", "nan", "some"])
def test_a_share_lies_between_0_and_1(share: str, run: Any, tmp_path: Path) -> None:
    options = ("--traffic", TRAFFIC, "--out", str(tmp_path / "head.npz"), f"--large-share={share}")
    status, _, err = run("calibrate", *options)
    assert status == 2
    assert "argument --large-share: " in err


@pytest.mark.parametrize("command", [("calibrate", "--out", "head.npz"), ("evaluate",)])
def test_outcomes_that_can_t_be_read_are_named(command: tuple[str, ...], run: Any, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"prompt": "hi", "small_score": 2, "large_score": 1}\n')
    for path, said in ((tmp_path / "absent.jsonl", ": can't be read"), (bad, ":1: `small_score` must be a number")):
        status, out, err = run(*command, "--data", str(path))
        assert (status, out) == (2, "")
        assert err.startswith(f"tierserve: {path}{said}")


def test_what_the_assessor_says_is_fitted_into_a_head_that_then_routes(
    lab: dict[str, Any], write: Any, run: Any, tmp_path: Path
) -> None:
    head, prompts = tmp_path / "mine.npz", tmp_path / "prompts.jsonl"
    texts = [question.prompt for question in mix(Split.TRAIN, 150, seed=1)]
    prompts.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
    options = ("distill", "--config", write(lab), "--prompts", str(prompts), "--out", str(head))
    status, out, err = run(*options)
    assert status == 0, err
    before, *kinds, fitted, ratings, threshold = out.splitlines()
    assert re.fullmatch(r"Spearman with the assessor: 0\.\d{3} of the head before", before)
    assert [line.split()[3] for line in kinds] == ["linear", "kernel", "net"]
    assert all(re.search(r"-?0\.\d{3} of a \w+ one, on prompts that it was not fitted on$", line) for line in kinds)
    assert fitted.startswith(f"{head}: fitted to 150 ratings of an assessor, 0.5 of the score (")
    assert re.fullmatch(r"router.threshold: \d\.\d\d sends 15% to the large tier", threshold)
    store = tmp_path / "mine.ratings.jsonl"
    assert ratings.startswith(f"{store}: the ratings")

    store.write_text("".join(store.read_text().splitlines(keepends=True)[:100]))  # as if it had been interrupted
    status, out, err = run(*options)
    assert (status, len(store.read_text().splitlines())) == (0, 150), err
    assert out.splitlines()[0] == before, "the same ratings again"

    path = write(lab | {"router": {"head": "mine.npz"}})  # it needs no assessor
    status, out, err = run("route", "--config", path, "--json", "Shift XCI by 2 in the alphabet.")
    assert status == 0, err
    assert json.loads(out)["cause"] == "score"


def test_distill_says_what_is_missing(lab: dict[str, Any], write: Any, run: Any, tmp_path: Path) -> None:
    prompts, out = tmp_path / "prompts.jsonl", str(tmp_path / "head.npz")
    status, _, err = run("distill", "--out", out)
    assert (status, "required: --prompts" in err) == (2, True)
    for content, said in (
        ("", "holds no prompts"),
        ('{"text": "x"}\n', ":1: has no `prompt`"),
        ("x\n", ":1: is not JSON"),
    ):
        prompts.write_text(content)
        status, _, err = run("distill", "--prompts", str(prompts), "--out", out)
        assert status == 2
        assert err.startswith(f"tierserve: {prompts}") and said in err
    prompts.write_text('{"prompt": "hi"}\n')
    nowhere = write(lab | {"router": {"assess": {"model": "./nowhere"}}})
    status, _, err = run("distill", "--config", nowhere, "--prompts", str(prompts), "--out", out)
    assert (status, "router.assess.model: there is no folder" in err) == (2, True)


def test_an_assessor_that_is_absent_stops_the_start(lab: dict[str, Any], write: Any) -> None:
    status, err = serve(write(lab | {"router": {"assess": {"model": "./lab-nowhere"}}}))
    assert status == 2
    said = err.splitlines()[-1]
    assert said.startswith("tierserve: router.assess.model: there is no folder ")
    assert said.endswith("or write `assess: off`")


def test_evaluate_names_a_head_that_is_none(run: Any, tmp_path: Path) -> None:
    head = tmp_path / "head.npz"
    head.write_text("no head")
    status, out, err = run("evaluate", "--data", TRAFFIC, "--head", str(head))
    assert (status, out) == (2, "")
    assert f"{head} holds no head" in err
    assert "tierserve calibrate" in err


def serve(path: str, **environment: str) -> tuple[int, str]:
    """`tierserve --config path`, which is expected to end by itself."""
    environment = dict(os.environ) | environment
    done = subprocess.run([COMMAND, "--config", path], capture_output=True, text=True, timeout=120, env=environment)
    return done.returncode, done.stderr


def test_a_port_that_is_taken_is_said_before_anything_loads(lab: dict[str, Any], write: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, err = serve(write(lab | {"server": {"port": port}}))
    assert status == 2
    assert (
        err == f"tierserve: server.port: 127.0.0.1:{port} is in use — stop what listens there, or choose another port\n"
    )


def test_a_hub_that_can_t_be_reached_stops_the_start_of_the_laptop_s_models(write: Any, tmp_path: Path) -> None:
    laptop = yaml.safe_load((ROOT / "configs" / "laptop-cpu.yaml").read_text())
    path = write(laptop | {"server": {"port": 0}})
    status, err = serve(path, HF_ENDPOINT="http://127.0.0.1:9", HF_HOME=str(tmp_path))
    assert status == 2
    said = err.splitlines()[-1]
    assert said.startswith("tierserve: tiers.small.engine.model: 'Qwen/Qwen2.5-0.5B-Instruct' is not on this machine")
    assert "hf download Qwen/Qwen2.5-0.5B-Instruct" in said
    assert "HF_HOME" in said


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "remove folder"])
def test_a_damaged_checkpoint_stops_the_start_and_is_named(
    damage: str, lab: dict[str, Any], write: Any, tmp_path: Path
) -> None:
    lab = json.loads(json.dumps(lab))
    folder = tmp_path / "lab-large"
    shutil.copytree(lab["tiers"]["large"]["engine"]["model"], folder)
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    match damage:
        case "flip":
            content[-1] ^= 1
            weights.write_bytes(content)
        case "truncate":
            weights.write_bytes(content[:-1])
        case "remove":
            weights.unlink()
        case "remove folder":
            shutil.rmtree(folder)
    lab["tiers"]["large"]["engine"]["model"] = str(folder)
    status, err = serve(write(lab))
    assert status == 2
    said = err.splitlines()[-1]
    assert said.startswith("tierserve: tiers.large.engine.model: ")
    assert str(folder) in said
    assert "make it again" in said
    assert "Traceback" not in err
