"""An engine's processes: its core, and beneath it the workers. They are remembered from when the engine came up, for a
worker whose core was killed is nobody's child any more, and one that was stopped can't end itself.

None is waited for with waitpid: their exit status is for multiprocessing to read, which started them.
"""

import time
from collections.abc import Iterable
from contextlib import suppress

import psutil

from tierserve import threads

_POLL_S = 0.02


def family(roots: Iterable[int]) -> list[psutil.Process]:
    """The processes with these ids and all beneath them, those that still run."""
    found: list[psutil.Process] = []
    for root in roots:
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(root)
            found += [process, *process.children(recursive=True)]
    return found


def children() -> set[psutil.Process]:
    """Everything beneath this process, but for multiprocessing's helper, which removes shared memory that engines
    left."""
    beneath = psutil.Process().children(recursive=True)
    return {process for process in beneath if not _is_resource_tracker(process)}


def runs(process: psutil.Process) -> bool:
    """Whether it is there and not merely waiting for its parent to read its exit status."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def step_back(processes: Iterable[psutil.Process], steps: int = 1) -> None:
    """Let this process go before them where they share cores: its event loop moves the streams of all, and a step of
    theirs takes its time anyway. Of ten times as many requests as two cores could answer the last in a hundred was
    refused after 135 ms, with this after 35.
    """
    for process in processes:
        with suppress(psutil.Error):  # it has just ended
            threads.step_back([thread.id for thread in process.threads()], steps)


def end(processes: Iterable[psutil.Process], patience_s: float = 10.0) -> list[psutil.Process]:
    """SIGKILL, which a stopped process obeys as well, to each and to all that they have started since. Blocks until
    they are gone; returns those that were still there after `patience_s`, as one is that the kernel holds in a device's
    driver.
    """
    doomed = {process for known in processes for process in [known, *_beneath(known)]}
    for process in doomed:
        with suppress(psutil.NoSuchProcess):
            process.kill()  # psutil knows a process by its start as well: never another one that got its id
    deadline = time.monotonic() + patience_s
    while (left := [process for process in doomed if runs(process)]) and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    return left


def _beneath(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _is_resource_tracker(process: psutil.Process) -> bool:
    try:
        return any("resource_tracker" in part for part in process.cmdline())
    except psutil.Error:
        return True
