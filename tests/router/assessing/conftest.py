"""Two real assessors: the lab's, to which 10 is one token, and one of its shape to which it is two, as to Qwen2.5."""

from pathlib import Path
from typing import Any

import pytest

from tierserve.config import AssessConfig
from tierserve.lab import checkpoint
from tierserve.lab.corpus import tokenizer_corpus
from tierserve.lab.tokenizer import qwen_tokenizer
from tierserve.router.assessing.assessor import Assessor, load_assessor

LAB = str(checkpoint.FOLDER / "lab-assessor")


def configured(model: str = LAB, **options: Any) -> AssessConfig:
    """In float32, so that two ways to compute one thing can be compared."""
    return AssessConfig(**{"model": model, "dtype": "float32", "threads": 1} | options)


@pytest.fixture(scope="session")
def assessor() -> Assessor:
    return load_assessor(configured())


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A checkpoint without training, whose tokenizer knows each digit and no 10."""
    folder = tmp_path_factory.mktemp("digits")
    tokenizer = qwen_tokenizer(tokenizer_corpus(500), fixed=())
    checkpoint.save(checkpoint.new_model("lab-assessor", tokenizer), tokenizer, folder)
    return str(folder)


@pytest.fixture(scope="session")
def lab_folder() -> Path:
    return Path(LAB)
