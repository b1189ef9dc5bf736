"""Figures against values worked out by hand; the page for what it must not hold."""

import json
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.telemetry.decisions.test_log import decision_log, outcome
from tierserve.cli import main
from tierserve.core import Call, Caller, Cause, Cost, Decision, Doubt, Judgement, Kind, Prompt, Role, Status, Usage
from tierserve.quality.report.charts import Line, Series, bars
from tierserve.quality.report.figures import Report, figures
from tierserve.quality.report.page import page
from tierserve.quality.report.tables import as_text
from tierserve.quality.report.words import findings, saving

DAY = 86400.0
SAID = {
    "time": 0.0,
    "key": "",
    "tier": "s",
    "role": "small",
    "cause": "score",
    "score": 1.0,
    "threshold": 4.0,
    "confidence": 0.95,
    "escalated": 0,
    "status": "ok",
    "prompt_tokens": 10,
    "completion_tokens": 20,
    "wasted_prompt_tokens": 0,
    "wasted_completion_tokens": 0,
    "first_byte_s": 0.1,
    "total_s": 1.0,
    "cost": None,
    "cost_all_large": None,
}
LARGE = {"tier": "l", "role": "large", "confidence": None, "escalated": None}


def report(*rows: dict[str, Any]) -> Report:
    return figures([SAID | row for row in rows], 0.0, 30 * DAY)


def test_traffic_is_split_by_tier_and_cause() -> None:
    found = report(
        {},
        {"total_s": 3.0, "wasted_completion_tokens": 4},
        LARGE,
        LARGE | {"cause": "escalation", "escalated": 1, "confidence": 0.2},
        LARGE | {"cause": "model"},
        {"tier": None, "role": None, "cause": None, "status": "unavailable", "escalated": None, "confidence": None},
    )
    assert found.causes == {
        "score": {"s": 2, "l": 1},
        "escalation": {"l": 1},
        "model": {"l": 1},
        "none": {"none": 1},
    }
    assert (found.all.large.part, found.all.large.count) == (2, 4)  # who named a tier left no choice
    assert (found.all.escalated.part, found.all.escalated.count) == (1, 3)
    assert found.all.failed == 1 and found.wasted_tokens == 4
    assert found.tiers["s"].requests == 2 and found.tiers["s"].total_s[0] == 2.0
    assert found.confidences == [0, 0, 1, 0, 0, 0, 0, 0, 0, 2]
    assert found.mean_confidence == pytest.approx(0.7)


def test_saving_has_its_sign() -> None:
    cheap = report({"cost": 1.0, "cost_all_large": 4.0}, {"cost": 4.0, "cost_all_large": 4.0})
    dear = report({"cost": 5.0, "cost_all_large": 4.0})
    assert cheap.all.money.saving == pytest.approx(0.375) and saving(cheap.all.money) == "+37.5 % (too few)"
    assert dear.all.money.saving == pytest.approx(-0.25) and saving(dear.all.money).startswith("-25.0 %")
    assert "1 MORE" in findings(dear)[0]


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        all_large = rng.exponential(1.0, 200)
        spent = all_large * np.where(rng.random(200) < 0.3, 1.0, 0.1)
        costs = [{"cost": a, "cost_all_large": b} for a, b in zip(spent.tolist(), all_large.tolist(), strict=True)]
        interval = report(*costs).all.money.interval
        assert interval is not None
        held += interval[0] <= 1 - 0.37 <= interval[1]
    assert 0.91 < held / 400 < 0.98


def test_what_is_missing_is_said() -> None:
    assert findings(report()) == ["Nothing was decided in this time."]
    assert "set `cost:`" in findings(report({}))[0]
    some = findings(report({}, *[{"cost": 1.0, "cost_all_large": 2.0}] * 10))[0]
    assert "10 of 11 requests have a cost" in some and "20 more" in some
    assert "nothing to compare with" in findings(report({"cost": 1.0, "cost_all_large": 0.0}))[0]


def test_the_share_is_held_against_the_line() -> None:
    def said(large: int, small: int) -> str:
        return findings(report(*[LARGE] * large, *[{}] * small))[1]

    assert "above the 30 % line" in said(500, 500)
    assert "below the 30 % line" in said(100, 900)
    assert "not clearly on either side" in said(3, 7)


def test_keys_and_days_are_apart_and_no_day_is_left_out() -> None:
    found = report(
        {"key": "a", "cost": 1.0, "cost_all_large": 2.0},
        {"key": "b", "time": 2 * DAY + 5, "cost": 3.0, "cost_all_large": 2.0},
        {"key": "b", "time": 2 * DAY + 6},
    )
    assert list(found.days) == ["1970-01-01", "1970-01-02", "1970-01-03"]
    assert [part.requests for part in found.days.values()] == [1, 0, 2]
    assert list(found.keys) == ["b", "a"]
    assert found.keys["b"].money.saved == -1 and found.keys["a"].money.saved == 1
    assert "1970-01-02" in as_text(found)


def test_as_json_it_is_json_with_all_figures() -> None:
    data = json.loads(json.dumps(report({"cost": 1.0, "cost_all_large": 4.0}, LARGE).as_json(), allow_nan=False))
    assert data["requests"] == 2 and data["saving"] == 0.75 and data["saving_interval"] is None
    assert data["days"]["1970-01-01"]["saved"] == 3 and data["keys"][""]["requests"] == 2
    json.dumps(report().as_json(), allow_nan=False)


class Parsed(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "line", "rect"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("line", "rect"):
            assert self.open.pop() == tag


def test_the_page_loads_nothing_and_shows_markup_as_text() -> None:
    evil = "<script>alert(1)</script>"
    found = report({"key": evil, "tier": '"><img src=x>', "cost": 1.0, "cost_all_large": 2.0}, LARGE)
    text = page(found)
    parsed = Parsed(text)
    assert parsed.open == []
    tags = {tag for tag, _ in parsed.tags}
    assert not tags & {"script", "img", "link", "iframe"} and "svg" in tags
    for _, attributes in parsed.tags:
        assert not {"src", "href", "onload", "srcset"} & set(attributes)
    assert "http:" not in text and "https:" not in text and "url(" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "prefers-color-scheme: dark" in text and "width=device-width" in text


def test_the_page_has_the_same_figures() -> None:
    found = report(*[{"cost": 1.0, "cost_all_large": 4.0}] * 40, *[LARGE] * 20)
    for finding in findings(found):
        assert finding in page(found).replace("&#x27;", "'")


def test_a_page_without_requests_says_so() -> None:
    assert "Nothing was decided" in page(report()) and "<svg" not in page(report())


def test_bars_stand_on_zero_and_below() -> None:
    svg = bars("x", ["a", "b", "c"], [Series("s", [2.0, -1.0, 0.0], "c0")], line=Line(1.0, "limit"))
    rects = [dict(attrs) for tag, attrs in Parsed(svg).tags if tag == "rect"]
    up, down = ({name: float(each[name] or 0) for name in ("y", "height")} for each in rects)
    assert up["y"] + up["height"] == pytest.approx(down["y"], abs=0.2)  # both stand on zero
    assert up["height"] == pytest.approx(2 * down["height"], rel=0.01)


@pytest.mark.parametrize("top", [0.0, 1e-6, 0.3, 1.0, 7.0, 1310.0, 9.9e9])
def test_axes_have_a_handful_of_round_ticks(top: float) -> None:
    svg = bars("x", ["a"], [Series("s", [top], "c0")])
    assert 3 <= svg.count('class="grid"') <= 7


def test_the_command_reads_a_node_s_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, html = tmp_path / "log.sqlite", tmp_path / "report.html"
    with decision_log(path) as log:
        for number in range(40):
            key = Caller("alice" if number % 4 else "bob")
            call = Call(str(number), Kind.CHAT, {}, (Prompt("x"),), caller=key)
            log.record(outcome(call=call, cost=Cost(0.1, 0.4), total_s=0.5, judgement=Judgement(0.9)))
        escalated = Judgement(0.2, Doubt.LOW, True, 0.1, Usage(3, 4))
        decision = Decision(Role.LARGE, Cause.ESCALATION, 3.0)
        log.record(outcome(decision=decision, tier="l", judgement=escalated, cost=Cost(0.5, 0.4)))
        log.record(outcome(status=Status.UNAVAILABLE, tier=None))

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["tierserve", "report", "--file", str(path), *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 0
        return capsys.readouterr().out

    text = run("--html", str(html))
    assert "42 requests" in text and "a saving of +72.6 %" in text and "escalation" in text
    assert html.read_text().startswith("<!doctype html>")
    data = json.loads(run("--json", "--key", "bob"))
    assert data["requests"] == 10 and data["key"] == "bob"
