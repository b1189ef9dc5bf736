"""Writes the lab's checkpoints: folders in the format of the hub, as any Llama's.

They are untrained: what they answer is noise, of the length that was asked for. They are there so that everything
around the answers runs for real.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tierserve.lab.tokenizer import BOS, END, EOM, EOT, PAD, VOCABULARY, build_tokenizer
from tierserve.tiers.weights import SUMS

# 0.5 and 4.9 million parameters: about 1 : 10, as an 8B to a 70B. Heads of 32, the least that vLLM's CPU attention has.
SHAPES: Final[Mapping[str, Mapping[str, Any]]] = {
    "lab-small": {
        "hidden_size": 96,
        "intermediate_size": 256,
        "num_hidden_layers": 4,
        "num_attention_heads": 3,
        "max_position_embeddings": 2048,
    },
    "lab-large": {
        "hidden_size": 256,
        "intermediate_size": 704,
        "num_hidden_layers": 6,
        "num_attention_heads": 8,
        "max_position_embeddings": 4096,
    },
}
# A newcomer's first answer should not run to the end of the context.
_MAX_NEW_TOKENS = 256


def write_checkpoint(name: str, folder: Path, seed: int = 0) -> None:
    """Write a checkpoint of shape SHAPES[name]; bfloat16, with the sums that tiers/weights.py checks it by."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    tokenizer = build_tokenizer()
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in (BOS, EOT, EOM, END, PAD)}
    ends = [ids[EOT], ids[EOM], ids[END]]
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            tie_word_embeddings=True,
            bos_token_id=ids[BOS],
            eos_token_id=ends,
            pad_token_id=ids[PAD],
            **SHAPES[name],
        )
    )
    folder.mkdir(parents=True, exist_ok=True)
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    generation = {"bos_token_id": ids[BOS], "eos_token_id": ends, "max_new_tokens": _MAX_NEW_TOKENS}
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
    _write_sums(folder)


def _write_sums(folder: Path) -> None:
    files = sorted(file for file in folder.iterdir() if file.is_file() and file.name != SUMS)
    lines = [f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in files]
    (folder / SUMS).write_text("".join(lines))
