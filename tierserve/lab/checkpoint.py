"""The lab's checkpoints: folders in the format of the hub, as any Llama's or Qwen2's. Trains nothing.

Sizes are 1 : 8.5 between the tiers, as an 8B to a 70B. Heads of 32, the least that vLLM's CPU attention has.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tierserve.weights import SUMS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

FOLDER: Final = Path(__file__).with_name("checkpoints")
SHAPES: Final[Mapping[str, Mapping[str, int]]] = {
    "lab-small": {
        "hidden_size": 96,
        "intermediate_size": 192,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "max_position_embeddings": 2048,
    },
    "lab-large": {
        "hidden_size": 192,
        "intermediate_size": 512,
        "num_hidden_layers": 5,
        "num_attention_heads": 6,
        "max_position_embeddings": 4096,
    },
    "lab-assessor": {
        "hidden_size": 64,
        "intermediate_size": 192,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
    },
}
# The longest answer of the tasks has 14 tokens, in the structured form 25. A newcomer's first answer should not run to
# the end of the context.
_MAX_NEW_TOKENS: Final = 128


def new_model(name: str, tokenizer: "PreTrainedTokenizerFast", seed: int = 0) -> Any:
    """An untrained model; the same seed, the same weights."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

    config, architecture = (
        (Qwen2Config, Qwen2ForCausalLM) if name == "lab-assessor" else (LlamaConfig, LlamaForCausalLM)
    )
    torch.manual_seed(seed)
    model = architecture(
        config(
            vocab_size=len(tokenizer),
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=_ends(tokenizer),
            pad_token_id=tokenizer.pad_token_id,
            use_cache=False,
            # The usual 0.02 is for thousands of dimensions: after 200 steps the loss was 1.64 with it, and 1.49 so.
            initializer_range=SHAPES[name]["hidden_size"] ** -0.5,
            **SHAPES[name],
        )
    )
    # The backward pass of torch's fused attention is slow on a CPU: a step takes 0.71 s with it, and 0.53 s so.
    model.set_attn_implementation("eager")
    return model


def save(model: Any, tokenizer: "PreTrainedTokenizerFast", folder: Path) -> None:
    """Write a checkpoint in bfloat16, with the sums that tierserve/weights.py checks it by."""
    import copy

    import torch

    folder.mkdir(parents=True, exist_ok=True)
    copied = copy.deepcopy(model).to(torch.bfloat16)
    copied.config.use_cache = True
    copied.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    generation: dict[str, object] = {"eos_token_id": _ends(tokenizer), "max_new_tokens": _MAX_NEW_TOKENS}
    if tokenizer.bos_token_id is not None:
        generation["bos_token_id"] = tokenizer.bos_token_id
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
    files = sorted(file for file in folder.iterdir() if file.is_file() and file.name != SUMS)
    lines = [f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in files]
    (folder / SUMS).write_text("".join(lines))


def _ends(tokenizer: "PreTrainedTokenizerFast") -> list[int]:
    """Every token of the tokenizer that ends an answer: Llama 3.1 has three, Qwen2.5 two."""
    known = tokenizer.get_vocab()
    names = ("<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|im_end|>", "<|endoftext|>")
    return [known[name] for name in names if name in known]
