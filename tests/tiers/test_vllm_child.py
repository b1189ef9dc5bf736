"""How an engine's processes wait for each other (vLLM's own queue in shared memory, with its wait replaced), and how
its workers come to be."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import nullcontext
from types import SimpleNamespace
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
@pytest.mark.parametrize(("cpu_lists", "bound"), [([[0], [1]], ([0], 1)), ([], None)], ids=["bound", "not bound"])
@pytest.mark.parametrize("eager", [True, False], ids=["eager", "compiled"])
def test_a_worker_is_forked_and_keeps_to_what_vllm_was_told(
    cpu_lists: list[list[int]], bound: tuple[list[int], int] | None, eager: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from vllm.utils.ompmultiprocessing import OMPProcessManager
    from vllm.v1.executor import multiproc_executor
    from vllm.v1.executor.multiproc_executor import WorkerProc

    compiled: list[str] = []

    def note(graph: Any, inputs: Any) -> Any:
        compiled.append("one")
        return graph.forward

    def work(found: Any, *, vllm_config: Any) -> None:
        threads = [thread.name for thread in threading.enumerate()]
        torch.compile(lambda x: x + 1, backend=note)(torch.zeros(3))
        bound = sorted(os.sched_getaffinity(0)), torch.get_num_threads()
        found.put((vllm_config, bound, bool(compiled), "parent-watch" in threads))

    monkeypatch.setattr(multiproc_executor, "get_mp_context", multiproc_executor.get_mp_context)
    monkeypatch.setattr(OMPProcessManager, "configure_omp_envs", lambda *ranks: nullcontext())
    monkeypatch.setattr(WorkerProc, "worker_main", staticmethod(work))
    before = sorted(os.sched_getaffinity(0)), torch.get_num_threads()
    vllm_child._fork_workers()
    context = multiproc_executor.get_mp_context()
    assert context.get_start_method() == "fork"
    found = context.Queue()
    config = SimpleNamespace(model_config=SimpleNamespace(enforce_eager=eager))
    worker = context.Process(target=WorkerProc.worker_main, args=(found,), kwargs={"vllm_config": config}, daemon=True)
    with OMPProcessManager.configure_omp_envs(SimpleNamespace(cpu_lists=cpu_lists), rank=3, local_rank=0):
        worker.start()
    assert found.get(timeout=60) == (config, bound or before, not eager, True)
    worker.join(30)
    assert worker.exitcode == 0


@pytest.mark.engine
def test_elsewhere_than_on_a_cpu_vllm_does_as_it_does(condition: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.platforms import current_platform
    from vllm.v1.executor import multiproc_executor

    before = condition.wait, multiproc_executor.get_mp_context
    watched: list[int] = []
    monkeypatch.setenv(vllm_child.NODE_VARIABLE, "1")
    monkeypatch.setattr("multiprocessing.parent_process", lambda: SimpleNamespace(pid=7))
    monkeypatch.setattr("os.setpgid", lambda *ids: None)
    monkeypatch.setattr(vllm_child, "_watch", watched.append)
    monkeypatch.setattr(type(current_platform), "is_cpu", lambda platform: False)
    vllm_child.settle()
    assert watched == [7]
    assert (condition.wait, multiproc_executor.get_mp_context) == before
