"""Outcome files: how well a small and a large model answered each of many prompts.

    outcomes = read_outcomes([Path("outcomes.jsonl.gz")])

JSON Lines, plain or gzipped. Each row has `prompt`, `small_score` and `large_score` (0 to 1, larger is better);
`source` (where it stands, else the file's name) and `category` group rows, `turns` counts what the user said so far.
`python -m tierserve.lab outcomes` writes such a file.
"""

import gzip
import json
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tierserve.core import Prompt
from tierserve.errors import ConfigError

_REMEDY = 'rows look like {"prompt": "...", "small_score": 0, "large_score": 1}'
# The choices of an exam question: the same question is asked with four of them here and with ten there.
_CHOICES = re.compile(r"\nA[.)] ")
_NO_WORD = re.compile(r"\W+")
_MOST_TURNS = 1_000_000


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Columns of equal length; scores in 0..1."""

    prompts: Sequence[Prompt]
    small: NDArray[np.float64]
    large: NDArray[np.float64]
    sources: NDArray[np.str_]
    categories: NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.prompts)

    def __getitem__(self, rows: NDArray[Any]) -> "Outcomes":
        """These rows: indices or a mask."""
        indices = np.arange(len(self))[rows]
        prompts = [self.prompts[index] for index in indices]
        return Outcomes(prompts, self.small[rows], self.large[rows], self.sources[rows], self.categories[rows])

    @property
    def gain(self) -> NDArray[np.float64]:
        """What the large model wins, -1..1."""
        return self.large - self.small

    def questions(self) -> NDArray[np.int64]:
        """A number for what each row asks, without choices, case and punctuation: a split must not divide its rows.

        No array of the texts themselves, in which each would take the room of the longest.
        """
        asked = [_question(prompt.text) for prompt in self.prompts]
        numbers = {text: number for number, text in enumerate(sorted(set(asked)))}
        return np.array([numbers[text] for text in asked], np.int64)

    def folds(self, count: int, seed: int) -> NDArray[np.int64]:
        """A fold, 0 to count - 1, for each row, by its question."""
        asked = self.questions()
        return (np.random.default_rng(seed).permutation(asked.max(initial=-1) + 1) % count)[asked]


def read_outcomes(paths: Sequence[Path]) -> Outcomes:
    """The rows of all files. Raises ConfigError, with file and line."""
    rows = [row for path in paths for row in _rows(path)]
    if not rows:
        raise ConfigError(", ".join(map(str, paths)) or "--data", "holds no outcomes", _REMEDY)
    prompts, small, large, sources, categories = zip(*rows, strict=True)
    return Outcomes(prompts, np.array(small), np.array(large), np.array(sources), np.array(categories))


def read_prompts(path: Path) -> list[Prompt]:
    """The different prompts of a file: rows as above, of which `prompt` and `turns` are read. Raises ConfigError."""
    prompts = list(dict.fromkeys(_prompt(_json(line, where), where) for line, where in lines(path)))
    if not prompts:
        raise ConfigError(str(path), "holds no prompts", 'rows look like {"prompt": "..."}')
    return prompts


def _rows(path: Path) -> Iterator[tuple[Prompt, float, float, str, str]]:
    default = path.name.removesuffix(".gz").removesuffix(".jsonl")
    for line, where in lines(path):
        yield _row(line, where, default)


def lines(path: Path) -> Iterator[tuple[str, str]]:
    """Each line of JSON Lines that is not empty, and where it stands. Raises ConfigError."""
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield line, f"{path}:{number}"
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise ConfigError(str(path), f"can't be read ({error})", "name a file of JSON Lines, plain or .gz") from None


def _row(line: str, where: str, source: str) -> tuple[Prompt, float, float, str, str]:
    data = _json(line, where)
    prompt = _prompt(data, where)
    small, large = (_score(data, name, where) for name in ("small_score", "large_score"))
    return prompt, small, large, str(data.get("source") or source), str(data.get("category") or "")


def _json(line: str, where: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ConfigError(where, f"is not JSON ({error})", _REMEDY) from None


def _prompt(data: Any, where: str) -> Prompt:
    if not isinstance(data, dict) or not isinstance(text := data.get("prompt"), str) or not text.strip():
        raise ConfigError(where, "has no `prompt`", _REMEDY)
    turns = data.get("turns", 1)
    if not isinstance(turns, int) or not 1 <= turns <= _MOST_TURNS:
        raise ConfigError(
            where, f"`turns` must be a number from 1 to {_MOST_TURNS}", "leave it out, or count the user's messages"
        )
    return Prompt(text, turns)


def _score(data: dict[str, Any], name: str, where: str) -> float:
    value = data.get(name)
    if isinstance(value, bool | int | float) and 0 <= value <= 1:  # nor is NaN
        return float(value)
    raise ConfigError(where, f"`{name}` must be a number from 0 to 1 (it is {value!r})", _REMEDY)


def _question(text: str) -> str:
    return _NO_WORD.sub(" ", _CHOICES.split(text, maxsplit=1)[0].lower()).strip() or text
