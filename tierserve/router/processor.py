"""What the processor can do."""

from pathlib import Path


def has(flag: str) -> bool:
    """Whether Linux lists this among the processor's flags: "amx_bf16", "avx512_bf16"; False where it can't be told."""
    try:
        return flag in Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False
