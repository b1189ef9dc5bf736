"""SIGTERM, however the process was started."""

import asyncio
import os
import signal

import pytest
from direct.interruption import interruptible


@pytest.mark.parametrize("before", [signal.default_int_handler, signal.SIG_IGN])
def test_sigterm_cancels_what_runs(before: signal.Handlers) -> None:
    ended = []

    async def work() -> None:
        asyncio.get_running_loop().call_soon(os.kill, os.getpid(), signal.SIGTERM)
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("cleanly")

    known = signal.signal(signal.SIGINT, before)
    try:
        with pytest.raises(KeyboardInterrupt), interruptible(), asyncio.Runner() as runner:
            runner.run(work())
        assert ended == ["cleanly"] and signal.getsignal(signal.SIGINT) == before
    finally:
        signal.signal(signal.SIGINT, known)
