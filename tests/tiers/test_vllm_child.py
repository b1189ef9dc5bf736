"""How an engine's processes wait for each other: vLLM's own queue in shared memory, with its wait replaced."""

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tierserve.tiers import vllm_child
from tierserve.tiers.vllm_child import Waiting


def test_a_wait_is_long_after_a_millisecond_and_a_message_begins_another() -> None:
    waiting = Waiting()
    assert not waiting.is_long(last_read=1.0, now=5.0)  # the model computed for 4 s before it waited
    assert not waiting.is_long(last_read=1.0, now=5.0009)
    assert waiting.is_long(last_read=1.0, now=5.0011)
    assert not waiting.is_long(last_read=6.0, now=6.5)
    assert waiting.is_long(last_read=6.0, now=6.6)


@pytest.fixture
def condition(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    from vllm.distributed.device_communicators.shm_broadcast import SpinCondition

    monkeypatch.setattr(SpinCondition, "wait", SpinCondition.wait)  # to have it back afterwards
    yield SpinCondition


@pytest.mark.engine
def test_a_reader_leaves_its_core_to_others_and_hears_of_each_message(condition: Any) -> None:
    from vllm.distributed.device_communicators.shm_broadcast import MessageQueue

    writer = MessageQueue(1, 1, max_chunk_bytes=1 << 16)
    reader = MessageQueue.create_from_handle(writer.export_handle(), 0)

    def share_of_a_core() -> float:
        reader._spin_condition.record_read()
        used, began = time.thread_time(), time.monotonic()
        with pytest.raises(TimeoutError):
            reader.dequeue(timeout=0.5)  # within the second in which vLLM does not sleep
        return (time.thread_time() - used) / (time.monotonic() - began)

    vllm_child._wait_with_pauses()
    assert share_of_a_core() < 0.4
    sending = threading.Thread(target=lambda: [writer.enqueue(number) or time.sleep(0.002) for number in range(20)])
    sending.start()
    assert [reader.dequeue(timeout=10) for _ in range(20)] == list(range(20))
    sending.join()


@pytest.mark.engine
def test_elsewhere_than_on_a_cpu_vllm_waits_as_it_does(condition: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.platforms import current_platform

    before = condition.wait
    monkeypatch.setattr(type(current_platform), "is_cpu", lambda platform: False)
    vllm_child._wait_with_pauses()
    assert condition.wait is before
