"""The architecture, checked: imports point one way, and the light parts stay light."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import tierserve

PACKAGE = Path(tierserve.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

# DESIGN: each room may import the rooms on lines above its own, and itself.
LAYERS = [
    {"__init__", "core", "errors", "threads"},
    {"config", "deadline", "weights"},
    {"router", "tiers", "confidence", "cost", "telemetry"},
    {"escalation"},
    {"pipeline"},
    {"quality"},
    {"server", "reference"},
    {"lab"},
    {"cli"},
    {"__main__"},
]


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def level(name: str) -> int:
    return next(index for index, rooms in enumerate(LAYERS) if name in rooms)


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Each module that a file imports, and whether only for type checkers."""
    tree = ast.parse(path.read_text())
    for_types = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [node.module or ""]
            if node.module == "tierserve":
                names = [f"tierserve.{alias.name}" for alias in node.names if not alias.name.startswith("__")]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            yield name, node in for_types


def test_every_room_has_a_layer() -> None:
    known = set().union(*LAYERS)
    assert {room(path) for path in MODULES} <= known


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    for name, _ in imports(path):
        parts = name.split(".")
        if parts[0] != "tierserve":
            continue
        target = parts[1] if len(parts) > 1 else "__init__"
        assert target == room(path) or level(target) < level(room(path)), f"{path.name} imports {name}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_vllm_is_known_to_its_adapters_alone(path: Path) -> None:
    for name, only_for_types in imports(path):
        if name.split(".")[0] == "vllm" and not only_for_types:
            assert path.parent.name == "tiers" and path.name.startswith("vllm_"), f"{path.name} imports {name}"


def test_the_pipeline_and_the_router_know_no_http() -> None:
    for path in [PACKAGE / "pipeline.py", *(PACKAGE / "router").rglob("*.py")]:
        assert not {name.split(".")[0] for name, _ in imports(path)} & {"aiohttp", "sqlite3", "prometheus_client"}


def test_importing_everything_light_loads_nothing_heavy() -> None:
    heavy = {"torch", "vllm", "transformers", "sentence_transformers", "openvino", "onnxruntime", "nncf", "sklearn"}
    heavy |= {"matplotlib", "scipy", "opentelemetry"}
    code = (
        "import sys, tierserve, tierserve.cli, tierserve.pipeline, tierserve.server.serve, tierserve.lab;"
        f"print(sorted({heavy} & set(sys.modules)))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_scoring_needs_numpy_alone() -> None:
    """In a process that has neither the libraries which fit heads nor those which run the encoder."""
    code = """
import sys
absent = ("sklearn", "scipy", "torch", "tokenizers", "transformers", "sentence_transformers", "openvino", "onnxruntime")
sys.modules.update(dict.fromkeys(absent))  # None: importing it fails
import numpy as np
from tierserve.core import Prompt
from tierserve.router.scoring.features import features
from tierserve.router.scoring.head import DEFAULT, Head
head = Head.load(DEFAULT)
vector = np.zeros(head.dimensions, np.float32)
assert 0 <= head.score(Prompt("What is Python?"), vector) <= 10
assert len(head.nearest(vector, 3)) == 3
assert np.isfinite(features(Prompt(""))).all()
print(sorted({name.split(".")[0] for name in sys.modules} & {"pydantic", "yaml", "aiohttp"}))
"""
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
