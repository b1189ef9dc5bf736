"""The GPU, as nvidia-smi knows it: asking CUDA would take memory of it in this process."""

import shutil
import subprocess
import time
from dataclasses import dataclass

from loadgen import PlanError

from direct.memory import Room

_MIB, _GIB = 1 << 20, 1 << 30
_SPARE_BYTES, _LEAST_KV_BYTES = 4 * _GIB, 8 * _GIB
_FREED_SHARE, _FREED_WAIT_S = 0.05, 60.0
# Where there is no GPU, which only the tiny models run on.
_CPU_ROOM = Room(total_bytes=_GIB, spare_bytes=0, least_kv_bytes=16 * _MIB)


@dataclass(frozen=True)
class Device:
    """`name` is what results are told apart by; `driver` is its version, empty for a CPU."""

    name: str
    driver: str
    room: Room

    @property
    def is_gpu(self) -> bool:
        return bool(self.driver)

    def wait_until_free(self) -> None:
        """For an engine's process to give back what it held, which may end after the engine's shutdown."""
        end = time.monotonic() + _FREED_WAIT_S
        while self.is_gpu and _asked("memory.used")[0] > _FREED_SHARE * self.room.total_bytes / _MIB:
            if time.monotonic() > end:
                raise PlanError(f"{self.name} is in use: its memory is not free")
            time.sleep(0.5)


def find(tiny: bool) -> Device:
    """The first GPU, or for the tiny models the CPU where there is none. Raises PlanError."""
    if shutil.which("nvidia-smi"):
        command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader", "--id=0"]
        name, driver = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip().split(", ")
        (total_mib,) = _asked("memory.total")
        room = Room(int(total_mib * _MIB), _SPARE_BYTES, _LEAST_KV_BYTES)
        return Device(f"{name}, {total_mib:.0f} MiB", driver, room)
    if tiny:
        return Device("none: CPU", "", _CPU_ROOM)
    raise PlanError("no GPU here (nvidia-smi is not found): --tiny goes the same way on a CPU, with tiny models")


def _asked(what: str) -> tuple[float, ...]:
    command = ["nvidia-smi", f"--query-gpu={what}", "--format=csv,noheader,nounits", "--id=0"]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return tuple(map(float, said.split(",")))
