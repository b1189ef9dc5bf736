"""The GPU as nvidia-smi tells of it, here by a program that says what it says on such a host."""

from pathlib import Path

import pytest
from direct import device
from direct.memory import halves
from direct.models import LLAMA_8B, LLAMA_70B
from loadgen import PlanError

SAYS = """#!/bin/sh
case "$*" in
  *name,driver_version*) echo "NVIDIA H200, 580.159.03" ;;
  *memory.total*) echo 143771 ;;
  *memory.used*) echo 0 ;;
  *) exit 6 ;;
esac
"""


def test_a_gpu_is_known_by_name_and_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nvidia-smi").write_text(SAYS)
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = device.find(tiny=False)
    assert found == device.find(tiny=True)
    assert (found.name, found.driver, found.is_gpu) == ("NVIDIA H200, 143771 MiB", "580.159.03", True)
    assert found.room.total_bytes == 143_771 << 20
    halves(found.room, LLAMA_8B, LLAMA_70B)
    found.wait_until_free()


def test_without_a_gpu_only_tiny_models_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not device.find(tiny=True).is_gpu
    with pytest.raises(PlanError, match="no GPU here"):
        device.find(tiny=False)
