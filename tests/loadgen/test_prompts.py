"""Prompts from files of each format; a file that can't be read is said to be one, with the line."""

import gzip
import json
from pathlib import Path

import pytest
from loadgen import PlanError, Prompt, built_in, read_prompts


def test_the_built_in_mix() -> None:
    prompts = built_in()
    assert len(prompts) == 650
    assert all(prompt.output_tokens is None for prompt in prompts)


def test_json_lines(tmp_path: Path) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}]
    rows = [{"prompt": "a", "output_tokens": 3, "other": 9}, {"messages": messages}, {"prompt": "b"}]
    text = "\n".join(json.dumps(row) for row in rows) + "\n\n"
    path = tmp_path / "prompts.jsonl.gz"
    path.write_bytes(gzip.compress(text.encode()))
    assert read_prompts(path) == [Prompt.of("a", 3), Prompt(messages), Prompt.of("b")]
    assert [prompt.output_tokens for prompt in read_prompts(path, "other")] == [9, None, None]


def test_sharegpt(tmp_path: Path) -> None:
    path = tmp_path / "sharegpt.json"
    turns = [
        [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "x" * 40}, {"from": "human", "value": "So?"}],
        [{"from": "gpt", "value": "goes on from elsewhere"}, {"from": "human", "value": "thanks"}],
        [{"from": "human", "value": "nobody answered"}],
        [],
    ]
    path.write_text(json.dumps([{"id": str(n), "conversations": each} for n, each in enumerate(turns)]))
    assert read_prompts(path) == [Prompt.of("Why?", 10)]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("p.jsonl", b'{"prompt": "a"}\n{"prompt": 3}\n', "p.jsonl:2: neither `prompt`"),
        ("p.jsonl", b'{"prompt": "a"}\n\n{"prompt"\n', "p.jsonl:3: "),
        ("p.jsonl", b"[1]\n", "p.jsonl:1: "),
        ("p.jsonl", b'{"messages": [{"role": "user"}]}\n', "p.jsonl:1: neither"),
        ("p.jsonl", b'{"messages": [5]}\n', "p.jsonl:1: "),
        ("p.jsonl", b'{"prompt": "a", "output_tokens": 0}\n', "output_tokens must be a whole number"),
        ("p.jsonl", b'{"prompt": "a", "output_tokens": "9"}\n', "output_tokens must be a whole number"),
        ("p.jsonl", b"\xff\xfe\n", "can't be read"),
        ("p.jsonl", b"\n", "holds no prompt"),
        ("p.jsonl.gz", b"not gzip", "can't be read"),
        ("p.json", b'{"conversations": []}', "a list of conversations"),
        ("p.json", b'[{"turns": []}]', "`conversations` is missing"),
        ("p.json", b'[{"conversations": [{"from": "human"}, {"from": "gpt"}]}]', "`value` is missing"),
        ("p.json", b"[]", "holds no prompt"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(PlanError, match=says):
        read_prompts(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="can't be read"):
        read_prompts(tmp_path / "absent.jsonl")
