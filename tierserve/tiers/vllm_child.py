"""What tierserve does inside the processes of an engine. vLLM calls `settle` in each, as a plugin.

An engine must not outlive the node nor end before it:
- Ctrl-C reaches every process of the terminal's foreground group. The engines leave that group, so that the node can
  finish what is running before it ends them.
- After a kill -9 of the node nobody tells the engines. Each watches its parent and ends itself.

And on a CPU an engine must not spend the cores that the other engine and the node need on waiting: see Waiting.
"""

import multiprocessing
import os
import signal
import threading
import time
from typing import Any

# Set by the node for its children. Elsewhere in the same environment vLLM stays as it is.
NODE_VARIABLE = "TIERSERVE_NODE_PID"
_WATCH_S = 1.0
# A message that is answered at once comes within this; a step of a model takes longer.
_SPIN_S = 1e-3
# The kernel makes about 100 us of it, one part in twenty of a small model's step.
_PAUSE_S = 50e-6


def settle() -> None:
    parent = multiprocessing.parent_process()
    if parent is None or NODE_VARIABLE not in os.environ:
        return
    if os.getpgrp() != os.getpid():
        os.setpgid(0, 0)
    threading.Thread(target=_end_with, args=(parent.pid,), name="parent-watch", daemon=True).start()
    _wait_with_pauses()


class Waiting:
    """How one reader of vLLM's queue in shared memory waits for its next message: as vLLM does for a millisecond, then
    with pauses.

    vLLM yields the core again and again for a second after each message, which on a GPU host costs a core that nobody
    needs. On a CPU it is one that the other engine computes on: a yield gives it up for an instant only. Not to spin at
    all (`busy_loop_s` 0) is no way out: a notification can be lost, and the engine then stands still for seconds.
    """

    def __init__(self) -> None:
        self._last_read = -1.0
        self._began = 0.0

    def is_long(self, last_read: float, now: float) -> bool:
        """`last_read`: when the reader had its message before this one. Each starts a wait of its own."""
        if last_read != self._last_read:
            self._last_read, self._began = last_read, now
        return now - self._began > _SPIN_S


def _wait_with_pauses() -> None:
    """Let each reader in this process wait so, on a CPU. Imports vLLM."""
    from vllm.distributed.device_communicators.shm_broadcast import SpinCondition
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return
    wait_as_vllm = SpinCondition.wait

    def wait(reader: Any, timeout_ms: int | None = None) -> None:
        waiting = vars(reader).setdefault("tierserve_waiting", Waiting())
        now = time.monotonic()
        if now <= reader.last_read + reader.busy_loop_s and waiting.is_long(reader.last_read, now):
            time.sleep(_PAUSE_S)
        else:
            wait_as_vllm(reader, timeout_ms)

    SpinCondition.wait = wait


def _end_with(parent_pid: int | None) -> None:
    while os.getppid() == parent_pid:
        time.sleep(_WATCH_S)
    # A worker's parent is the engine's core, which ends in its own time at a shutdown: be gone without a trace of an
    # error. SIGKILL, for vLLM's own handlers wait on a node that is not there any more.
    os.kill(os.getpid(), signal.SIGKILL)
