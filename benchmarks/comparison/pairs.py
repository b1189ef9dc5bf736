"""Pairs of models, and what each is asked: the lab's, whose answers are right or wrong, and one without weights.

For all ways of serving alike, what a node remembers of prompts (scores, conversations, KV blocks) is off: every prompt
counts as a new one, though it comes again in the next trial. And whoever comes waits, however long: a request that is
refused takes no time, which would flatter the P99.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from typing import Any

from dummies import engine
from loadgen import Prompt, built_in, read_prompts
from node import ALL_WAIT, lab_config

from tierserve.lab.question import Question, Split
from tierserve.lab.tasks import mix

Config = dict[str, Any]
_LONGEST = 96  # tokens: longer than any right answer of the lab
# Tokens of the answers where there are no weights, in turns: were they all of one length, an engine's slots would end
# together, and a short trial would count whole batches.
_FIXED = (8, 12, 16, 20, 24)
_CONTEXT = 2048  # tokens of the dummies'
_KV_BYTES = 512 << 20  # holds one prompt of that context in float32, and their 16 requests at once


@dataclass(frozen=True)
class Pair:
    """`config` is the node's with routing and judging; `length_share`, what length-based routing sends to the large
    tier: about what that node does, so that the two differ in which prompts, not in how many."""

    config: Config
    prompts: Sequence[Prompt]
    max_tokens: int
    body: Mapping[str, Any]
    at_once: int  # callers that saturate either tier
    length_share: float
    slo_factor: float  # times what the large tier takes for one answer with nothing beside it
    questions: Sequence[Question] = ()

    @property
    def large(self) -> str:
        return str(self.config["tiers"]["large"]["name"])


def lab(questions: int) -> Pair:
    """configs/lab.yaml on held-out questions of its tasks."""
    asked = mix(Split.HELD_OUT, questions, seed=8)
    return Pair(
        config=_alike(lab_config()),
        prompts=[Prompt.of(question.prompt) for question in asked],
        max_tokens=_LONGEST,
        body={"temperature": 0},
        at_once=64,
        length_share=0.25,
        slo_factor=16,  # of so small a model's time; 4 would leave 50 ms to HTTP, routing and two models
        questions=asked,
    )


def dummy_cpu(folder: Path, prompts: Path | None, length_key: str) -> Pair:
    """60 M and 510 M parameters, at the cost of real models of that size; their answers mean nothing, so nothing is
    judged, and their lengths are fixed: 16 tokens on average, or the prompts' own.

    The split is the article's 85/15, held by the router: whichever prompts a real pair's would be, the router scores
    each and sends the highest up.
    """
    config: Config = {
        "server": {"port": 0},
        "router": {"threshold": 4.0, "target_large_share": 0.15},
        "escalation": "off",
        "tiers": {
            size: {
                "name": f"dummy-{size}",
                "engine": engine(size, folder) | {"kv_cache_memory_bytes": _KV_BYTES, "max_model_len": _CONTEXT},
            }
            for size in ("small", "large")
        },
    }
    return Pair(
        config=_alike(config),
        prompts=read_prompts(prompts, length_key) if prompts else _of_fixed_lengths(built_in()),
        max_tokens=max(_FIXED),
        body={"temperature": 0, "ignore_eos": True},
        at_once=32,
        length_share=0.15,
        slo_factor=4,
    )


def _of_fixed_lengths(prompts: Sequence[Prompt]) -> list[Prompt]:
    return [replace(prompt, output_tokens=length) for prompt, length in zip(prompts, cycle(_FIXED), strict=False)]


def by_length(pair: Pair) -> Config:
    """The node's configuration with nothing but the prompt's length to decide."""
    memory = {name: pair.config["router"][name] for name in ("cache_entries", "conversations")}
    router = {"scorer": "length", "target_large_share": pair.length_share} | memory
    return pair.config | {"router": router, "escalation": "off"}


def _alike(config: Config) -> Config:
    tiers = {
        size: tier | {"engine": tier["engine"] | {"enable_prefix_caching": False}}
        for size, tier in config["tiers"].items()
    }
    router = config["router"] | {"cache_entries": 0, "conversations": "off"}
    return config | {"tiers": tiers, "router": router, "admission": ALL_WAIT}
