"""What judging the small tier's answers is worth, and what it costs.

    python benchmarks/escalation.py --plot curve.png

On held-out questions of the lab's traffic, through the running node (configs/lab.yaml), at temperature 0:

- curve: each estimator's quality, large share and wasted tokens over thresholds, with routing at 4.0 before it; from
  answers of both tiers, forced, with their logprobs or in the structured form. Beside it: all small, all large, routing
  alone. A token is wasted when the small tier wrote it for an answer that was not sent (whole answers are judged).
- node: the same as the node does it by itself, with `auto` and its own settings; and a second node, with the article's
  (configs/article.yaml).
- first byte: of streams that commit, against the small tier alone, in alternation, one at a time; each prompt was
  routed before, so what routing takes is not in it (router_speed.py has that). Of the lab's questions, whose answers
  are short, and of answers of 64 tokens.
- prewarm: first byte of escalated streams without and with it, of the same prompts, on one node after the other; two
  models of 60 M and 510 M parameters without weights, prompts of 600 to 900 tokens; every answer is doubted after 64
  tokens. Each engine has a core of its own, as it would have GPUs of its own: where both share a device, reading in
  advance takes from the small tier what it gives to the large one.
"""

import argparse
import asyncio
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
from dummies import engine
from measurement import Measurement, Target, arguments, percentile
from node import Node, lab_config
from tqdm import tqdm

from tierserve.confidence.logprobs import ALTERNATIVES, STATISTICS, Token
from tierserve.confidence.structured import INSTRUCTIONS, PATTERNS, Position, read
from tierserve.config import EscalationConfig
from tierserve.lab.question import Question, Split
from tierserve.lab.tasks import mix

_AT_ONCE = 32
_LONGEST = 96
_ROUTED_ABOVE = 4.0
_THRESHOLDS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99, 1.01)
_ESTIMATORS = (
    EscalationConfig(),
    EscalationConfig(statistic="minimum", window=2),
    EscalationConfig(statistic="entropy", window=8),
)
_LONG_ANSWER = {"max_tokens": 64, "ignore_eos": True}
Row = dict[str, Any]
_ROW = ("measured", "by", "threshold", "right_pct", "large_pct", "wasted_tokens_pct", "first_byte_ms", "p90_ms")


@dataclass(frozen=True, slots=True)
class Said:
    """`tokens`: how many; `logprobs` of each, where they were asked for. `first_s`: when the first word was there."""

    text: str
    headers: dict[str, str]
    tokens: int
    first_s: float
    logprobs: Sequence[Token] = ()


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--questions", type=int, default=2_000)
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="quality over the large tier's share")
    options = parser.parse_args()
    questions = mix(Split.HELD_OUT, 60 if options.quick else options.questions, seed=6)
    rows, targets = _of_the_lab(questions, options)
    speedup, prewarmed = _of_prewarming(options)
    targets.append(Target("prewarm_speedup", speedup, 1.3, "higher"))
    Measurement("escalation", rows + prewarmed, targets).show(options)


def _of_the_lab(questions: Sequence[Question], options: argparse.Namespace) -> tuple[list[Row], list[Target]]:
    streams = questions[: 10 if options.quick else 200]
    shipped = lab_config()
    judged_by = EscalationConfig(**shipped["escalation"]).judged_by
    # Without a budget: which answers it spares depends on what was asked within the minute.
    shipped["escalation"] = shipped["escalation"] | {"budget": None}
    with _nodes(shipped) as (node,):
        answers = asyncio.run(_all_answers(node.url, questions))
        rows = _curves(questions, answers)
        whole, gap, share = _as_the_node_does_it(node, questions, answers, "its own settings")
        rows += whole
        ratio, first = _first_bytes(node, streams, judged_by)
        rows += first
    with _nodes(lab_config("article")) as (node,):
        rows += _as_the_node_does_it(node, questions, answers, "the article's settings")[0]
        rows += _first_bytes(node, streams, "structured first")[1]
    if options.plot:
        _plot(options.plot, rows)
    return rows, [
        Target("quality_gap_points", gap, 0.3, "lower"),
        Target("large_share", share, 0.20, "lower"),
        Target("ttfb_ratio_committed", ratio, 1.3, "lower"),
    ]


class _nodes(ExitStack):
    """Nodes of these configurations, ready."""

    def __init__(self, *configs: dict[str, Any]) -> None:
        super().__init__()
        self._configs = configs

    def __enter__(self) -> list[Node]:  # type: ignore[override]
        super().__enter__()
        print(f"starting {len(self._configs)} node(s) ...", file=sys.stderr)
        folders = [Path(self.enter_context(tempfile.TemporaryDirectory())) for _ in self._configs]
        nodes = []
        for config, folder in zip(self._configs, folders, strict=True):
            nodes.append(self.enter_context(Node(config, folder)).wait_until_ready())
        return nodes


async def _all_answers(url: str, questions: Sequence[Question]) -> dict[str, list[Said]]:
    """What each tier says, and the small one in the structured form; and the router's decisions."""
    plain = {"logprobs": True, "top_logprobs": ALTERNATIVES}
    answers = {
        "small": await _ask_all(url, questions, "small", plain),
        "large": await _ask_all(url, questions, "large", {}),
    }
    for position in Position:
        form = {"structured_outputs": {"regex": PATTERNS[position]}}
        answers[f"structured {position}"] = await _ask_all(url, questions, "small", form, INSTRUCTIONS[position])
    answers["routed"] = await _ask_all(url, questions, "auto", {"max_tokens": 1})
    return answers


async def _ask_all(
    url: str, questions: Sequence[Question], model: str, options: dict[str, Any], system: str | None = None
) -> list[Said]:
    slots = asyncio.Semaphore(_AT_ONCE)
    with tqdm(total=len(questions), desc=f"{model} {system or ''}"[:40], mininterval=2) as progress:
        async with aiohttp.ClientSession() as session:

            async def one(question: Question) -> Said:
                async with slots:
                    said = await _ask(session, url, model, question.prompt, options, system)
                progress.update()
                return said

            return list(await asyncio.gather(*map(one, questions)))


async def _ask(
    session: aiohttp.ClientSession,
    url: str,
    model: str,
    prompt: str,
    options: dict[str, Any],
    system: str | None = None,
) -> Said:
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": prompt})
    body = {"model": model, "messages": messages, "temperature": 0, "max_tokens": _LONGEST} | options
    started = time.perf_counter()
    async with session.post(f"{url}/v1/chat/completions", json=body) as response:
        headers = {name.lower(): value for name, value in response.headers.items()}
        if response.status != 200:
            raise RuntimeError(f"{response.status}: {await response.text()}")
        if body.get("stream"):
            text, first_s = await _streamed(response, started)
            return Said(text, headers, 0, first_s)
        answer = await response.json()
    (choice,) = answer["choices"]
    logprobs = [
        [token["logprob"], *(other["logprob"] for other in token["top_logprobs"])]
        for token in (choice["logprobs"] or {}).get("content") or ()
    ]
    text = choice["message"]["content"] or ""
    return Said(text, headers, answer["usage"]["completion_tokens"], time.perf_counter() - started, logprobs)


async def _streamed(response: aiohttp.ClientResponse, started: float) -> tuple[str, float]:
    """The text, and when its first word was there."""
    text, first_s = "", 0.0
    async for line in response.content:
        if line.startswith(b"data: {"):
            event = json.loads(line.removeprefix(b"data: "))
            if "error" in event:
                raise RuntimeError(event["error"])
            content = "".join(choice["delta"].get("content") or "" for choice in event["choices"])
            first_s = first_s or (content and time.perf_counter() - started) or 0.0
            text += content
    return text, first_s or time.perf_counter() - started


def _right(questions: Iterable[Question], texts: Iterable[str]) -> Any:
    return np.array([question.is_right(text) for question, text in zip(questions, texts, strict=True)])


def _curves(questions: Sequence[Question], answers: dict[str, list[Said]]) -> list[Row]:
    scores = np.array([float(said.headers["x-tierserve-score"]) for said in answers["routed"]])
    large = _right(questions, (said.text for said in answers["large"]))
    small = _right(questions, (said.text for said in answers["small"]))
    tokens = np.array([said.tokens for said in answers["small"]])
    rows = [
        _row("curve", "all small", None, small.mean(), 0.0, 0.0),
        _row("curve", "all large", None, large.mean(), 1.0, 0.0),
    ]
    for threshold in (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0):
        routed = scores > threshold
        right = np.where(routed, large, small).mean()
        rows.append(_row("curve", "routing alone", threshold, right, routed.mean(), 0.0))
    for by, confidences, right, spent in _estimates(questions, answers, small, tokens):
        for threshold in _THRESHOLDS:
            routed = scores > _ROUTED_ABOVE
            escalated = ~routed & (confidences < threshold)
            quality = np.where(routed | escalated, large, right).mean()
            wasted = spent[escalated].sum() / max(1, spent[~routed].sum())
            rows.append(_row("curve", by, threshold, quality, (routed | escalated).mean(), wasted))
    return rows


def _estimates(
    questions: Sequence[Question], answers: dict[str, list[Said]], small: Any, tokens: Any
) -> Iterable[tuple[str, Any, Any, Any]]:
    """Of each estimator the confidences, which answers were right in its form, and how many tokens they took."""
    for judge in _ESTIMATORS:
        confidences = [STATISTICS[judge.statistic](said.logprobs, judge.window) for said in answers["small"]]
        yield judge.judged_by, np.array(confidences), small, tokens
    for position in Position:
        said = answers[f"structured {position}"]
        read_as = [read(one.text) for one in said]
        confidences = [(answer and answer.confidence) or 0.0 for answer in read_as]
        right = _right(questions, (answer.content if answer else "" for answer in read_as))
        yield f"structured {position}", np.array(confidences), right, np.array([one.tokens for one in said])


def _as_the_node_does_it(
    node: Node, questions: Sequence[Question], answers: dict[str, list[Said]], settings: str
) -> tuple[list[Row], float, float]:
    """The rows, the gap to all large in points, and the large tier's share."""
    written = node.metric('tierserve_tokens_total{direction="completion",tier="lab-small"}')
    wasted = node.metric('tierserve_wasted_tokens_total{direction="completion"}')
    said = asyncio.run(_ask_all(node.url, questions, "auto", {}))
    wasted = node.metric('tierserve_wasted_tokens_total{direction="completion"}') - wasted
    written = node.metric('tierserve_tokens_total{direction="completion",tier="lab-small"}') - written + wasted
    right = _right(questions, (one.text for one in said)).mean()
    share = sum(one.headers["x-tierserve-tier"] == "lab-large" for one in said) / len(said)
    large = _right(questions, (one.text for one in answers["large"])).mean()
    row = _row("node", settings, None, right, share, wasted / max(1, written))
    return [row], 100 * float(large - right), share


def _first_bytes(node: Node, questions: Sequence[Question], by: str) -> tuple[float, list[Row]]:
    """The ratio on the lab's questions, and the rows."""
    ratios, rows = [], []
    for kind, options in (("", {}), (", 64 tokens", _LONG_ANSWER)):
        if options and "structured" in by:
            continue  # its grammar ends the answer
        alone, judged = asyncio.run(_alternated(node.url, [question.prompt for question in questions], options))
        ratios.append(statistics.median(judged) / statistics.median(alone))
        for name, times in (("small alone", alone), (by, judged)):
            values = 1000 * statistics.median(times), 1000 * percentile(times, 0.9)
            rows.append(_row("first byte", name + kind, None, None, None, None, *values))
    return ratios[0], rows


async def _alternated(url: str, prompts: Sequence[str], options: dict[str, Any]) -> tuple[list[float], list[float]]:
    alone, judged = [], []
    streamed = {"stream": True} | options
    async with aiohttp.ClientSession() as session:
        for prompt in tqdm(prompts, desc="first bytes", mininterval=2):
            await _ask(session, url, "auto", prompt, streamed)
            one, other = (
                await _ask(session, url, "small", prompt, streamed),
                await _ask(session, url, "auto", prompt, streamed),
            )
            if other.headers["x-tierserve-tier"] == "lab-small":
                alone.append(one.first_s)
                judged.append(other.first_s)
    return alone, judged


def _of_prewarming(options: argparse.Namespace) -> tuple[float, list[Row]]:
    """How many times earlier an escalated answer starts, and the rows. A quick run has the lab's models for it."""
    times = 4 if options.quick else 12
    with tempfile.TemporaryDirectory() as folder:
        config = lab_config()
        config["router"] |= {"threshold": 10.0}
        if not options.quick:
            for size in ("small", "large"):
                config["tiers"][size]["engine"] = engine(size, Path(folder))
        judging = {"threshold": 1.0, "hold_tokens": 64, "budget": None, "prewarm_band": 10.0}
        taken = []
        for prewarm in (False, True):
            with _one_thread(), _nodes(config | {"escalation": judging | {"prewarm": prewarm}}) as (node,):
                _give_each_engine_a_core(node)
                taken.append(asyncio.run(_escalated(node.url, times)))
                hits = node.metric('tierserve_prewarms_total{result="hit"}')
    without, with_it = taken
    rows = [
        _row("prewarm", name, None, None, 1.0, None, 1000 * statistics.median(taken), 1000 * percentile(taken, 0.9))
        for name, taken in (("off", without), (f"on, {hits:.0f} of {times + 1} read in time", with_it))
    ]
    return statistics.median(without) / statistics.median(with_it), rows


@contextmanager
def _one_thread() -> Iterator[None]:
    """Engines that are started in the block compute on one thread each, wherever it is put."""
    before = dict(os.environ)
    os.environ.update({"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"})
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _give_each_engine_a_core(node: Node) -> None:
    """The first engine that was started, the small one, on the first half of the cores, the large one on the rest."""
    cores = sorted(os.sched_getaffinity(0))
    engines = sorted((one for one in node.family() if "EngineCore" in one.name()), key=lambda one: one.create_time())
    for first, one in zip((0, len(cores) // 2), engines, strict=True):
        own = cores[first : first + max(1, len(cores) // 2)]
        for process in (one, *one.children(recursive=True)):
            for thread in process.threads():
                os.sched_setaffinity(thread.id, own)


async def _escalated(url: str, times: int) -> list[float]:
    """First bytes in seconds; each prompt is new, and the first is not counted."""
    rng = random.Random(6)
    taken = []
    streamed = {"stream": True, "max_tokens": 72, "ignore_eos": True}
    async with aiohttp.ClientSession() as session:
        for _ in tqdm(range(times + 1), desc="escalated", mininterval=2):
            prompt = " ".join(str(rng.randrange(10)) for _ in range(rng.randrange(300, 450)))
            said = await _ask(session, url, "auto", prompt, streamed)
            if said.headers["x-tierserve-escalated"] != "true":
                raise RuntimeError("an answer was not doubted, though all were to be")
            taken.append(said.first_s)
    return taken[1:]


def _row(
    measured: str,
    by: str,
    threshold: float | None,
    right: float | None,
    large: float | None,
    wasted: float | None,
    first_byte_ms: float | None = None,
    p90_ms: float | None = None,
) -> Row:
    shares = (None if part is None else 100 * float(part) for part in (right, large, wasted))
    return dict(zip(_ROW, (measured, by, threshold, *shares, first_byte_ms, p90_ms), strict=True))


def _plot(path: Path, rows: Sequence[Row]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
    curves: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        if row["measured"] == "curve":
            curves.setdefault(row["by"], []).append((row["large_pct"], row["right_pct"]))
        elif row["measured"] == "node":
            axes.plot(row["large_pct"], row["right_pct"], "k*" if "own" in row["by"] else "kx", markersize=11)
            axes.annotate(f" the node, {row['by']}", (row["large_pct"], row["right_pct"]), va="top", fontsize=8)
    for name, points in curves.items():
        if len(points) > 1:
            axes.plot(*zip(*sorted(points), strict=True), marker=".", label=name)
    ((_, all_large),) = curves["all large"]
    axes.axhline(all_large, color="grey", linewidth=0.8, linestyle="--", label="all large")
    axes.set(xlabel="requests that reach the large tier, %", ylabel="right, %", xlim=(0, 60))
    axes.set_title("Held-out questions of the lab: routed at 4.0, then judged")
    axes.legend(loc="lower right")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
