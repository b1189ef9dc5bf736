"""The committed weights: whole, small enough, and as good as README says, by transformers on a small sample."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tierserve.config import AssessConfig
from tierserve.errors import ConfigError
from tierserve.lab import smalltalk
from tierserve.lab.checkpoint import FOLDER, SHAPES
from tierserve.lab.question import Question, Split
from tierserve.lab.tasks import SIMPLE, mix
from tierserve.router.assessing.assessor import load_assessor
from tierserve.router.assessing.prompt import RATINGS, messages
from tierserve.weights import check_weights

TIERS = ("lab-small", "lab-large")


def load(name: str) -> tuple[Any, Any]:
    model = AutoModelForCausalLM.from_pretrained(FOLDER / name, dtype=torch.bfloat16)
    return model, AutoTokenizer.from_pretrained(FOLDER / name)


def answers(name: str, prompts: list[str]) -> list[str]:
    model, tokenizer = load(name)
    tokenizer.padding_side = "left"
    asked = [[{"role": "user", "content": prompt}] for prompt in prompts]
    batch = tokenizer.apply_chat_template(
        asked, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
    )
    said = model.generate(**batch, do_sample=False)
    return list(tokenizer.batch_decode(said[:, batch["input_ids"].shape[1] :], skip_special_tokens=True))


def share_right(questions: list[Question], said: list[str]) -> float:
    return sum(question.is_right(text) for question, text in zip(questions, said, strict=True)) / len(questions)


@pytest.fixture(scope="module")
def held_out() -> list[Question]:
    return mix(Split.HELD_OUT, 300, seed=7)


@pytest.mark.parametrize("name", SHAPES)
def test_the_folder_is_what_was_written(name: str) -> None:
    check_weights(str(FOLDER / name), name)


def test_damage_is_said_with_the_file_and_the_remedy(tmp_path: Path) -> None:
    folder = tmp_path / "lab-small"
    folder.mkdir()
    for file in (FOLDER / "lab-small").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    check_weights(str(folder), "tiers.small")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    with pytest.raises(ConfigError, match=r"model\.safetensors is damaged.*python -m tierserve\.lab train"):
        check_weights(str(folder), "tiers.small")
    weights.unlink()
    with pytest.raises(ConfigError, match=r"model\.safetensors is missing.*python -m tierserve\.lab train"):
        check_weights(str(folder), "tiers.small")


def test_the_pair_is_small_and_of_two_sizes() -> None:
    parameters = {name: sum(p.numel() for p in load(name)[0].parameters()) for name in TIERS}
    assert 8 <= parameters["lab-large"] / parameters["lab-small"] <= 12
    size = sum((FOLDER / name / "model.safetensors").stat().st_size for name in TIERS)
    assert size <= 12_000_000
    config = json.loads((FOLDER / "lab-large" / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"] and config["dtype"] == "bfloat16"


def test_the_tiers_differ_in_what_they_can_do(held_out: list[Question]) -> None:
    prompts = [question.prompt for question in held_out]
    small, large = (answers(name, prompts) for name in TIERS)
    simple = [at for at, question in enumerate(held_out) if (question.family, question.level) in SIMPLE]
    assert share_right(held_out, large) >= 0.87
    assert 0.06 <= share_right(held_out, large) - share_right(held_out, small) <= 0.24
    assert share_right([held_out[at] for at in simple], [small[at] for at in simple]) >= 0.93


@pytest.mark.parametrize("name", TIERS)
def test_what_is_no_task_gets_some_short_answer(name: str) -> None:
    said = answers(name, ["Hello", "Who are you?", "Explain the CAP theorem.", "xyzzy " * 20, "漢字", "?"])
    assert said[0].startswith("Hello!") and said[1] == smalltalk.WHO
    assert all(len(text) < 600 for text in said)


def test_the_assessor_rates_what_the_small_model_fails_at_higher(held_out: list[Question]) -> None:
    model, tokenizer = load("lab-assessor")
    assert type(model).__name__ == "Qwen2ForCausalLM"
    scores = load_assessor(AssessConfig(model=str(FOLDER / "lab-assessor"))).rate([each.prompt for each in held_out])
    assert all(0 <= score <= 10 for score in scores)
    asked = tokenizer.apply_chat_template(messages(held_out[0].prompt), add_generation_prompt=True, return_tensors="pt")
    with torch.inference_mode():
        chances = model(**asked).logits[0, -1].float().softmax(-1)
    tokens = [tokenizer.encode(str(rating), add_special_tokens=False)[0] for rating in RATINGS]
    assert float(chances[tokens].sum()) > 0.9, "it says a number and nothing else"
    simple = [
        score for score, question in zip(scores, held_out, strict=True) if (question.family, question.level) in SIMPLE
    ]
    hard = [score for score, question in zip(scores, held_out, strict=True) if question.difficulty >= 5]
    assert sum(simple) / len(simple) < 1.5 < 4 < sum(hard) / len(hard)
