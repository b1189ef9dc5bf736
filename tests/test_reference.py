"""configs/README.md is what `tierserve reference` prints, and that is whole."""

from typing import Any

from pydantic import BaseModel

from tests.conftest import ROOT
from tierserve.config import NodeConfig
from tierserve.core import Role
from tierserve.reference import reference
from tierserve.telemetry.metrics import Metrics

PAGE = reference()


def test_the_committed_page_is_the_generated_one() -> None:
    """Else: tierserve reference > configs/README.md"""
    assert (ROOT / "configs" / "README.md").read_text() == PAGE


def options(model: type[BaseModel], path: str = "", told: set[type[BaseModel]] | None = None) -> list[str]:
    """By the models' fields, where the page goes by the schema. A section that stands in two places is told once."""
    found, told = [], set() if told is None else told
    for name, field in model.model_fields.items():
        found.append(f"{path}{name}")
        annotations: list[Any] = [field.annotation, *getattr(field.annotation, "__args__", ())]
        for annotation in annotations:
            if isinstance(annotation, type) and issubclass(annotation, BaseModel) and annotation not in told:
                told.add(annotation)
                found += options(annotation, f"{path}{name}.", told)
    return found


def test_every_option_has_a_row_with_what_it_is_for() -> None:
    rows = {
        cells[1].strip(" `").replace("[]", ""): cells
        for cells in (line.split("|") for line in PAGE.splitlines() if "|" in line)
    }
    for option in options(NodeConfig):
        assert option in rows, option
        if not option.count("."):
            continue
        assert rows[option][4].strip(), f"{option} has no description"


def test_every_metric_has_a_row() -> None:
    for metric in Metrics(Role).registry.collect():
        if metric.name.startswith("tierserve_"):
            name = f"{metric.name}_total" if metric.type == "counter" else metric.name
            assert f"| `{name}` | {metric.type} |" in PAGE
            assert metric.documentation.endswith(".")


def test_bounds_choices_and_defaults_are_told() -> None:
    for row in (
        "| `router.threshold` | number ≥ 0, ≤ 10 | `4.0` |",
        "| `router.scorer` | `head`, `seeds`, `length` | `head` |",
        "| `tiers.large` | as `tiers.small` | required |",
        "| `router.assess` | section | `off` |",
        "| `tiers.small.remote` | section | none |",
        "| `server.host` | text | `127.0.0.1` |",
    ):
        assert row in PAGE, row
