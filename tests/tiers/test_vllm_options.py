"""The configurations for GPU hosts can't run here, so what can be checked is: vLLM takes their options, and the
memory that their comments promise follows from the models' shapes."""

from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tierserve.config import NodeConfig, TierConfig, load
from tierserve.core import Role
from tierserve.errors import ConfigError
from tierserve.tiers.placement import devices, share_a_device, world_size
from tierserve.tiers.vllm_tier import VllmTier

pytestmark = pytest.mark.engine
G6E = sorted((ROOT / "configs").glob("g6e-*.yaml"))

# Llama 3.1: layers, hidden size, parameters, and what a token keeps: 8 KV heads of 128, keys and values.
VOCABULARY, KV_HEADS, HEAD = 128_256, 8, 128
SHAPES = {Role.SMALL: (32, 4096, 8.03e9), Role.LARGE: (80, 8192, 70.55e9)}
L40S_GIB, ACTIVATIONS_GIB = 44.4, 3.0


def arguments(**options: Any) -> Any:
    return VllmTier.arguments(TierConfig(name="t", engine={"model": "m"} | options), "tiers.small")


@pytest.mark.parametrize("path", G6E, ids=lambda path: path.stem)
def test_vllm_takes_the_options_as_they_stand(path: Path) -> None:
    config = load(path)
    for role in Role:
        tier = config.tiers[role]
        assert tier.engine is not None
        args = VllmTier.arguments(tier, f"tiers.{role}")
        for name, value in tier.engine.items():
            assert getattr(args, name) == value
        assert args.served_model_name == tier.name
        assert args.structured_outputs_config.disable_any_whitespace


@pytest.mark.parametrize("path", G6E, ids=lambda path: path.stem)
def test_the_tiers_split_the_host_between_them(path: Path) -> None:
    config = load(path)
    assert not share_a_device(config.tiers)
    used = [device for role in Role for device in devices(config.tiers[role].engine or {})]
    assert sorted(used) == list(range({"g6e-12xlarge": 4, "g6e-48xlarge": 8}[path.stem]))


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("path", G6E, ids=lambda path: path.stem)
def test_the_kv_cache_holds_what_the_comment_says(path: Path, role: Role) -> None:
    tokens = kv_cache_tokens(load(path), role)
    promised = {
        ("g6e-12xlarge", Role.SMALL): 551_000,
        ("g6e-12xlarge", Role.LARGE): 52_000,
        ("g6e-48xlarge", Role.SMALL): 1_170_000,
        ("g6e-48xlarge", Role.LARGE): 274_000,
    }[path.stem, role]
    assert tokens == pytest.approx(promised, rel=0.02)
    assert f"{promised:,}" in path.read_text()
    engine = load(path).tiers[role].engine
    assert engine is not None
    assert tokens > 3 * engine["max_model_len"], "a few long prompts must not fill the cache"


def kv_cache_tokens(config: NodeConfig, role: Role) -> float:
    """Tokens for which there is room beside FP8 weights (16-bit embedding and head) and activations."""
    engine = config.tiers[role].engine
    assert engine is not None
    gpus = world_size(engine)
    layers, hidden, parameters = SHAPES[role]
    weights_gib = (parameters + 2 * VOCABULARY * hidden) / 2**30 / gpus
    left_gib = engine["gpu_memory_utilization"] * L40S_GIB - weights_gib - ACTIVATIONS_GIB
    bytes_per_token = layers * 2 * KV_HEADS * HEAD * (1 if engine.get("kv_cache_dtype") == "fp8" else 2)
    return gpus * left_gib * 2**30 / bytes_per_token


def test_what_the_file_says_wins_over_our_defaults() -> None:
    assert arguments().use_tqdm_on_load is False
    assert arguments(use_tqdm_on_load=True).use_tqdm_on_load is True
    structured = arguments(structured_outputs_config={"backend": "guidance"}).structured_outputs_config
    assert (structured.backend, structured.disable_any_whitespace) == ("guidance", True)


def test_parsers_reach_vllm_and_are_checked() -> None:
    tier = {"name": "t", "engine": {"model": "m"}}
    args = VllmTier.arguments(TierConfig(**tier, reasoning_parser="qwen3"), "tiers.small")
    assert args.create_structured_outputs_config().reasoning_parser == "qwen3"
    with pytest.raises(ConfigError, match="tiers.small.tool_parser: vLLM has no parser 'lama3_json' — did you mean"):
        VllmTier.arguments(TierConfig(**tier, tool_parser="lama3_json"), "tiers.small")


@pytest.mark.parametrize(
    "options",
    [
        {"tensor_parallel_size": 0},
        {"gpu_memory_utilization": -1},
        {"max_model_len": "a few"},
        {"enforce_eager": "perhaps"},
        {"dtype": 16},
        {"kv_cache_dtype": "fp9"},
        {"no_such_option": 1},
        {"max_model_len": "2048"},
        {"enforce_eager": "no"},
        {"quantization": "fp9"},
        {"disable_log_stats": True},
        {"structured_outputs_config": {"backend": "none"}},
    ],
)
def test_a_value_that_vllm_would_refuse_is_refused_here_with_its_path(options: dict[str, Any]) -> None:
    (name,) = options
    with pytest.raises(ConfigError) as raised:
        arguments(**options)
    assert raised.value.where == f"tiers.small.engine.{name}"
