"""What tierserve does inside the processes of an engine. vLLM calls `settle` in each, as a plugin.

An engine must not outlive the node nor end before it:
- Ctrl-C reaches every process of the terminal's foreground group. The engines leave that group, so that the node can
  finish what is running before it ends them.
- After a kill -9 of the node nobody tells the engines. Each watches its parent and ends itself.

And on a CPU an engine must not spend the cores that the other engine and the node need on waiting (see Waiting), nor
import vLLM once more for its worker (see _fork_workers).
"""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Collection
from functools import partial
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
    _watch(parent.pid)
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        _wait_with_pauses()
        _fork_workers()


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
    """Let each reader in this process wait so. Imports vLLM."""
    from vllm.distributed.device_communicators.shm_broadcast import SpinCondition

    wait_as_vllm = SpinCondition.wait

    def wait(reader: Any, timeout_ms: int | None = None) -> None:
        waiting = vars(reader).setdefault("tierserve_waiting", Waiting())
        now = time.monotonic()
        if now <= reader.last_read + reader.busy_loop_s and waiting.is_long(reader.last_read, now):
            time.sleep(_PAUSE_S)
        else:
            wait_as_vllm(reader, timeout_ms)

    SpinCondition.wait = wait


def _fork_workers() -> None:
    """Let this process, an engine's core, fork its workers: they have then what it has imported, which would take each
    as long again, ten seconds of an engine's start, or of its rebuild.

    vLLM does so on a GPU host. On a CPU it starts them from nothing, for OpenMP reads when it is loaded how many
    threads it may have, and on which cores; a forked worker is told.
    """
    from vllm.utils.ompmultiprocessing import OMPProcessManager
    from vllm.v1.executor import multiproc_executor
    from vllm.v1.executor.multiproc_executor import WorkerProc

    work, tell = WorkerProc.worker_main, OMPProcessManager.configure_omp_envs
    cores: list[int] = []  # of the worker that comes next; none where the operator wants no binding

    def told(manager: Any, rank: int, local_rank: int) -> Any:
        cores[:] = manager.cpu_lists[local_rank] if manager.cpu_lists else []
        return tell(manager, rank, local_rank)

    def settled(*arguments: Any, vllm_config: Any, **options: Any) -> None:
        _watch(os.getppid())
        if cores:
            _keep_to(cores)
        if vllm_config.model_config.enforce_eager:
            _compile_nothing()
        work(*arguments, vllm_config=vllm_config, **options)

    multiproc_executor.get_mp_context = partial(multiprocessing.get_context, "fork")
    OMPProcessManager.configure_omp_envs = told
    WorkerProc.worker_main = staticmethod(settled)


def _keep_to(cores: Collection[int]) -> None:
    """With all threads that are still to come, one for each core."""
    import torch

    os.sched_setaffinity(0, cores)
    torch.set_num_threads(len(cores))


def _compile_nothing() -> None:
    """Also not the two helpers of its sampler that vLLM compiles nevertheless: seconds at each start, with a C++
    compiler, to count the tokens that are likelier than the one that was chosen."""
    import torch

    torch.compiler.set_stance("force_eager")


def _watch(parent_pid: int | None) -> None:
    threading.Thread(target=_end_with, args=(parent_pid,), name="parent-watch", daemon=True).start()


def _end_with(parent_pid: int | None) -> None:
    while os.getppid() == parent_pid:
        time.sleep(_WATCH_S)
    # A worker's parent is the engine's core, which ends in its own time at a shutdown: be gone without a trace of an
    # error. SIGKILL, for vLLM's own handlers wait on a node that is not there any more.
    os.kill(os.getpid(), signal.SIGKILL)
