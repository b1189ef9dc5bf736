"""benchmarks/load.py as a person runs it, against a small server."""

import asyncio
import json
import re
import signal
import sys
from pathlib import Path

import load
import pytest
from loadgen import PlanError

from tests.conftest import ROOT
from tests.loadgen.conftest import WORDS, Server

Ended = tuple[int, str, str]


async def started(*arguments: str) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    command = [sys.executable, "benchmarks/load.py", *arguments]
    return await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=pipe, stderr=pipe)


async def ended(process: asyncio.subprocess.Process) -> Ended:
    out, err = await asyncio.wait_for(process.communicate(), 120)
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_the_table_and_the_plots(server: Server, tmp_path: Path) -> None:
    target = ["--target", f"url={server.url}", "model=auto", "header:x-team=ml"]
    more = ["--count", "20", "--concurrency", "1", "2", "--slo", "e2e_ms=60000", "--plot", str(tmp_path)]
    more += ["--large", "large", "--price", "large=1:2"]
    status, out, err = await ended(await started(*target, *more))
    assert status == 0, err
    lines = {line.split("  ")[0].strip(): line for line in map(str.lstrip, out.splitlines()) if line}
    assert re.search(r"^ +auto, 1 at once +auto, 2 at once$", out, re.M)
    assert lines["requests"].split()[1:] == ["20", "20"]
    assert lines["large share"].count("100.0%") == lines["escalated"].count("100.0%") == 2
    assert lines["within SLO"].count("100.0%") == 2
    assert lines["answered by"].count("large 20") == 2
    assert lines["cost of 1000"].split()[3:] == [f"{(7 + 2 * WORDS) / 1000:.4g}"] * 2
    assert "CPU" in lines["client"]
    assert "errors" not in lines
    assert err.count("drawn: ") == 2
    assert server.headers[0]["x-team"] == "ml"
    assert len(server.bodies) == 41  # one beforehand, to see that it answers


async def test_one_json_object_and_nothing_else(server: Server) -> None:
    targets = ["--target", f"url={server.url}", "model=m", "--target", f"url={server.url}", "model=broken"]
    more = ["--rate", "300", "--constant", "--no-stream", "--quick", "--json", "--body", '{"temperature": 0}']
    status, out, err = await ended(await started(*targets, *more))
    assert status == 0, err
    report = json.loads(out)
    assert (report["benchmark"], report["quick"], report["targets"]) == ("load", True, [])
    assert [row["target"] for row in report["results"]] == ["m", "broken"]
    assert all(row["load"] == "300/s constant" and row["requests"] > 100 for row in report["results"])
    assert all(body["temperature"] == 0 and "stream" not in body for body in server.bodies)


async def test_ctrl_c_reports_what_was_measured(server: Server) -> None:
    under_way = asyncio.Event()

    async def pause() -> None:
        if len(server.bodies) > 50:
            under_way.set()

    server.pause = pause  # type: ignore[method-assign]
    process = await started("--target", f"url={server.url}", "model=m", "--seconds", "3600", "--json")
    await asyncio.wait_for(under_way.wait(), 120)
    process.send_signal(signal.SIGINT)
    status, out, err = await ended(process)
    assert status == 0, err
    (row,) = json.loads(out)["results"]
    assert row["requests"] >= 40
    assert 0 < row["seconds"] < 3600
    assert "Traceback" not in err


async def test_a_server_that_does_not_answer_is_named(server: Server) -> None:
    status, out, err = await ended(await started("--target", f"url={server.url}", "model=absent"))
    assert (status, out) == (2, "")
    assert "load.py: absent at http" in err and "404" in err and "there is no such model" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--rate", "-3"], "a rate must be above 0"),
        (["--rate", "nan"], "a rate must be above 0"),
        (["--concurrency", "0"], "concurrency must be at least 1"),
        (["--prompts", "absent.jsonl"], "absent.jsonl can't be read"),
        (["--body", "{"], "--body is not JSON"),
        (["--body", "[]"], "--body must be a JSON object"),
        (["--slo", "ttft=3"], "--slo does not know ttft"),
        (["--slo", "ttft_ms=soon"], "'soon' is no number"),
        (["--price", "small"], "--price takes KEY=VALUE"),
        (["--price", "small=cheap"], "'cheap' is no number"),
        (["--seconds", "3", "--count", "3"], "either the seconds"),
        (["--target", "url=http://h"], "--target lacks model"),
        (["--target", "url=http://h", "model=x", "modle=y"], "--target does not know modle"),
        (["--target", "url=http://h", "model=x", "key_env=NOBODY_SET_THIS"], "NOBODY_SET_THIS, which is not set"),
        (["--target", "url=http://h", "model=m"], "called alike"),
        (["--target", "url=h:80", "model=x"], "no URL"),
    ],
)
def test_what_is_wrong_with_the_words_is_said(words: list[str], says: str) -> None:
    options = load._parser().parse_args(["--target", "url=http://h", "model=m", *words])
    with pytest.raises(PlanError, match=says):
        load._plan(options)
        load._asked(options)


def test_a_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", "sesame")
    options = load._parser().parse_args(["--target", "url=http://h", "model=m", "key_env=A_KEY"])
    (endpoint,) = load._plan(options).endpoints
    assert endpoint.headers == {"authorization": "Bearer sesame"}
