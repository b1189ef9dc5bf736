"""What the architectures take, beside what is published of them."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from direct.models import LLAMA_8B, LLAMA_70B, TINY_LARGE
from transformers import AutoConfig


def test_llama_weighs_what_is_published() -> None:
    assert LLAMA_8B.weight_bytes / 2 == pytest.approx(8.03e9, rel=0.001)
    assert replace(LLAMA_70B, fp8=False).weight_bytes / 2 == pytest.approx(70.55e9, rel=0.001)
    assert LLAMA_70B.weight_bytes == pytest.approx(72.7e9, rel=0.002)  # embeddings and head stay bf16
    assert (LLAMA_8B.kv_bytes_per_token, LLAMA_70B.kv_bytes_per_token) == (128 << 10, 320 << 10)


def test_transformers_reads_the_checkpoint(tmp_path: Path) -> None:
    config = AutoConfig.from_pretrained(LLAMA_70B.write(tmp_path, context=1024))
    assert (config.num_hidden_layers, config.hidden_size, config.num_key_value_heads) == (80, 8192, 8)
    assert config.max_position_embeddings == 1024
    assert config.quantization_config["quant_method"] == "compressed-tensors"


def test_only_a_model_in_fp8_says_so(tmp_path: Path) -> None:
    for model in (TINY_LARGE, TINY_LARGE.in_fp8()):
        config = json.loads((Path(model.write(tmp_path, 64)) / "config.json").read_text())
        assert ("quantization_config" in config) == model.fp8
