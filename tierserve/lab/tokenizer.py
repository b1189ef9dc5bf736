"""The lab's tokenizer: byte-level BPE with Llama 3.1's special tokens and its chat format.

Any text has a token sequence, and every sequence of byte tokens a text (Radford et al., 2019, on byte-level BPE); each
digit is a token of its own.
"""

from pathlib import Path
from typing import Final

from transformers import PreTrainedTokenizerFast

BOS: Final = "<|begin_of_text|>"
PAD: Final = "<|finetune_right_pad_id|>"
EOT: Final = "<|eot_id|>"
EOM: Final = "<|eom_id|>"
END: Final = "<|end_of_text|>"
SPECIAL: Final = (BOS, END, PAD, "<|start_header_id|>", "<|end_header_id|>", EOM, EOT, "<|python_tag|>")
VOCABULARY: Final = 512

_TEMPLATE = Path(__file__).with_name("chat_template.jinja")


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer; the same one every time. Its merges are learned from the chat template, which stands in front of
    every prompt and would otherwise be most of its tokens."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    words = Regex(r"\d| ?[^\W\d]+| ?[^\w\s]+|\s+(?!\S)|\s+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(words, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([_TEMPLATE.read_text(encoding="utf-8")], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOT,
        pad_token=PAD,
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
        chat_template=_TEMPLATE.read_text(encoding="utf-8"),
    )
