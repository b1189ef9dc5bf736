"""How long the router takes to decide, on one core, and what the event loop notices of it.

    python benchmarks/router_speed.py

The whole process is pinned to one core. Measured in this order:

encoding     one text to its vector, tokenization included: every installed backend, and sentence-transformers as it is
             (`SentenceTransformer(folder).encode([text])`), in turns, so that what else the machine does hits all
             alike; each turn begins with a text that is not counted
decisions    with 32 prompts waiting all the time, none cached: 32 tokens each; and a mix (log-normal, median 30 tokens)
stalls       how late the event loop wakes that asks to be woken after a millisecond, while 200 prompts a second of the
             mix come at random moments: none twice; with the encoder on the loop's core, and on another one
cached       a decision on a prompt that was seen before

The targets are about the default backend, 32 tokens (one: 64) and the one core.
"""

import argparse
import asyncio
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import uvloop
from measurement import Measurement, Target, arguments, percentile
from tqdm import tqdm

from tierserve.config import EncoderConfig, RouterConfig
from tierserve.core import Call, Kind, Prompt
from tierserve.router.embedding import weights
from tierserve.router.embedding.encoder import load_encoder
from tierserve.router.router import Router, build_router

_LENGTHS = (8, 16, 32, 64, 128, 256)
_BACKENDS = ("openvino", "onnx", "sentence-transformers")
_IN_A_ROW = 8
_WAITING = 32
_PROMPTS_PER_S = 200
_TICK_S = 0.001
# Each of them one token to the default encoder.
_WORDS = (
    "the model reads a word and then another one until it knows what was asked who asked how long that may take why in "
    "which order people write code test it find bugs change names move files send mail read logs plan work wait for "
    "answers open doors close books count money draw maps build houses grow trees"
).split()


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=40, help=f"turns of each backend, of {_IN_A_ROW} texts a length")
    parser.add_argument("--seconds", type=float, default=10, help="length of each measurement of traffic")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds = 1, 0.5
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[-1:])  # threads that are started from here on inherit it
    default, rows = _encoding(options.rounds)
    rows += uvloop.run(_traffic(options, cores))
    Measurement("router_speed", rows, _targets(rows, default)).show(options)


def _targets(rows: list[dict[str, Any]], default: str) -> list[Target]:
    row = {(row["measured"], row["by"], row["tokens"]): row for row in rows}
    plain, ours = row["encoding", _PLAIN, 32]["p50_ms"], row["encoding", default, 32]["p50_ms"]
    return [
        Target("speedup_vs_sentence_transformers_32", plain / ours, 6, "higher"),
        Target("p99_ms_64", row["encoding", default, 64]["p99_ms"], 5, "lower"),
        Target("decisions_per_s", row["decisions", "32 waiting", 32]["per_s"], 450, "higher"),
        Target("loop_stall_p99_ms", row["stalls", "encoder on the same core", "mix"]["p99_ms"], 2, "lower"),
        Target("cached_decision_us", row["cached", "one at a time", 32]["p50_ms"] * 1000, 50, "lower"),
    ]


# --- encoding

_PLAIN = "sentence-transformers, its default"


def _encoding(rounds: int) -> tuple[str, list[dict[str, Any]]]:
    """What the default backend is called, and the rows."""
    default, encoders = _encoders()
    times: dict[tuple[str, int], list[float]] = {(name, tokens): [] for tokens in _LENGTHS for name in encoders}
    for _ in tqdm(range(rounds), desc="encoding", file=sys.stderr, disable=None):
        for tokens in _LENGTHS:
            texts = [_text(tokens) for _ in range(_IN_A_ROW)]
            for name, encode in encoders.items():
                encode([_text(tokens)])  # brings back to the caches what the backend before it took there
                for text in texts:
                    started = time.perf_counter()
                    encode([text])
                    times[name, tokens].append(time.perf_counter() - started)
    return default, [_row("encoding", name, tokens, values) for (name, tokens), values in times.items()]


def _encoders() -> tuple[str, dict[str, Callable[[list[str]], Any]]]:
    from sentence_transformers import SentenceTransformer

    print("loading (and, the first time, converting) the encoder for each backend ...", file=sys.stderr)
    default = load_encoder(EncoderConfig(max_tokens=_LENGTHS[-1])).runs_on
    encoders: dict[str, Callable[[list[str]], Any]] = {}
    for backend in _BACKENDS:
        encoder = load_encoder(EncoderConfig(backend=backend, max_tokens=_LENGTHS[-1]))
        encoders[encoder.runs_on] = encoder.encode  # one that is not installed is replaced by the next one
    encoders[_PLAIN] = SentenceTransformer(str(weights.locate(EncoderConfig().model)), device="cpu").encode
    for encode in encoders.values():
        for tokens in _LENGTHS:
            encode([_text(tokens)])
    return default, encoders


# --- traffic


async def _traffic(options: argparse.Namespace, cores: list[int]) -> list[dict[str, Any]]:
    router = build_router(RouterConfig(cache_entries=0))
    await router.start()
    rows = [
        await _decisions(router, options.seconds, 32, _always(32)),
        await _decisions(router, options.seconds, "mix", _mix()),
        await _stalls(router, options.seconds, "no traffic", prompts_per_s=0.5),
        await _stalls(router, options.seconds, "encoder on the same core"),
    ]
    if len(cores) > 1:
        os.sched_setaffinity(0, cores[:1])  # of this thread: the encoder's stays where it is
        rows.append(await _stalls(router, options.seconds, "encoder on another core"))
        os.sched_setaffinity(0, cores[-1:])
    await router.close()
    return [*rows, await _cached(200 if options.quick else 20_000)]


async def _decide(router: Router, text: str) -> None:
    await router.decide(Call("benchmark", Kind.CHAT, {}, (Prompt(text),)))


async def _decisions(router: Router, seconds: float, tokens: int | str, texts: Iterator[str]) -> dict[str, Any]:
    times: list[float] = []
    until = time.perf_counter() + seconds
    bar = tqdm(desc=f"decisions, {tokens} tokens", file=sys.stderr, disable=None)

    async def ask() -> None:
        while (started := time.perf_counter()) < until:
            await _decide(router, next(texts))
            times.append(time.perf_counter() - started)
            bar.update()

    started = time.perf_counter()
    await asyncio.gather(*(ask() for _ in range(_WAITING)))
    per_s = len(times) / (time.perf_counter() - started)
    bar.close()
    return _row("decisions", "32 waiting", tokens, times, per_s)


async def _stalls(router: Router, seconds: float, where: str, prompts_per_s: float = _PROMPTS_PER_S) -> dict[str, Any]:
    texts, stalls, tasks = _mix(), [], []
    ticking = asyncio.create_task(_tick(stalls))
    due = time.perf_counter()
    end = due + seconds
    with tqdm(desc=f"stalls, {where}", file=sys.stderr, disable=None) as bar:
        while due < end:
            due += random.expovariate(prompts_per_s)  # open loop: the next one comes whether or not this one is done
            await asyncio.sleep(due - time.perf_counter())
            tasks.append(asyncio.create_task(_decide(router, next(texts))))
            bar.update()
        await asyncio.gather(*tasks)
    ticking.cancel()
    await asyncio.gather(ticking, return_exceptions=True)
    return _row("stalls", where, "mix", stalls, len(tasks) / seconds)


async def _tick(stalls: list[float]) -> None:
    while True:
        due = time.perf_counter() + _TICK_S  # the loop's own clock counts whole milliseconds
        await asyncio.sleep(_TICK_S)
        stalls.append(max(time.perf_counter() - due, 0.0))


async def _cached(times: int) -> dict[str, Any]:
    router = build_router(RouterConfig())
    await router.start()
    text = _text(32)
    await _decide(router, text)
    values = []
    for _ in tqdm(range(times), desc="cached", file=sys.stderr, disable=None):
        started = time.perf_counter()
        await _decide(router, text)
        values.append(time.perf_counter() - started)
    await router.close()
    return _row("cached", "one at a time", 32, values)


# --- texts and rows


def _text(tokens: int) -> str:
    return " ".join(random.choices(_WORDS, k=tokens - 2))  # without the two special ones


def _always(tokens: int) -> Iterator[str]:
    while True:
        yield _text(tokens)


def _mix() -> Iterator[str]:
    while True:
        yield _text(max(4, min(round(random.lognormvariate(3.4, 0.8)), 600)))


def _row(measured: str, by: str, tokens: int | str, times_s: list[float], per_s: float | None = None) -> dict[str, Any]:
    return {
        "measured": measured,
        "by": by,
        "tokens": tokens,
        "p50_ms": percentile(times_s, 0.5) * 1000,
        "p99_ms": percentile(times_s, 0.99) * 1000,
        "longest_ms": max(times_s) * 1000,
        "per_s": len(times_s) / sum(times_s) if per_s is None else per_s,
    }


if __name__ == "__main__":
    main()
