"""The lab's assessor, on its thread; where a test has to know when it computes, it is held up before it does."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import pytest

from tests.router.assessing.conftest import configured
from tierserve.router.assessing.assessor import Assessor
from tierserve.router.assessing.opinion import Assessments, SecondOpinion

EASY, HARD = "What is the intent of this message? I was charged twice.", "Shift XCI by 2 in the alphabet."
LONG_MS = 60_000.0  # no test waits so long
LATE_S = 5.0  # of grace, for a machine that has other things to do

Asking = tuple[SecondOpinion, "Held", dict[str, int]]


class Held:
    """The real assessor behind a gate. Rates "bad" as the texts of broken weights are: not at all."""

    def __init__(self, assessor: Assessor) -> None:
        self.batches: list[list[str]] = []
        self.go = threading.Event()
        self.go.set()
        self._assessor = assessor

    def rate(self, texts: Sequence[str]) -> list[float]:
        self.batches.append(list(texts))
        self.go.wait(10)
        if "bad" in texts:
            raise RuntimeError("out of memory")
        return [float("nan") if text == "nan" else rating for text, rating in self._rated(texts)]

    def _rated(self, texts: Sequence[str]) -> list[tuple[str, float]]:
        return list(zip(texts, self._assessor.rate(texts), strict=True))


@pytest.fixture
async def asking(assessor: Assessor) -> AsyncIterator[Callable[..., Awaitable[Asking]]]:
    """A second opinion, what it asks, and its counts; closed at the end."""
    opened: list[Asking] = []

    async def asking(**options: Any) -> Asking:
        held, assessments = Held(assessor), Assessments()
        config = configured(**{"deadline_ms": LONG_MS} | options)
        opened.append((SecondOpinion(config, held, assessments), held, assessments.counts))
        return opened[-1]

    yield asking
    for second, held, _ in opened:
        held.go.set()
        await second.close()


async def test_it_is_wanted_within_the_band(asking: Any) -> None:
    second, _, _ = await asking(band=[3.0, 5.5])
    assert [second.is_wanted(score) for score in (0, 2.99, 3.0, 4.2, 5.5, 5.51, 10)] == [
        *(False, False),
        *(True, True, True),
        *(False, False),
    ]


@pytest.mark.parametrize("weight", [0.25, 1.0])
async def test_the_rating_counts_by_its_weight(weight: float, asking: Any, assessor: Assessor) -> None:
    second, _, counts = await asking(weight=weight)
    took: list[float] = []
    second._assessments.observe = took.append
    easy, hard = assessor.rate([EASY])[0], assessor.rate([HARD])[0]
    assert await second.on(EASY, 4.0) == pytest.approx((1 - weight) * 4.0 + weight * easy, abs=1e-3)
    assert await second.on(HARD, 4.0) == pytest.approx((1 - weight) * 4.0 + weight * hard, abs=1e-3)
    assert easy < 4 < hard
    assert counts == {"asked": 2, "used": 2, "late": 0, "refused": 0, "failed": 0}
    assert len(took) == 2 and min(took) > 0


async def test_those_who_wait_are_assessed_together(asking: Any) -> None:
    second, held, _ = await asking(queue=8)
    held.go.clear()
    first = asyncio.create_task(second.on("first", 4.0))
    await asyncio.sleep(0.05)
    others = [asyncio.create_task(second.on(f"text {number}", 4.0)) for number in range(6)]
    await asyncio.sleep(0)
    held.go.set()
    assert None not in await asyncio.gather(first, *others)
    assert [len(batch) for batch in held.batches] == [1, 4, 2]


async def test_what_is_late_is_not_waited_for_and_not_begun(asking: Any) -> None:
    second, held, counts = await asking(deadline_ms=50, queue=8)
    held.go.clear()
    started = time.perf_counter()
    assert await asyncio.gather(*(second.on(f"text {number}", 4.0) for number in range(5))) == [None] * 5
    assert 0.04 < time.perf_counter() - started < LATE_S
    assert counts == {"asked": 5, "used": 0, "late": 5, "refused": 0, "failed": 0}
    held.go.set()
    second._deadline_s = LONG_MS
    assert await second.on("next", 4.0) is not None
    assert [len(batch) for batch in held.batches] == [4, 1], "the fifth was too late to be worth it"


async def test_more_than_may_wait_are_refused_at_once(asking: Any) -> None:
    second, held, counts = await asking(queue=2)
    held.go.clear()
    computing = asyncio.create_task(second.on("computing", 4.0))
    await asyncio.sleep(0.05)
    waiting = [asyncio.create_task(second.on(f"waiting {number}", 4.0)) for number in range(2)]
    await asyncio.sleep(0)
    assert await second.on("too many", 4.0) is None
    assert counts["refused"] == 1
    waiting[0].cancel()  # whoever goes away makes room
    await asyncio.sleep(0)
    late = asyncio.create_task(second.on("in time", 4.0))
    await asyncio.sleep(0)
    held.go.set()
    assert None not in await asyncio.gather(computing, waiting[1], late)
    assert counts == {"asked": 5, "used": 3, "late": 0, "refused": 1, "failed": 0}


@pytest.mark.parametrize("text", ["bad", "nan"])
async def test_one_that_fails_is_said_once_and_asked_again(
    text: str, asking: Any, caplog: pytest.LogCaptureFixture
) -> None:
    second, _, counts = await asking()
    assert await second.on(text, 4.0) is None
    assert "assessing failed" in caplog.text and text not in caplog.messages[-1]
    assert await second.on("good", 4.0) is not None
    assert counts == {"asked": 2, "used": 1, "late": 0, "refused": 0, "failed": 1}


async def test_closing_while_it_assesses_leaves_nobody_waiting(asking: Any) -> None:
    second, held, _ = await asking(queue=8)
    held.go.clear()
    waiting = [asyncio.create_task(second.on(f"text {number}", 4.0)) for number in range(6)]
    await asyncio.sleep(0.05)
    async with asyncio.timeout(LATE_S):
        await second.close()
        results = await asyncio.gather(*waiting, return_exceptions=True)
    assert {type(result) for result in results} == {asyncio.CancelledError}
    held.go.set()


async def test_under_load_nobody_is_later_than_the_deadline(asking: Any) -> None:
    """Bursts of far more than it can do in time, of texts that are long to it, for more than a second."""
    second, _, counts = await asking(deadline_ms=40, queue=100, max_tokens=1024)
    waited: list[float] = []

    async def one(number: int) -> None:
        started = time.perf_counter()
        await second.on(f"{number} what is it " * 200, 4.0)
        waited.append(time.perf_counter() - started)

    async with asyncio.TaskGroup() as group:
        for burst in range(12):
            for number in range(120):
                group.create_task(one(120 * burst + number))
            await asyncio.sleep(0.1)
    assert counts["asked"] == len(waited) == 12 * 120
    assert counts["asked"] == counts["used"] + counts["late"] + counts["refused"]
    assert min(counts["used"], counts["late"], counts["refused"]) > 0, "all of it happened"
    waited.sort()
    assert waited[-1] < LATE_S
    assert waited[len(waited) // 2] < 0.5, "the middle one knows little grace"
