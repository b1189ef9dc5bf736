"""Logging changes the process that it is in, so each test looks at a process of its own."""

import json
import subprocess
import sys
from typing import Any

import pytest

PROLOGUE = """
import logging, os, subprocess, sys, warnings
from tierserve.config import LogConfig
from tierserve.core import *
from tierserve.telemetry.logs import configured, log_outcome
"""


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", PROLOGUE + code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stderr


def records(code: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run(code).splitlines()]


def test_every_line_is_json_whoever_writes_it() -> None:
    found = records(
        """
with configured(LogConfig()):
    logging.getLogger("a").info("said %d", 1)
    warnings.warn("warned")
    os.write(2, b"native \\xff code\\n")
    subprocess.run([sys.executable, "-c", "import sys; print('a child', file=sys.stderr)"])
    try:
        1 / 0
    except ZeroDivisionError:
        logging.exception("failed")
"""
    )
    messages = [record["message"] for record in found]
    assert "said 1" in messages
    assert "native \\xff code" in messages
    assert "a child" in messages
    assert any("warned" in message for message in messages)
    assert "ZeroDivisionError" in next(record["exc_info"] for record in found if record["message"] == "failed")
    assert all(record["level"] and record["time"] and record["pid"] for record in found)


def test_a_child_s_own_records_pass_as_they_are() -> None:
    (record,) = records(
        """
child = "import logging.config, json, os; c = json.load(open(os.environ['VLLM_LOGGING_CONFIG_PATH']));"
child += "logging.config.dictConfig(c); logging.getLogger('vllm.x').warning('from a child')"
child += "; logging.getLogger('vllm.x').info('chatter'); logging.getLogger('vllm.x').warning('Enforce eager set, so')"
with configured(LogConfig()):
    subprocess.run([sys.executable, "-c", child])
"""
    )
    assert (record["message"], record["logger"], record["level"]) == ("from a child", "vllm.x", "WARNING")


def test_text_is_for_people() -> None:
    text = run("with configured(LogConfig(format='text')): logging.getLogger('a').warning('mind')")
    assert text.rstrip().endswith(" WARNING mind")


@pytest.mark.parametrize(("level", "expected"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_the_level_is_the_least_that_is_written(level: str, expected: int) -> None:
    code = f"with configured(LogConfig(level={level!r})):\n  for n in (10, 20, 30, 40): logging.log(n, 'x')"
    assert len(records(code)) == expected


OUTCOME = """
call = Call("an-id", Kind.CHAT, {"messages": ["a secret"]}, (Prompt("a secret"),))
outcome = Outcome(call, Status.STATUS, Decision(Role.SMALL, Cause.SCORE, 1.23), "s", Usage(3, 4), 0.001, 0.2, 0.3)
with configured(LogConfig()): log_outcome(outcome)
"""


def test_an_outcome_is_one_record_without_what_was_said() -> None:
    text = run(OUTCOME.replace("STATUS", "OK", 1))
    assert "secret" not in text
    record = json.loads(text)
    assert {name: record[name] for name in ("request_id", "status", "tier", "cause", "score", "total_s")} == {
        "request_id": "an-id",
        "status": "ok",
        "tier": "s",
        "cause": "score",
        "score": 1.23,
        "total_s": 0.3,
    }


def test_what_was_found_out_about_an_answer_is_in_its_record() -> None:
    judged = "Judgement(0.12345, Doubt.LOW, True, 0.25, Usage(7, 5), Prewarm.LATE)"
    (record,) = records(OUTCOME.replace("STATUS", "OK", 1).replace("0.3)", f"0.3, {judged})"))
    assert {name: record[name] for name in ("confidence", "doubt", "escalated", "held_s", "prewarm")} == {
        "confidence": 0.1235,
        "doubt": "low",
        "escalated": True,
        "held_s": 0.25,
        "prewarm": "late",
    }
    assert (record["wasted_prompt_tokens"], record["wasted_completion_tokens"]) == (7, 5)
    assert "confidence" not in json.loads(run(OUTCOME.replace("STATUS", "OK", 1)))


def test_cost_and_trace_are_in_its_record_where_they_are_known() -> None:
    priced = OUTCOME.replace("STATUS", "OK", 1).replace("0.3)", "0.3, cost=Cost(1.5, 4.0))")
    (record,) = records(priced.replace('"a secret"),))', '"a secret"),), trace=Trace(255, 2))'))
    assert (record["cost"], record["cost_all_large"]) == (1.5, 4.0)
    assert record["trace_id"] == "0" * 30 + "ff"
    assert not {"cost", "trace_id"} & set(json.loads(run(OUTCOME.replace("STATUS", "OK", 1))))


def test_a_broken_answer_is_a_warning() -> None:
    assert json.loads(run(OUTCOME.replace("STATUS", "ERROR", 1)))["level"] == "WARNING"
    assert json.loads(run(OUTCOME.replace("STATUS", "INVALID", 1)))["level"] == "INFO"


def test_a_traceback_at_the_very_end_is_not_lost() -> None:
    code = PROLOGUE + "with configured(LogConfig()): raise RuntimeError('the end')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "RuntimeError: the end" in done.stderr
