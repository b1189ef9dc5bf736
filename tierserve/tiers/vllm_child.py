"""What tierserve does inside the processes of an engine. vLLM calls `settle` in each, as a plugin.

An engine must not outlive the node nor end before it:
- Ctrl-C reaches every process of the terminal's foreground group. The engines leave that group, so that the node can
  finish what is running before it ends them.
- After a kill -9 of the node nobody tells the engines. Each watches its parent and ends itself.
"""

import multiprocessing
import os
import signal
import threading
import time

# Set by the node for its children. Elsewhere in the same environment vLLM stays as it is.
NODE_VARIABLE = "TIERSERVE_NODE_PID"
_WATCH_S = 1.0


def settle() -> None:
    parent = multiprocessing.parent_process()
    if parent is None or NODE_VARIABLE not in os.environ:
        return
    if os.getpgrp() != os.getpid():
        os.setpgid(0, 0)
    threading.Thread(target=_end_with, args=(parent.pid,), name="parent-watch", daemon=True).start()


def _end_with(parent_pid: int | None) -> None:
    while os.getppid() == parent_pid:
        time.sleep(_WATCH_S)
    # A worker's parent is the engine's core, which ends in its own time at a shutdown: be gone without a trace of an
    # error. SIGKILL, for vLLM's own handlers wait on a node that is not there any more.
    os.kill(os.getpid(), signal.SIGKILL)
