"""An end that leaves no engine on the GPU, and lets what was measured be reported."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def interruptible() -> Iterator[None]:
    """Within, SIGTERM does what Ctrl-C does: KeyboardInterrupt, after what runs in an asyncio.Runner was cancelled.

    Also where a shell starts it in the background, with Ctrl-C ignored. For the main thread.
    """
    before = {
        signal.SIGTERM: signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), signal.SIGINT)),
        signal.SIGINT: signal.signal(signal.SIGINT, signal.default_int_handler),
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
