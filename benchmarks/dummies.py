"""Llama checkpoints without weights, which vLLM draws at random: nonsense, at the cost of a real model of that size."""

import shutil
from pathlib import Path
from typing import Any

from tierserve.lab.checkpoint import FOLDER
from tierserve.router.processor import has

# Parameters, without the embeddings, of which the lab's tokenizer needs few: 60 M and 510 M.
SIZES: dict[str, dict[str, int]] = {
    "small": {"hidden_size": 640, "intermediate_size": 1792, "num_hidden_layers": 12, "num_attention_heads": 10},
    "large": {"hidden_size": 1536, "intermediate_size": 4096, "num_hidden_layers": 18, "num_attention_heads": 24},
}
_CONTEXT = 4096


def engine(size: str, folder: Path) -> dict[str, Any]:
    """The engine options of a tier of this size; its checkpoint is written to `folder`."""
    from transformers import LlamaConfig

    checkpoint, lab = folder / f"dummy-{size}", FOLDER / "lab-small"
    checkpoint.mkdir(parents=True)
    known = LlamaConfig.from_pretrained(lab)
    shape = SIZES[size] | {"num_key_value_heads": SIZES[size]["num_attention_heads"], "head_dim": 64}
    LlamaConfig(
        **shape,
        vocab_size=known.vocab_size,
        max_position_embeddings=_CONTEXT,
        bos_token_id=known.bos_token_id,
        eos_token_id=known.eos_token_id,
        pad_token_id=known.pad_token_id,
        tie_word_embeddings=True,
        architectures=["LlamaForCausalLM"],
        dtype=_dtype(),
    ).save_pretrained(checkpoint)
    for file in lab.iterdir():
        if file.name not in ("config.json", "model.safetensors", "SHA256SUMS"):
            shutil.copy(file, checkpoint)
    return {
        "model": str(checkpoint),
        "load_format": "dummy",
        "dtype": _dtype(),
        "enforce_eager": True,
        "max_num_seqs": 16,
        "kv_cache_memory_bytes": 1 << 30,
    }


def _dtype() -> str:
    """What the processor multiplies itself: elsewhere bfloat16 takes many times as long, as nobody would serve it."""
    return "bfloat16" if has("avx512_bf16") or has("amx_bf16") else "float32"
