"""What is asked, and of which tier."""

import json
from pathlib import Path

import pytest
from direct.lengths import Request, is_large, traffic
from loadgen import PlanError


@pytest.mark.parametrize("share", [0.15, 0.5, 1 / 3])
def test_the_split_is_even(share: float) -> None:
    large = [is_large(number, share) for number in range(300)]
    assert sum(large) == round(300 * share)
    for start in range(0, 280, 20):
        assert abs(sum(large[start : start + 20]) - 20 * share) <= 1


def test_all_and_none() -> None:
    assert all(is_large(number, 1.0) for number in range(50))
    assert not any(is_large(number, 0.0) for number in range(50))


def test_lengths_come_from_a_file(tmp_path: Path) -> None:
    rows = [{"prompt": "x" * 400, "large_tokens": 300}, {"prompt": "x", "large_tokens": 20}]
    (tmp_path / "lengths.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = traffic(tmp_path / "lengths.jsonl", "large_tokens", longest=None)
    assert set(found.requests) == {Request(136, 300), Request(37, 20)}
    assert found.context >= 436
    cut = traffic(tmp_path / "lengths.jsonl", "large_tokens", longest=50)
    assert {each.output_tokens for each in cut.requests} == {50, 20}
    with pytest.raises(PlanError, match="--length-key"):
        traffic(tmp_path / "lengths.jsonl", "output_tokens", longest=None)


def test_prompts_are_the_same_each_time_and_differ() -> None:
    asked, again = (traffic(None, "output_tokens", None) for _ in range(2))
    for number in range(40):
        prompt = asked.prompt(number, vocab=512)
        assert prompt == again.prompt(number, vocab=512)
        assert len(prompt) == asked.request(number).prompt_tokens
        assert 2 <= min(prompt) <= max(prompt) < 512
    count = len(asked.requests)
    assert asked.request(0) == asked.request(count) and asked.prompt(0, 512) != asked.prompt(count, 512)
