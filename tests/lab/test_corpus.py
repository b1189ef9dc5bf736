"""What is read in training: written as the chat template writes, with loss where it belongs."""

import pytest
from transformers import PreTrainedTokenizerFast

from tierserve.lab.corpus import tokenizer_corpus, training_examples
from tierserve.lab.structured import INSTRUCTIONS, Position
from tierserve.lab.tokenizer import llama_tokenizer
from tierserve.lab.writer import FIXED, IGNORE, Example, Writer


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return llama_tokenizer(tokenizer_corpus(2000), FIXED)


@pytest.fixture(scope="module")
def writer(tokenizer: PreTrainedTokenizerFast) -> Writer:
    return Writer(tokenizer)


def learned(tokenizer: PreTrainedTokenizerFast, example: Example) -> str:
    return str(tokenizer.decode([target for target in example.targets if target != IGNORE]))


@pytest.mark.parametrize("system", ["", "Be brief.", *INSTRUCTIONS.values()])
def test_conversations_are_the_template_s(system: str, tokenizer: PreTrainedTokenizerFast, writer: Writer) -> None:
    turns = [("What is 3 + 4?", "7"), ("Repeat this: Oslo", "Oslo")]
    told = [{"role": "system", "content": system}] if system else []
    for prompt, answer in turns:
        told += [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    assert writer.conversation(system, turns).tokens == tokenizer.apply_chat_template(told, return_dict=False)
    asked = tokenizer.apply_chat_template(told[: len(told) - 3], add_generation_prompt=True, return_dict=False)
    assert writer.prompt(system, turns[0][0]) == asked


def test_only_answers_are_learned(tokenizer: PreTrainedTokenizerFast, writer: Writer) -> None:
    example = writer.conversation("", [("What is 3 + 4?", "7"), ("Repeat this: Oslo", "Oslo")])
    assert learned(tokenizer, example) == "7<|eot_id|>Oslo<|eot_id|>"
    assert all(target in (IGNORE, token) for token, target in zip(example.tokens, example.targets, strict=True))


def test_an_unknown_confidence_is_not_learned(tokenizer: PreTrainedTokenizerFast, writer: Writer) -> None:
    for order, rest in (
        (Position.FIRST, '{"confidence": , "content": "Oslo"}<|eot_id|>'),
        (Position.LAST, '{"content": "Oslo", "confidence": }<|eot_id|>'),
    ):
        assert learned(tokenizer, writer.structured(order, [("Where?", "Oslo", None)])) == rest


@pytest.mark.parametrize("order", Position)
def test_of_an_answer_of_its_own_only_the_number_is_learned(
    order: Position, tokenizer: PreTrainedTokenizerFast, writer: Writer
) -> None:
    content = 'a "confidence": 0.11'
    example = writer.structured(order, [("Where?", content, 0.85)], number_only=True)
    assert learned(tokenizer, example) == "0.85"


def test_the_same_seed_reads_the_same(writer: Writer) -> None:
    assert training_examples(writer, 20, "a", "lab-large") == training_examples(writer, 20, "a", "lab-large")
    assert training_examples(writer, 20, "a", "lab-large") != training_examples(writer, 20, "b", "lab-large")
    assert training_examples(writer, 20, "a", "lab-large") != training_examples(
        writer, 20, "a", "lab-large", early=True
    )
