"""How long the assessor takes for a prompt, what its cached prompt saves, and what the event loop notices of it.

    python benchmarks/assessor_speed.py

The model is Qwen2.5-1.5B as to its size, with random weights, in bf16: how long it takes does not depend on those.
Its tokenizer knows the words of the assessment prompt, and as Qwen2.5's each digit but no 10. Measured in this order:

assessing  texts of so many tokens to their ratings, behind the cached prompt and without it (of which the first token
           is then all that is cached); in turns, so that what else the machine does hits all alike. Beside them the
           floor: reading the weights once, and the arithmetic, each as fast as torch does it here by itself
stalls     how late the event loop wakes that asks to be woken after a millisecond, while four callers ask for second
           opinions all the time; and while none does

Targets: the worst stall counts, whatever the number of threads; memory is the process's own, at the end of it all.
"""

import asyncio
import itertools
import random
import re
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import psutil
import torch
import uvloop
from measurement import Measurement, Target, arguments, percentile
from tqdm import tqdm
from transformers import AutoModelForCausalLM, Qwen2Config

from tierserve.config import AssessConfig
from tierserve.lab.tokenizer import qwen_tokenizer
from tierserve.router.assessing.assessor import Assessor
from tierserve.router.assessing.frame import Frame
from tierserve.router.assessing.opinion import Assessments, SecondOpinion
from tierserve.router.assessing.packed import pack
from tierserve.router.assessing.prompt import SYSTEM

_QWEN = {
    "vocab_size": 151_936,
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}
_QUICK = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
_TOKENS, _BATCHES = (32, 64, 128), (1, 4)
_CALLERS = 4
_TICK_S = 0.001
_WORDS = sorted(set(re.findall(r"[a-z]+", SYSTEM)))


class WithoutCache:
    """A frame whose prompt is read again for each text, but for one token."""

    def __init__(self, frame: Frame) -> None:
        self.scale, self.prefix = frame.scale, frame.prefix[:1]
        self._frame = frame

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        return [self._frame.prefix[1:] + ids for ids in self._frame.ids(texts)]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="passes of each kind")
    parser.add_argument("--seconds", type=float, default=15, help="length of each measurement of stalls")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="cores that the assessor uses")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds, options.threads = 1, 0.5, [1]
    print("making a model of random weights ...", file=sys.stderr)
    frame, model = _made(_QWEN | _QUICK if options.quick else _QWEN)
    rows = _assessing(frame, model, options.rounds, options.threads)
    rows += uvloop.run(_stalls(frame, model, options.seconds, options.threads))
    rss_gb = psutil.Process().memory_info().rss / 1e9
    _put_floors(rows, model, len(frame.prefix), options.threads)
    Measurement("assessor_speed", rows, _targets(rows, options.threads, rss_gb)).show(options)


def _targets(rows: list[dict[str, Any]], all_threads: list[int], rss_gb: float) -> list[Target]:
    p50 = {(row["prompt"], row["threads"]): row["p50_ms"] for row in rows if (row["tokens"], row["batch"]) == (32, 1)}
    stalls = [row["p99_ms"] for row in rows if row["measured"] == "stalls" and row["threads"]]
    return [
        Target(
            "prefix_speedup_32", min(p50["read", each] / p50["cached", each] for each in all_threads), 1.8, "higher"
        ),
        Target("loop_stall_p99_ms", max(stalls), 5, "lower"),
        Target("rss_gb", rss_gb, 4.5, "lower"),
    ]


def _made(shape: dict[str, Any]) -> tuple[Frame, Any]:
    tokenizer = qwen_tokenizer([SYSTEM, " ".join(_WORDS)] * 50, fixed=())
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(Qwen2Config(**shape), dtype=torch.bfloat16).eval()
    pack(model.base_model)
    stops = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    return Frame(tokenizer, stops, max_tokens=_TOKENS[-1]), model


# --- assessing


def _assessing(frame: Frame, model: Any, rounds: int, all_threads: list[int]) -> list[dict[str, Any]]:
    assessors = {
        (prompt, threads): Assessor(model, framed, threads)
        for prompt, framed in (("cached", frame), ("read", WithoutCache(frame)))
        for threads in all_threads
    }
    cases = list(itertools.product(_TOKENS, _BATCHES, all_threads, ("cached", "read")))
    times: dict[tuple[int, int, int, str], list[float]] = {case: [] for case in cases}
    for _ in tqdm(range(rounds), desc="assessing", file=sys.stderr, disable=None):
        for tokens, batch, threads, prompt in cases:
            times[tokens, batch, threads, prompt].append(
                _timed(lambda texts, key=(prompt, threads): assessors[key].rate(texts), [_text(tokens)] * batch)
            )
    return [_row("assessing", *case, values) for case, values in times.items()]


def _timed(work: Callable[[list[str]], Any], texts: list[str]) -> float:
    started = time.perf_counter()
    work(texts)
    return time.perf_counter() - started


def _text(tokens: int) -> str:
    return " ".join(random.choices(_WORDS, k=tokens))


# --- stalls


async def _stalls(frame: Frame, model: Any, seconds: float, all_threads: list[int]) -> list[dict[str, Any]]:
    rows = []
    for threads in (0, *all_threads):
        config = AssessConfig(model="random", threads=max(threads, 1), deadline_ms=60_000)
        second = SecondOpinion(config, Assessor(model, frame, config.threads), Assessments())
        stalls: list[float] = []
        ticking = asyncio.create_task(_tick(stalls))
        until = time.perf_counter() + seconds
        print(f"stalls, {threads} threads ...", file=sys.stderr)
        if threads:
            await asyncio.gather(*(_ask(second, until) for _ in range(_CALLERS)))
        else:
            await asyncio.sleep(seconds)
        ticking.cancel()
        await asyncio.gather(ticking, return_exceptions=True)
        await second.close()
        rows.append(_row("stalls", 32 if threads else 0, _CALLERS if threads else 0, threads, "cached", stalls))
    return rows


async def _ask(second: SecondOpinion, until: float) -> None:
    while time.perf_counter() < until:
        assert await second.on(_text(32), 4.0) is not None


async def _tick(stalls: list[float]) -> None:
    while True:
        due = time.perf_counter() + _TICK_S  # the loop's own clock counts whole milliseconds
        await asyncio.sleep(_TICK_S)
        stalls.append(max(time.perf_counter() - due, 0.0))


# --- rows and floors


def _row(measured: str, tokens: int, batch: int, threads: int, prompt: str, times_s: list[float]) -> dict[str, Any]:
    return {
        "measured": measured,
        "tokens": tokens,
        "batch": batch,
        "threads": threads,
        "prompt": prompt,
        "p50_ms": percentile(times_s, 0.5) * 1000,
        "p99_ms": percentile(times_s, 0.99) * 1000,
        "longest_ms": max(times_s) * 1000,
    }


def _put_floors(rows: list[dict[str, Any]], model: Any, prompt_tokens: int, all_threads: list[int]) -> None:
    """Beside each row how long its reading and its arithmetic would take at the least, None where there is none."""
    config = model.config
    head, layer = config.hidden_size // config.num_attention_heads, config.hidden_size * config.hidden_size
    layer = 2 * layer + 2 * config.hidden_size * head * config.num_key_value_heads
    weights = config.num_hidden_layers * (layer + 3 * config.hidden_size * config.intermediate_size)
    speed = {threads: (_bytes_per_s(threads), _operations_per_s(threads)) for threads in all_threads}
    for row in rows:
        row["prompt_tokens"] = prompt_tokens
        row["floor_bytes_ms"] = row["floor_operations_ms"] = None
        if row["measured"] == "assessing":
            bytes_per_s, operations_per_s = speed[row["threads"]]
            tokens = row["batch"] * (row["tokens"] + (prompt_tokens if row["prompt"] == "read" else 0))
            row["floor_bytes_ms"] = 1000 * 2 * weights / bytes_per_s
            row["floor_operations_ms"] = 1000 * 2 * weights * tokens / operations_per_s


def _bytes_per_s(threads: int) -> float:
    torch.set_num_threads(threads)
    values = torch.ones(2**27)  # 512 MiB: no cache holds it
    return values.nbytes / min(_timed(lambda _: values.sum(), []) for _ in range(5))


def _operations_per_s(threads: int) -> float:
    torch.set_num_threads(threads)
    size = 2048
    left, right = torch.ones(size, size, dtype=torch.bfloat16), torch.ones(size, size, dtype=torch.bfloat16)
    return 2 * size**3 / min(_timed(lambda _: left @ right, []) for _ in range(5))


if __name__ == "__main__":
    main()
