"""README's promises: what it names exists, and what exists it names."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tierserve.config import load
from tierserve.core import Cause
from tierserve.server.api import routes
from tierserve.server.dashboard.pages import PAGE
from tierserve.server.refusal import PATHS

README = (ROOT / "README.md").read_text()


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


@pytest.mark.parametrize("page", ["README.md", "configs/OPERATIONS.md", "configs/README.md", "systemd/README.md"])
def test_links_lead_to_files_and_to_headings_in_them(page: str) -> None:
    path = ROOT / page
    for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if link.startswith("http"):
            continue
        file, _, heading = link.partition("#")
        target = path.parent / file if file else path
        assert target.exists(), link
        assert not heading or heading in _headings(target), link


def _headings(page: Path) -> set[str]:
    """As GitHub writes them in links."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_no_merge_was_left_half_done() -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "*.md", "*.py", "*.yaml", "*.toml"], cwd=ROOT, capture_output=True, text=True
    )
    names = tracked.stdout.split() or ["README.md"]  # no git, in a source archive
    for name in names:
        assert not re.search(r"^(<{7}|>{7}) ", (ROOT / name).read_text(), re.M), name


def test_the_example_configuration_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", README, re.S)
    (tmp_path / "node.yaml").write_text(example)
    monkeypatch.setenv("BIG_KEY", "sesame")
    config = load(tmp_path / "node.yaml")
    assert config.tiers.large.remote is not None
    assert config.router.threshold == 4.0
