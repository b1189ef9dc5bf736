"""README's promises: what it names exists, and what exists it names."""

import re
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tierserve.config import load
from tierserve.core import Cause
from tierserve.server.api import routes
from tierserve.server.dashboard.pages import PAGE
from tierserve.server.refusal import PATHS

README = (ROOT / "README.md").read_text()
PAGES = [ROOT / page for page in ("README.md", "configs/OPERATIONS.md", "configs/README.md", "systemd/README.md")]


def test_the_first_screen_is_two_commands_a_curl_and_the_sdk() -> None:
    first = README[:3000]
    for promise in ("make demo", "make test", "curl -i", "x-tierserve-tier: ", "openai.OpenAI("):
        assert promise in first
    makefile = (ROOT / "Makefile").read_text()
    assert re.search(r"^demo:", makefile, re.M) and re.search(r"^test:", makefile, re.M)


def test_every_endpoint_is_in_the_table() -> None:
    paths = {getattr(route, "path", "").split("/{")[0] for route in routes}
    assert paths | {PAGE} == set(PATHS)
    assert all(path in README for path in paths)


def test_every_cause_is_explained() -> None:
    for cause in Cause:
        assert f"`{cause}`" in README


def test_every_configuration_is_listed() -> None:
    for path in (ROOT / "configs").glob("*.yaml"):
        assert f"configs/{path.name}" in README


def test_the_tree_names_every_room_and_module() -> None:
    tree = README[README.index("```\ntierserve/") :]
    package = ROOT / "tierserve"
    for path in package.iterdir():
        if path.name.startswith("_") or path.name == "__pycache__":
            continue
        assert (f"{path.name}/" if path.is_dir() else path.name) in tree, path.name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for target, heading in re.findall(r"\]\(([^)#]*)(?:#([^)]+))?\)", page.read_text()):
        file = page.parent / target if target else page
        assert file.exists(), target
        if heading:
            assert heading in _anchors(file), f"{target}#{heading}"


def _anchors(page: Path) -> set[str]:
    """As they are made of headings where such pages are shown."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_example_configuration_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", README, re.S)
    (tmp_path / "node.yaml").write_text(example)
    monkeypatch.setenv("BIG_KEY", "sesame")
    config = load(tmp_path / "node.yaml")
    assert config.tiers.large.remote is not None
    assert config.router.threshold == 4.0


def test_no_merge_left_its_marks() -> None:
    for page in PAGES:
        assert not [line for line in page.read_text().splitlines() if line.startswith(("<<<<<<< ", ">>>>>>> "))], page
