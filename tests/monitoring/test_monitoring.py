"""Dashboard and alert rules name what /metrics has, and do what they say: by Prometheus' own tool."""

import json
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from node import Node
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import ROOT
from tierserve.core import Role
from tierserve.telemetry.metrics import Metrics

MONITORING = ROOT / "configs" / "monitoring"
RULES = MONITORING / "alerts.yaml"
RULES_TEST = ROOT / "tests" / "monitoring" / "alerts_test.yaml"
ALERTS = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
DASHBOARD = json.loads((MONITORING / "grafana-dashboard.json").read_text())
PANELS: list[dict[str, Any]] = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
EXPRESSIONS = [rule["expr"] for rule in ALERTS] + [target["expr"] for panel in PANELS for target in panel["targets"]]

PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="needs promtool (Debian: the package prometheus)")

EXPOSITION = Metrics(Role).render([]).decode()
_NAME = re.compile(r"\b(?:tierserve_|vllm:)[a-z_]+")
_SELECTOR = re.compile(r"\b(tierserve_[a-z_]+)\{([^}]*)\}")
_MATCHER = re.compile(r'(\w+)\s*(=~|!=|=)\s*"([^"]*)"')


def promtool(*arguments: str, text: str | None = None) -> None:
    done = subprocess.run([str(PROMTOOL), *arguments], input=text, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def samples(text: str = EXPOSITION) -> Iterator[tuple[str, dict[str, str]]]:
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            yield sample.name, sample.labels


def values_of(name: str, label: str) -> set[str]:
    return {labels[label] for found, labels in samples() if found == name and label in labels}


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_every_metric_of_ours_exists_with_the_labels_that_are_asked_for(expression: str) -> None:
    exported = {name for name, _ in samples()}
    for name in _NAME.findall(expression):
        assert name.startswith("vllm:") or name in exported, name
    for name, selector in _SELECTOR.findall(expression):
        for label, operator, value in _MATCHER.findall(selector):
            if label in ("instance", "job"):  # Prometheus' own
                continue
            wanted = value.split("|") if operator == "=~" else [value]
            assert set(wanted) <= values_of(name, label), f"{name} has no {label} {value}"


def test_a_grouping_is_by_a_label_that_exists() -> None:
    of_engines = {"model_name"}
    for expression in EXPRESSIONS:
        known = of_engines if "vllm:" in expression else set()
        for name in _NAME.findall(expression):
            known = known | {label for found, labels in samples() if found == name for label in labels}
        for labels in re.findall(r"by \(([^)]*)\)", expression):
            assert set(re.split(r",\s*", labels)) <= known | {"instance"}, expression


@needs_promtool
def test_the_exposition_is_as_prometheus_wants_it() -> None:
    promtool("check", "metrics", text=EXPOSITION)


@needs_promtool
def test_the_rules_are_valid_and_fire_on_what_they_say() -> None:
    promtool("check", "rules", str(RULES))
    promtool("test", "rules", str(RULES_TEST))


def test_the_rules_tests_leave_no_alert_out_and_feed_real_series() -> None:
    said = RULES_TEST.read_text()
    for alert in ALERTS:
        assert re.search(rf'alertname[=:] ?"?{alert["alert"]}\b', said), alert["alert"]
    for test in yaml.safe_load(said)["tests"]:
        for series in test["input_series"]:
            if series["series"].startswith("up{"):
                continue
            (name, selector) = re.fullmatch(r"(\w+)\{(.*)\}", series["series"]).groups()  # type: ignore[union-attr]
            labels = {label: value for label, _, value in _MATCHER.findall(selector) if label != "instance"}
            names = {frozenset(each) for found, each in samples() if found == name}
            assert frozenset(labels) in names, series["series"]
            for label, value in labels.items():
                known = values_of(name, label) | ({"mine"} if label == "key" else set())  # keys are the operator's
                assert value.removesuffix(".0") in {each.removesuffix(".0") for each in known}, series["series"]


@needs_promtool
def test_every_query_of_the_dashboard_is_promql(tmp_path: Path) -> None:
    rules = [
        {
            "record": f"panel:{panel['id']}:{target['refId']}",
            "expr": target["expr"].replace("$__rate_interval", "1m").replace("$instance", ".*"),
        }
        for panel in PANELS
        for target in panel["targets"]
    ]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool("check", "rules", str(tmp_path / "rules.yaml"))


def test_panels_stand_beside_each_other_and_are_explained_by_their_titles() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken and place["x"] + place["w"] <= 24, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    assert all(panel["title"] and panel["fieldConfig"]["defaults"]["unit"] for panel in PANELS)


def test_every_metric_of_ours_is_on_the_dashboard_or_in_an_alert() -> None:
    used = {name for expression in EXPRESSIONS for name in _NAME.findall(expression)}
    for family in Metrics(Role).registry.collect():
        if family.name.startswith("tierserve_"):
            suffix = {"counter": "_total", "histogram": "_bucket"}.get(family.type, "")
            assert family.name + suffix in used, family.name


@pytest.mark.engine
def test_the_engines_metrics_exist(node: Node) -> None:
    with urllib.request.urlopen(f"{node.url}/metrics", timeout=30) as response:
        exported = {name for name, _ in samples(response.read().decode())}
    for expression in EXPRESSIONS:
        for name in _NAME.findall(expression):
            assert name in exported, name
