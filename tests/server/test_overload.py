"""What callers see of a full queue and of deadlines."""

import asyncio

import pytest

from tests.server.running import Surface, chat, request, surface, until
from tests.test_pipeline import SIMPLE
from tierserve.core import Role, Status

FULL = {"queue_share": 1}  # one slot, and one that waits for it


async def fill(api: Surface) -> "list[asyncio.Task[object]]":
    """A request that is worked on and does not end, and one that waits."""
    api.small.slots, api.small.script = 1, [asyncio.Event(), "never"]
    asked = [asyncio.create_task(api.exchange(request(chat(SIMPLE)))) for _ in range(2)]
    await until(lambda: api.admission.waiting(Role.SMALL) == {0: 1})
    return list(asked)


async def test_over_the_bound_a_caller_is_refused_without_being_read() -> None:
    async with surface(FULL) as api:
        asked = await fill(api)
        head, _, _ = request(chat(SIMPLE)).partition(b"\r\n\r\n")
        answer = await api.exchange(head + b"\r\n\r\n")  # of the body nothing is sent
        assert answer.status == 503
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.error["type"] == "service_unavailable"
        assert api.admission.refused["door"] == 1
        for task in asked:
            task.cancel()
        await until(lambda: api.outcomes and not api.admission.waiting(Role.SMALL) and not api.small.running)
        api.small.script = ["Hello"]
        assert (await api.exchange(request(chat(SIMPLE)))).status == 200


async def test_who_names_the_other_tier_in_a_header_is_not_refused_for_this_one() -> None:
    async with surface(FULL) as api:
        asked = await fill(api)
        path, header = "/v1/chat/completions", "x-tierserve-tier: large"
        answer = await api.exchange(request(chat(SIMPLE), path, header))
        assert (answer.status, answer.headers["x-tierserve-tier"]) == (200, "l")
        # Who names it in the body is, with everybody whose body was not read.
        assert (await api.exchange(request(chat(SIMPLE, model="l")))).status == 503
        for task in asked:
            task.cancel()


async def test_a_caller_that_hangs_up_leaves_the_queue() -> None:
    async with surface(FULL) as api:
        working, waiting = await fill(api)
        waiting.cancel()
        await until(lambda: not api.admission.waiting(Role.SMALL))
        assert [outcome.status for outcome in api.outcomes] == [Status.CANCELLED]
        working.cancel()


async def test_a_connection_that_was_refused_goes_on() -> None:
    async with surface(FULL) as api:
        asked = await fill(api)
        caller = await api.connect()
        for _ in range(3):
            await caller.send(request(chat(SIMPLE)))
            assert (await caller.answer()).status == 503
        await caller.close()
        for task in asked:
            task.cancel()


async def test_when_the_time_is_over_it_is_a_408() -> None:
    async with surface() as api:
        api.small.script = [asyncio.Event(), "never"]
        for stream in (False, True):
            sent = request(chat(SIMPLE, stream=stream), "/v1/chat/completions", "x-request-timeout-s: 0.05")
            answer = await api.exchange(sent)
            assert (answer.status, answer.error["type"]) == (408, "timeout")
        await until(lambda: not api.small.running)
        assert [outcome.status for outcome in api.outcomes] == [Status.DEADLINE] * 2


async def test_a_stream_whose_time_is_over_ends_with_an_error_event() -> None:
    async with surface({"deadline_s": 0.2}) as api:
        api.small.script = ["a", asyncio.Event(), "never"]
        answer = await api.exchange(request(chat(SIMPLE, stream=True)))
        assert answer.status == 200
        *_, last, done = [event for event in answer.body.split(b"\n\n") if event]
        assert done == b"data: [DONE]" and b'"timeout"' in last
        assert [outcome.status for outcome in api.outcomes] == [Status.DEADLINE]


async def test_the_configured_limit_is_the_longest() -> None:
    async with surface({"deadline_s": 0.05}) as api:
        api.small.script = [asyncio.Event(), "never"]
        sent = request(chat(SIMPLE), "/v1/chat/completions", "x-request-timeout-s: 1000")
        assert (await api.exchange(sent)).status == 408


@pytest.mark.parametrize("value", ["", "0", "-1", "nan", "inf", "soon", "1e999", "\xb2", "5s"])
async def test_a_limit_that_is_none_is_a_400(value: str) -> None:
    async with surface() as api:
        answer = await api.exchange(request(chat(SIMPLE), "/v1/chat/completions", f"x-request-timeout-s: {value}"))
        assert (answer.status, answer.error["param"]) == (400, "x-request-timeout-s")


async def test_the_whole_queue_has_a_bound_of_its_own() -> None:
    async with surface({"queue": 2, "queue_share": 100}) as api:
        asked = await fill(api)
        asked.append(asyncio.create_task(api.exchange(request(chat(SIMPLE)))))
        await until(lambda: api.admission.waiting(Role.SMALL) == {0: 2})
        assert (await api.exchange(request(chat(SIMPLE)))).status == 503
        for task in asked:
            task.cancel()
