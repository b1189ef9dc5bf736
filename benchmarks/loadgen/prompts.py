"""Prompts from files. What can't be read raises PlanError, with file and line."""

import gzip
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar

from loadgen.plan import PlanError, Prompt

_TRAFFIC = Path(__file__).resolve().parents[1] / "traffic.jsonl"
_CHARS_PER_TOKEN = 4  # of English, about; ShareGPT's file says nothing of tokens
_Read = TypeVar("_Read")
_HUMAN, _MODEL = ("human", "user"), ("gpt", "chatgpt", "bing", "bard", "assistant")


def built_in() -> list[Prompt]:
    """benchmarks/traffic.jsonl: 650 everyday prompts, 86 % of them simple."""
    return _from_jsonl(_TRAFFIC, "output_tokens")


def read_prompts(path: Path, length_key: str = "output_tokens") -> list[Prompt]:
    """From JSON Lines (`prompt` or `messages`, and `length_key` where the answer's length is known) or, where the name
    ends in .json, ShareGPT's format: what the human said first, and about as many tokens as were answered.

    Either may be gzipped.
    """
    prompts = _from_sharegpt(path) if path.name.removesuffix(".gz").endswith(".json") else _from_jsonl(path, length_key)
    if not prompts:
        raise PlanError(f"{path} holds no prompt")
    return prompts


def _from_jsonl(path: Path, length_key: str) -> list[Prompt]:
    return [
        _checked(f"{path}:{number}", partial(_from_line, line, length_key))
        for number, line in enumerate(_read(path).splitlines(), 1)
        if line.strip()
    ]


def _from_line(line: str, length_key: str) -> Prompt:
    row = json.loads(line)
    messages, text, tokens = row.get("messages"), row.get("prompt"), row.get(length_key)
    if tokens is not None and (isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 1):
        raise ValueError(f"{length_key} must be a whole number from 1 on")
    if isinstance(messages, list) and messages and all("content" in message for message in messages):
        return Prompt(messages, tokens)
    if not isinstance(text, str):
        raise ValueError("neither `prompt`, a text, nor `messages`, a list")
    return Prompt.of(text, tokens)


def _from_sharegpt(path: Path) -> list[Prompt]:
    conversations = _checked(str(path), lambda: json.loads(_read(path)))
    if not isinstance(conversations, list):
        raise PlanError(f"{path}: ShareGPT's format is a list of conversations")
    prompts = _checked(str(path), lambda: [list(_first_turn(each["conversations"])) for each in conversations])
    return [prompt for found in prompts for prompt in found]


def _first_turn(turns: list[dict[str, str]]) -> Iterator[Prompt]:
    """One prompt, or none where the conversation does not begin with a question and its answer."""
    if len(turns) > 1 and turns[0]["from"] in _HUMAN and turns[1]["from"] in _MODEL and turns[0]["value"]:
        yield Prompt.of(turns[0]["value"], max(1, round(len(turns[1]["value"]) / _CHARS_PER_TOKEN)))


def _checked(where: str, read: Callable[[], _Read]) -> _Read:
    try:
        return read()
    except PlanError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        said = f"`{error.args[0]}` is missing" if isinstance(error, KeyError) else str(error)
        raise PlanError(f"{where}: {said}") from None


def _read(path: Path) -> str:
    try:
        raw = path.read_bytes()
        return (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise PlanError(f"{path} can't be read: {error}") from None
