"""Architectures of the Llama family, written as checkpoints without weights; vLLM draws these at random."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

# Weights that are fp8 in the checkpoint are made as fp8. `quantization: fp8` over a bf16 one makes bf16 first, layer by
# layer at best (vllm 0.32.0) and all 140 GB of a 70B at once in versions before.
_FP8 = {
    "quant_method": "compressed-tensors",
    "format": "float-quantized",
    "quantization_status": "compressed",
    "ignore": ["lm_head"],
    "kv_cache_scheme": None,
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "output_activations": None,
            "weights": {"num_bits": 8, "type": "float", "strategy": "channel", "symmetric": True, "dynamic": False},
            "input_activations": {"num_bits": 8, "type": "float", "strategy": "token", "symmetric": True}
            | {"dynamic": True},
        }
    },
}
_BF16_BYTES = 2


@dataclass(frozen=True)
class Model:
    """`fp8`: the linear layers' weights; embeddings, head and KV cache are bf16 in any case."""

    name: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int = 128
    vocab: int = 128_256
    fp8: bool = False

    @property
    def layer_bytes(self) -> int:
        attention = 2 * self.hidden * (self.heads + self.kv_heads) * self.head_dim
        return (attention + 3 * self.hidden * self.intermediate) * (1 if self.fp8 else _BF16_BYTES)

    @property
    def weight_bytes(self) -> int:
        """Norms and the scales of fp8, a thousandth, are left out."""
        return 2 * self.vocab * self.hidden * _BF16_BYTES + self.layers * self.layer_bytes

    @property
    def kv_bytes_per_token(self) -> int:
        return 2 * self.layers * self.kv_heads * self.head_dim * _BF16_BYTES

    def __str__(self) -> str:
        return f"{self.name} ({'fp8' if self.fp8 else 'bf16'}, {self.layers} layers)"

    def in_fp8(self) -> "Model":
        return replace(self, fp8=True)

    def with_layers(self, layers: int) -> "Model":
        return replace(self, layers=layers)

    def write(self, folder: Path, context: int) -> str:
        """The checkpoint's folder, for prompts and answers of up to `context` tokens together."""
        checkpoint = folder / self.name
        checkpoint.mkdir(parents=True, exist_ok=True)
        (checkpoint / "config.json").write_text(json.dumps(self._config(context), indent=2))
        return str(checkpoint)

    def _config(self, context: int) -> dict[str, Any]:
        config: dict[str, Any] = {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_act": "silu",
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "max_position_embeddings": context,
            "rms_norm_eps": 1e-5,
            "rope_theta": 500_000.0,
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
            "vocab_size": self.vocab,
            "bos_token_id": 0,
            "eos_token_id": 1,
        }
        return config | ({"quantization_config": _FP8} if self.fp8 else {})


# The published numbers of Llama 3.1.
LLAMA_8B = Model("llama-8b", 32, 4096, 14336, 32, 8)
LLAMA_70B = Model("llama-70b", 80, 8192, 28672, 64, 8, fp8=True)
# For a first run anywhere. 2 heads of 64, the smallest that every attention backend has; fp8 needs a GPU.
TINY_SMALL = Model("tiny-small", 1, 128, 256, 2, 2, head_dim=64, vocab=512)
TINY_LARGE = Model("tiny-large", 3, 512, 1024, 8, 2, head_dim=64, vocab=512)
