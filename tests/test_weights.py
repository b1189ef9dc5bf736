from pathlib import Path

import pytest

from tierserve.errors import ConfigError
from tierserve.weights import check_weights


def test_a_folder_without_sums_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    check_weights(str(tmp_path), "here")


def test_a_folder_that_is_no_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"here: {tmp_path}/config.json is missing — check the path"):
        check_weights(str(tmp_path), "here")


def test_sums_are_read_as_sha256sum_writes_them(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "SHA256SUMS").write_text(f"# a comment\n\n{'0' * 64} *config.json\n")
    with pytest.raises(ConfigError, match="config.json is damaged"):
        check_weights(str(tmp_path), "here")


@pytest.mark.parametrize("name", ["not/a/repository", "spaces are not allowed", "-x", "a..b"])
def test_what_is_neither_folder_nor_repository_is_said(name: str) -> None:
    with pytest.raises(ConfigError, match="neither a folder nor a repository id — write ./path"):
        check_weights(name, "here")


def test_a_hub_that_can_t_be_reached_is_named_with_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{repo_id}/{revision}/{filename}")
    with pytest.raises(ConfigError) as raised:
        check_weights("Qwen/Qwen2.5-0.5B-Instruct", "tiers.small.engine.model")
    said = str(raised.value)
    assert said.startswith("tiers.small.engine.model: 'Qwen/Qwen2.5-0.5B-Instruct' is not on this machine")
    assert "hf download Qwen/Qwen2.5-0.5B-Instruct" in said
