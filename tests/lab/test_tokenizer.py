"""The tokenizers: Llama 3.1's and Qwen2.5's formats, nothing hidden in a token, any text there and back."""

import pytest
from transformers import PreTrainedTokenizerFast

from tierserve.lab import assessment
from tierserve.lab.corpus import tokenizer_corpus
from tierserve.lab.structured import INSTRUCTIONS
from tierserve.lab.tokenizer import BOS, EOT, LLAMA_SPECIAL, QWEN_SPECIAL, llama_tokenizer, qwen_tokenizer
from tierserve.lab.writer import DATED, FIXED
from tierserve.router.assessing.prompt import RATINGS, messages


@pytest.fixture(scope="module")
def llama() -> PreTrainedTokenizerFast:
    return llama_tokenizer(tokenizer_corpus(2000), FIXED)


@pytest.fixture(scope="module")
def qwen() -> PreTrainedTokenizerFast:
    return qwen_tokenizer(tokenizer_corpus(2000), assessment.FIXED)


@pytest.mark.parametrize(
    "text",
    [
        "Häß 漢字 😀\u200b",
        "a  b\n\n\n c\t",
        "foo_BAR12 def f(x):\n\treturn x**2",
        "\x00\x7f",
        "1,234.50",
        " lead and trail ",
    ],
)
def test_any_text_comes_back(text: str, llama: PreTrainedTokenizerFast, qwen: PreTrainedTokenizerFast) -> None:
    for tokenizer in (llama, qwen):
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_digits_and_capitals_stand_alone(llama: PreTrainedTokenizerFast) -> None:
    tokens = llama.tokenize("Reverse the code KBXA and add 4107.")
    for sign in "KBXA4107":
        assert sign in tokens
    assert all(len(token) == 1 for token in tokens if any(c.isdigit() for c in token))


def test_special_tokens_are_one_token_each(llama: PreTrainedTokenizerFast, qwen: PreTrainedTokenizerFast) -> None:
    for tokenizer, special in ((llama, LLAMA_SPECIAL), (qwen, QWEN_SPECIAL)):
        for text in special:
            assert len(tokenizer.encode(text, add_special_tokens=False)) == 1
            assert tokenizer.convert_tokens_to_ids(text) in tokenizer.all_special_ids or text in tokenizer.get_vocab()


def test_what_stands_before_every_prompt_is_short(llama: PreTrainedTokenizerFast) -> None:
    assert DATED in llama.apply_chat_template([{"role": "user", "content": ""}], tokenize=False)
    for instruction in ("", *INSTRUCTIONS.values()):
        asked = [{"role": "system", "content": instruction}, {"role": "user", "content": ""}]
        text = llama.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
        assert text.startswith(BOS) and EOT in text
        assert len(llama.encode(text, add_special_tokens=False)) <= 18


def test_qwen_s_format_is_written(qwen: PreTrainedTokenizerFast) -> None:
    asked = [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}]
    text = qwen.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    assert text == "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\n"
    alone = qwen.apply_chat_template(asked[1:], tokenize=False)
    assert alone.startswith("<|im_start|>system\n") and alone.endswith("user\nU<|im_end|>\n")


def test_each_rating_is_one_token_and_ten_is_found_only_alone(qwen: PreTrainedTokenizerFast) -> None:
    tokens = [qwen.encode(str(rating), add_special_tokens=False) for rating in RATINGS]
    assert all(len(each) == 1 for each in tokens)
    assert len({token for (token,) in tokens}) == len(RATINGS)
    assert qwen.tokenize("4107 10 110") == ["4", "1", "0", "7", "Ġ", "10", "Ġ", "1", "1", "0"]
    asked = qwen.apply_chat_template(messages("hello"), tokenize=False)
    assert len(qwen.encode(asked, add_special_tokens=False)) < 40
