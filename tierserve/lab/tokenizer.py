"""The lab's tokenizers: byte-level BPE with Llama 3.1's special tokens and chat format, or with Qwen2.5's.

Any text has a token sequence, and every sequence of byte tokens a text. The tiny models can't look inside a token, so
what they are asked to work on is never hidden in one: each digit, and each letter of a run of capitals, stands alone.
What stands in front of every prompt is one token where it is fixed, for its length is most of the cost of training.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

BOS: Final = "<|begin_of_text|>"
PAD: Final = "<|finetune_right_pad_id|>"
EOT: Final = "<|eot_id|>"
EOM: Final = "<|eom_id|>"
END: Final = "<|end_of_text|>"
LLAMA_SPECIAL: Final = (BOS, END, PAD, "<|start_header_id|>", "<|end_header_id|>", EOM, EOT, "<|python_tag|>")
QWEN_SPECIAL: Final = (QWEN_END := "<|endoftext|>", QWEN_START := "<|im_start|>", QWEN_STOP := "<|im_end|>")
VOCABULARY: Final = 1024

_HERE = Path(__file__).parent
# Capitals one by one, words with the space before them, digits one by one, signs with the space after them.
_PIECES: Final = r" (?=\p{Lu}(?!\p{Ll}))|\p{Lu}(?!\p{Ll})|\d| ?\p{L}\p{Ll}*|[^\w\s]+ ?|_|\n+|\s"


def llama_tokenizer(corpus: Iterable[str], fixed: Sequence[str]) -> "PreTrainedTokenizerFast":
    """`corpus` teaches the merges; each of `fixed` is one token, wherever it stands."""
    template = (_HERE / "chat_template.jinja").read_text(encoding="utf-8")
    return _build(corpus, LLAMA_SPECIAL, fixed, template, bos=BOS, eos=EOT, pad=PAD)


def qwen_tokenizer(corpus: Iterable[str], fixed: Sequence[str]) -> "PreTrainedTokenizerFast":
    template = (_HERE / "qwen_template.jinja").read_text(encoding="utf-8")
    return _build(corpus, QWEN_SPECIAL, fixed, template, bos=None, eos=QWEN_STOP, pad=QWEN_END)


def _build(
    corpus: Iterable[str],
    special: Sequence[str],
    fixed: Sequence[str],
    template: str,
    bos: str | None,
    eos: str,
    pad: str,
) -> "PreTrainedTokenizerFast":
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(fixed),
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    # A fixed word or number counts only where it stands alone: "10" is no part of "4107".
    tokenizer.add_tokens([AddedToken(text, normalized=False, single_word=text.isalnum()) for text in fixed])
    if bos is not None:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=bos,
        eos_token=eos,
        pad_token=pad,
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
        chat_template=template,
    )
