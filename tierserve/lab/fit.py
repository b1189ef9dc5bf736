"""One stage of training: a plain loop over drawn examples, that goes on where it was interrupted.

Knows nothing of tasks: it is given a function from a block's number to examples. Everything that happens depends on the
step's number and the seed alone, so a run that was interrupted reads what it would have read.
"""

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer
from tqdm import tqdm  # type: ignore[import-untyped]

from tierserve.lab.writer import IGNORE, Example

_BLOCK = 8  # batches that are drawn together
_PARTS = 2
_SAVE_EVERY_S = 60
_WARM_UP = 100  # steps
_LEAST_RATE = 0.02
_MUON_RATE = 7  # its rate beside AdamW's


@dataclass(frozen=True, slots=True)
class Stage:
    name: str
    steps: int
    batch: int
    rate: float
    # The share of the steps in which the rate falls. Until then nothing depends on how many steps there will be: a plan
    # can be made longer or shorter while it runs, and the run is still that plan's.
    decay: float = 0.4


def batch_of(examples: Sequence[Example], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens, and for each the token that should follow (IGNORE: none in particular)."""
    longest = max(len(example.tokens) for example in examples)
    tokens = [example.tokens + [pad] * (longest - len(example.tokens)) for example in examples]
    targets = [example.targets + [IGNORE] * (longest - len(example.targets)) for example in examples]
    return torch.tensor(tokens)[:, :-1], torch.tensor(targets)[:, 1:]


def fit(model: Any, stage: Stage, examples: Callable[[int, int], list[Example]], folder: Path, log: Path) -> None:
    """Train `model` in place; `examples(block, count)` draws. Ends at once where `folder` says it was done before."""
    state_file = folder / f"{stage.name}.pt"
    optimizers = _optimizers(model, stage.rate)
    first, spent_s = 0, 0.0
    if state_file.is_file():
        state = torch.load(state_file, weights_only=True)
        if state["stage"] | {"steps": 0, "decay": 0} != asdict(stage) | {"steps": 0, "decay": 0}:
            raise SystemExit(f"{state_file} is of another plan than this one: remove it to begin anew")
        model.load_state_dict(state["model"])
        for optimizer, saved_state in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved_state)
        first, spent_s = state["step"], state["spent_s"]
    if first >= stage.steps:
        return
    model.train()
    started = saved = time.monotonic()
    losses: list[float] = []
    progress = tqdm(_batches(stage, examples, first), desc=stage.name, initial=first, total=stage.steps, mininterval=5)
    for step, batch in enumerate(progress, first + 1):
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * _share_of_rate(step, stage)
        losses.append(_step(model, optimizers, batch))
        if step % 100 == 0:
            progress.set_postfix(loss=f"{sum(losses[-100:]) / len(losses[-100:]):.3f}")
        now = time.monotonic()
        if step == stage.steps or now - saved > _SAVE_EVERY_S:
            saved = now
            spent = spent_s + now - started
            _save(model, optimizers, stage, step, spent, state_file)
            recent = losses[-200:]
            note(
                log, stage=stage.name, step=step, loss=round(sum(recent) / len(recent), 4), minutes=round(spent / 60, 1)
            )


def note(log: Path, **values: object) -> None:
    """Add a line to the log of the training."""
    with log.open("a", encoding="utf-8") as file:
        file.write(json.dumps(values) + "\n")


def _step(model: Any, optimizers: Sequence[Optimizer], examples: Sequence[Example]) -> float:
    """One step over a batch, computed in parts of like length: little is padded, and each step sees every kind."""
    ordered = sorted(examples, key=lambda example: len(example.tokens))
    size = math.ceil(len(ordered) / _PARTS)
    parts = [batch_of(ordered[at : at + size], model.config.pad_token_id) for at in range(0, len(ordered), size)]
    count = sum(int((targets != IGNORE).sum()) for _, targets in parts)
    total = 0.0
    for tokens, targets in parts:
        keep = targets != IGNORE
        with torch.autocast("cpu", torch.bfloat16):
            hidden = model.model(input_ids=tokens).last_hidden_state[keep]  # only what has a target meets the head
            logits = model.lm_head(hidden)
        loss = cross_entropy(logits.float(), targets[keep], reduction="sum") / count
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.item()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return total


def _optimizers(model: Any, rate: float) -> list[Optimizer]:
    """Muon for the matrices, AdamW for embeddings and norms: in 240 s on one core the large model came to a loss of
    0.96 so, and with AdamW alone to 1.35."""
    inner = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    outer = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    optimizers: list[Optimizer] = [
        torch.optim.Muon(inner, _MUON_RATE * rate, weight_decay=0.05),
        torch.optim.AdamW(outer, rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
    ]
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
    return optimizers


def _batches(stage: Stage, examples: Callable[[int, int], list[Example]], first: int) -> Iterator[list[Example]]:
    for block in range(first // _BLOCK, math.ceil(stage.steps / _BLOCK)):
        drawn = examples(block, stage.batch * _BLOCK)
        Random(f"{stage.name} {block}").shuffle(drawn)
        for number in range(_BLOCK):
            if first <= block * _BLOCK + number < stage.steps:
                yield drawn[number * stage.batch : (number + 1) * stage.batch]


def _share_of_rate(step: int, stage: Stage) -> float:
    """Warm-up, constant, then down a cosine."""
    left = min(1.0, (1 - step / stage.steps) / stage.decay)
    return min(1.0, step / _WARM_UP) * (_LEAST_RATE + (1 - _LEAST_RATE) * 0.5 * (1 - math.cos(math.pi * left)))


def _save(model: Any, optimizers: Sequence[Optimizer], stage: Stage, step: int, spent_s: float, file: Path) -> None:
    """Written beside and moved: an interruption leaves the old state or the new one."""
    state = {
        "stage": asdict(stage),
        "step": step,
        "spent_s": spent_s,
        "model": model.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
    }
    beside = file.with_suffix(".new")
    torch.save(state, beside)
    beside.replace(file)
