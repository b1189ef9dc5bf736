"""Who is let in and in which order: single places over tiers whose slots are counted, and whole requests."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.server.running import until
from tests.test_pipeline import HARD, SIMPLE, Bench
from tierserve.config import AdmissionConfig, EscalationConfig
from tierserve.core import Call, Caller, Cause, Doubt, Kind, Prompt, Role, Status
from tierserve.errors import DeadlineExceeded, Overloaded, RequestError, TierUnavailable
from tierserve.escalation.escalator import build_escalator
from tierserve.pipeline import Answer, Pipeline
from tierserve.tiers.admission import Admission, Place, Stage
from tierserve.tiers.base import TierState
from tierserve.tiers.pair import TierPair
from tierserve.tiers.scripted import ScriptedTier

SMALL, LARGE = Role.SMALL, Role.LARGE


def call(priority: int = 0, **options: Any) -> Call:
    return Call("id", Kind.CHAT, {}, (Prompt(SIMPLE),), caller=Caller(priority=priority), **options)


class Gate:
    """Two tiers with so many slots, and what is let in to them; nothing runs in them."""

    def __init__(self, slots: int = 1, **options: Any) -> None:
        self.small, self.large = ScriptedTier("s", slots=slots), ScriptedTier("l", slots=slots)
        self.small.state = self.large.state = TierState.READY
        self.now = 0.0
        pair = TierPair(self.small, self.large)
        self.admission = Admission(pair, AdmissionConfig(**options), lambda: self.now)

    def arrive(self, priority: int = 0, **options: Any) -> Place:
        place = self.admission.place(call(priority, **options))
        place.arrive()
        return place

    async def ask(self, role: Role = SMALL, priority: int = 0, **options: Any) -> "tuple[Place, asyncio.Task[None]]":
        """One that is in the queue, or holds a slot, when this returns."""
        place = self.arrive(priority, **options)
        asking = asyncio.create_task(going(place, role))
        await asyncio.sleep(0)
        return place, asking


async def going(place: Place, role: Role) -> None:
    """To the tier; when broken off it leaves, as a request does."""
    try:
        await place.room(role)
    except asyncio.CancelledError:
        place.leave()
        raise


@pytest.fixture(autouse=True)
async def no_task_is_left() -> AsyncIterator[None]:
    """Who still waits when a test ends goes away: other tests count the loop's tasks."""
    before = asyncio.all_tasks()
    yield
    left = asyncio.all_tasks() - before - {asyncio.current_task()}
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_room_is_given_at_once_and_then_waited_for() -> None:
    gate = Gate(queue_share=4)
    first, _ = await gate.ask()
    second, _ = await gate.ask()
    assert (first.stage, second.stage) == (Stage.HOLDING, Stage.WAITING)
    assert gate.admission.waiting(SMALL) == {0: 1}
    load = gate.admission.load()
    assert load.small is not None and (load.small.waiting, load.small.has_room) == (1, False)
    other, _ = await gate.ask(LARGE)
    assert other.stage is Stage.HOLDING, "each tier has slots of its own"
    gate.now = 3
    first.leave()
    assert second.stage is Stage.HOLDING and second.queue_s == 3


async def test_the_lower_priority_goes_first_and_of_two_alike_the_one_that_arrived_first() -> None:
    gate, order = Gate(queue_share=9), list[str]()
    holder, _ = await gate.ask()
    places = {}

    async def wait(name: str, place: Place) -> None:
        await place.room(SMALL)
        order.append(name)
        place.leave()

    # Routing takes one longer than another: what counts is the arrival.
    for name, priority in (("b1", 1), ("a1", 0), ("b2", 1), ("a2", 0), ("c", -1)):
        places[name] = gate.arrive(priority)
    waiting = [asyncio.create_task(wait(name, place)) for name, place in reversed(places.items())]
    await settled()
    holder.leave()
    await asyncio.gather(*waiting)
    assert order == ["c", "a1", "a2", "b1", "b2"]


async def test_a_full_queue_refuses_at_the_door_and_says_when_to_come_again() -> None:
    gate = Gate(slots=4, queue_share=0.5)
    gate.now = 100
    places = [(await gate.ask())[0] for _ in range(6)]
    assert [place.stage for place in places] == [Stage.HOLDING] * 4 + [Stage.WAITING] * 2
    with pytest.raises(Overloaded) as refused:
        gate.arrive()
    assert refused.value.retry_after_s == 1, "nothing is known yet of how long it takes"
    gate.now = 140
    places[0].leave()
    await gate.ask()
    with pytest.raises(Overloaded) as refused:
        gate.admission.check()
    assert refused.value.retry_after_s == 30, "three would be before it or itself, and 4 slots are held 40 s each"
    assert gate.admission.refused == {"door": 2, "queue": 0, "displaced": 0}


async def test_bounds_can_change_and_those_who_wait_stay() -> None:
    gate = Gate(slots=1, queue_share=1)
    holding, waiting = (await gate.ask())[0], (await gate.ask())[0]
    gate.admission.renew(AdmissionConfig(queue_share=2))
    third = (await gate.ask())[0]
    gate.admission.renew(AdmissionConfig(queue_share=1))
    with pytest.raises(Overloaded):
        gate.arrive()
    assert [place.stage for place in (holding, waiting, third)] == [Stage.HOLDING, Stage.WAITING, Stage.WAITING]
    gate.admission.renew(None)
    assert [place.stage for place in (waiting, third)] == [Stage.HOLDING] * 2
    gate.arrive()
    for place in (holding, waiting, third):
        place.leave()
    gate.admission.renew(AdmissionConfig(queue_share=1))
    assert (await gate.ask())[0].stage is Stage.HOLDING, "what was held without bounds was counted"


async def test_those_that_are_being_routed_count() -> None:
    gate = Gate(slots=2, queue_share=0.5)
    for _ in range(3):
        gate.arrive()
    with pytest.raises(Overloaded):
        gate.arrive()


async def test_a_burst_into_an_idle_tier_is_not_refused_for_what_slots_can_take() -> None:
    gate = Gate(slots=32, queue_share=0.25)
    for _ in range(32 + 8):
        gate.arrive()
    with pytest.raises(Overloaded):
        gate.arrive()


async def test_the_queue_is_bounded_in_time_too() -> None:
    gate = Gate(slots=1, queue_share=50, queue_s=25)
    holder, _ = await gate.ask()
    gate.now = 10
    holder.leave()
    await gate.ask()
    for _ in range(2):
        await gate.ask()
    with pytest.raises(Overloaded):
        gate.arrive()


async def test_a_tier_s_own_state_bounds_what_is_let_in() -> None:
    """Its slots may be taken by what is unknown here, or its KV cache be full."""
    gate = Gate(slots=4, queue_share=4)
    first, _ = await gate.ask()
    gate.small.running = 4
    second, asking = await gate.ask()
    assert second.stage is Stage.WAITING
    gate.small.running = 2
    await asyncio.wait_for(asking, 10)  # nobody tells of it: it is looked for
    assert second.stage is Stage.HOLDING


async def test_where_nobody_holds_a_slot_somebody_is_let_in_whatever_the_tier_says() -> None:
    gate = Gate(slots=1)
    gate.small.running = 7
    place, _ = await gate.ask()
    assert place.stage is Stage.HOLDING


async def test_a_tier_that_takes_whatever_comes_has_no_queue() -> None:
    gate = Gate()
    gate.small.slots = None
    places = [(await gate.ask())[0] for _ in range(50)]
    assert {place.stage for place in places} == {Stage.HOLDING}


async def test_of_a_tier_that_is_away_there_is_nothing_to_wait_for() -> None:
    gate = Gate(queue_share=2)
    await gate.ask()
    waiting, asking = await gate.ask()
    gate.small.state = TierState.FAILED
    await asyncio.wait_for(asking, 10)
    assert waiting.stage is Stage.UNDECIDED and waiting.accepted
    late, asking = await gate.ask()
    assert asking.done() and not late.accepted, "so where it goes then it may be refused"
    crowd = [asyncio.create_task(going(gate.admission.place(call()), LARGE)) for _ in range(3)]
    await settled()
    with pytest.raises(Overloaded):
        await late.room(LARGE)
    going_on = asyncio.create_task(going(waiting, LARGE))
    await settled()
    assert waiting.stage is Stage.WAITING, "it was in the queue before"
    for task in (going_on, *crowd):
        task.cancel()


async def test_at_the_door_a_tier_that_is_away_stands_for_nothing() -> None:
    gate = Gate(slots=1, queue_share=1)
    gate.small.state = TierState.FAILED
    await gate.ask(LARGE)
    await gate.ask(LARGE)
    with pytest.raises(Overloaded):
        gate.admission.check()
    gate.admission.check(role=SMALL)  # which answers at once that it can't
    gate.large.state = TierState.FAILED
    gate.admission.check()


async def test_the_door_asks_the_tier_that_most_go_to() -> None:
    gate = Gate(slots=1, queue_share=1)
    for _ in range(2):
        await gate.ask(LARGE, forced=(LARGE, Cause.MODEL))
    gate.admission.check()
    with pytest.raises(Overloaded):
        gate.arrive(forced=(LARGE, Cause.MODEL))
    for _ in range(20):
        place = gate.arrive()
        with pytest.raises(Overloaded):
            await place.room(LARGE)
        place.leave()
        if gate.admission.refused["queue"] > 6:
            break
    with pytest.raises(Overloaded):
        gate.admission.check()
    gate.admission.check(role=SMALL)


async def test_a_higher_priority_displaces_the_last_of_the_lowest() -> None:
    gate = Gate(slots=2, queue_share=1)
    await gate.ask(priority=9)
    await gate.ask(priority=9)
    low, low_asking = await gate.ask(priority=5)
    lower, lower_asking = await gate.ask(priority=6)
    with pytest.raises(Overloaded):
        gate.arrive(6)
    high, _ = await gate.ask(priority=1)
    with pytest.raises(Overloaded):
        await lower_asking
    assert (low.stage, high.stage) == (Stage.WAITING, Stage.WAITING)
    higher, _ = await gate.ask(priority=0)
    with pytest.raises(Overloaded):
        await low_asking
    with pytest.raises(Overloaded):
        gate.arrive(1)
    assert gate.admission.refused["displaced"] == 2
    for place in (low, lower):
        place.leave()  # as whoever waited for it does
    assert gate.admission.waiting(SMALL) == {0: 1, 1: 1}


async def test_who_was_worked_on_is_neither_refused_nor_displaced() -> None:
    gate = Gate(slots=1, queue_share=1)
    escalated, _ = await gate.ask(SMALL, priority=5)
    await gate.ask(LARGE)
    await gate.ask(LARGE)
    moving = asyncio.create_task(going(escalated, LARGE))
    await settled()
    assert escalated.stage is Stage.WAITING, "over the bound"
    assert (await gate.ask(SMALL))[0].stage is Stage.HOLDING, "with its slot given back"
    with pytest.raises(Overloaded):
        gate.arrive(4, forced=(LARGE, Cause.MODEL))
    assert not moving.done()
    moving.cancel()


async def test_two_that_want_each_other_s_slot_both_get_it() -> None:
    gate = Gate(slots=1, queue_share=1)
    one, _ = await gate.ask(SMALL)
    other, _ = await gate.ask(LARGE)
    await asyncio.gather(one.room(LARGE), other.room(SMALL))
    assert (one.role, other.role) == (LARGE, SMALL)


async def test_a_deadline_that_the_queue_will_exceed_is_refused_early() -> None:
    gate = Gate(slots=1, queue_share=9)
    holder, _ = await gate.ask()
    gate.now = 10
    holder.leave()
    await gate.ask()
    gate.arrive(deadline=21).leave()
    with pytest.raises(Overloaded):
        gate.arrive(deadline=19)
    gate.arrive(deadline=9).leave()  # over already: that is not for here to say
    place = gate.arrive(deadline=21)
    await gate.ask()
    with pytest.raises(Overloaded):
        await place.room(SMALL)


async def test_leaving_is_harmless_at_every_stage_and_frees_what_was_held_once() -> None:
    gate = Gate(slots=1, queue_share=9)
    outside = gate.admission.place(call())
    undecided = gate.arrive()
    holding, _ = await gate.ask()
    waiting, asking = await gate.ask()
    third, _ = await gate.ask()
    asking.cancel()
    for place in (outside, undecided, waiting, holding):
        place.leave()
        place.leave()
        assert place.stage is Stage.LEFT
    assert third.stage is Stage.HOLDING
    third.leave()
    assert (await gate.ask())[0].stage is Stage.HOLDING
    assert (await gate.ask())[0].stage is Stage.WAITING


async def test_a_slot_given_to_one_that_is_just_leaving_is_not_lost() -> None:
    gate = Gate(slots=1, queue_share=9)
    holding, _ = await gate.ask()
    leaving, asking = await gate.ask()
    next_one, _ = await gate.ask()
    asking.cancel()
    holding.leave()  # before the cancellation has reached the one whose turn it is
    await settled()
    leaving.leave()
    assert next_one.stage is Stage.HOLDING


async def test_without_a_configuration_everybody_is_let_in() -> None:
    admission = Admission(TierPair(small := ScriptedTier("s", slots=1), ScriptedTier("l", slots=1)))
    small.state = TierState.READY
    for _ in range(9):
        place = admission.place(call())
        place.arrive()
        await place.room(SMALL)
        assert place.stage is Stage.HOLDING
    assert admission.longest_s is None


class Machine(RuleBasedStateMachine):
    """Any order of arriving, asking, going away, and of slots that the engine takes and gives back."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.gate = self.run(self._gate())
        self.places: list[tuple[Place, asyncio.Task[None] | None]] = []

    async def _gate(self) -> Gate:
        return Gate(slots=2, queue_share=1)

    def run(self, work: Any) -> Any:
        async def settle() -> Any:
            result = await work
            await settled()
            return result

        return self.runner.run(settle())

    @rule(priority=st.integers(0, 2))
    def arrive(self, priority: int) -> None:
        async def arrive() -> Place:
            place = self.gate.admission.place(call(priority))
            try:
                place.arrive()
            except Overloaded:
                place.leave()
            return place

        self.places.append((self.run(arrive()), None))

    @precondition(lambda self: self.places)
    @rule(data=st.data(), role=st.sampled_from(Role))
    def ask(self, data: st.DataObject, role: Role) -> None:
        number = data.draw(st.integers(0, len(self.places) - 1))
        place, asking = self.places[number]
        if place.stage not in (Stage.UNDECIDED, Stage.HOLDING):
            return

        async def ask() -> None:
            try:
                await place.room(role)
            except (Overloaded, asyncio.CancelledError):
                place.leave()

        async def start() -> asyncio.Task[None]:
            return asyncio.create_task(ask())

        self.places[number] = place, self.run(start())

    @precondition(lambda self: self.places)
    @rule(data=st.data())
    def go_away(self, data: st.DataObject) -> None:
        place, asking = self.places.pop(data.draw(st.integers(0, len(self.places) - 1)))

        async def go() -> None:
            if asking is not None and not asking.done():
                asking.cancel()
            else:
                place.leave()

        self.run(go())

    @rule(state=st.sampled_from([TierState.READY, TierState.FAILED]), role=st.sampled_from(Role))
    def change(self, state: TierState, role: Role) -> None:
        async def look() -> None:
            tier = self.gate.small if role is SMALL else self.gate.large
            tier.state = state
            self.gate.admission._look_again(self.gate.admission._lines[role])

        self.run(look())

    @invariant()
    def everybody_is_counted_once(self) -> None:
        for role in Role:
            mine = [place for place, _ in self.places if place.role is role]
            line = self.gate.admission._lines[role]
            assert sorted(line.waiting, key=id) == sorted((p for p in mine if p.stage is Stage.WAITING), key=id)
            assert line.waiting == sorted(line.waiting, key=lambda place: place.order)
            assert line.holding == sum(place.stage is Stage.HOLDING for place in mine)
            assert line.holding <= 2
            assert not line.waiting or line.holding == 2, "a slot is free, and somebody waits"
            assert sum(not place.worked_on for place in line.waiting) <= 4
        undecided = sum(place.stage is Stage.UNDECIDED for place, _ in self.places)
        assert self.gate.admission._undecided == undecided

    def teardown(self) -> None:
        while self.places:
            place, asking = self.places.pop()
            self.run(self._end(place, asking))
        assert self.gate.admission._undecided == 0
        assert all(not line.holding and not line.waiting for line in self.gate.admission._lines.values())
        self.runner.close()

    async def _end(self, place: Place, asking: "asyncio.Task[None] | None") -> None:
        if asking is not None:
            asking.cancel()
        await settled()
        place.leave()


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


# --- whole requests


class Line(Bench):
    """A pipeline with one slot in each tier, whose requests a test lets end."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.small.slots = self.large.slots = 1
        self.admission = Admission(self.tiers, AdmissionConfig(**({"queue_share": 2} | options)))
        self.use(None)

    def use(self, escalation: EscalationConfig | None) -> None:
        escalator = build_escalator(escalation, self.tiers, lambda: self.router.threshold)
        self.pipeline = Pipeline(self.router, self.tiers, self.outcomes.append, escalator, admission=self.admission)

    def ask(self, text: str = SIMPLE, priority: int = 0, **options: Any) -> "asyncio.Task[Answer]":
        asked = Call("id", Kind.CHAT, {}, (Prompt(text),), caller=Caller(priority=priority), **options)
        return asyncio.create_task(self.pipeline.answer(asked))

    @property
    def statuses(self) -> list[Status]:
        return [outcome.status for outcome in self.outcomes]


@pytest.fixture
async def line(request: pytest.FixtureRequest) -> AsyncIterator[Line]:
    """With a parameter: admission's options."""
    line = Line(**getattr(request, "param", {}))
    await line.router.start()
    await line.tiers.start()
    yield line
    await line.router.close()
    assert line.small.running == line.large.running == 0, "a slot was not freed"
    assert line.admission._undecided == 0
    assert all(not each.holding and not each.waiting for each in line.admission._lines.values())


def waiting(line: Line, role: Role = SMALL) -> int:
    return sum(line.admission.waiting(role).values())


async def test_a_request_waits_for_the_tier_decided_on_and_says_how_long(line: Line) -> None:
    gate = asyncio.Event()
    line.small.script = [gate, "Hello"]
    first, second = line.ask(), line.ask()
    await until(lambda: line.small.running == 1 and waiting(line) == 1)
    assert (await line.ask(HARD)).tier == "l"
    gate.set()
    await asyncio.gather(first, second)
    large, first_outcome, second_outcome = line.outcomes
    assert (large.queue_s, first_outcome.queue_s) == (0, 0)
    assert second_outcome.queue_s > 0
    assert line.statuses == [Status.OK] * 3


async def test_a_stream_holds_its_slot_until_it_has_ended(line: Line) -> None:
    line.small.script = ["a", "b"]
    answer = await line.ask(stream=True)
    second = line.ask()
    await until(lambda: waiting(line) == 1)
    assert answer.events is not None
    async with aclosing(answer.events):
        async for _ in answer.events:
            assert not second.done()
    await second


@pytest.mark.parametrize("read", [0, 1])
async def test_a_stream_that_is_closed_frees_its_slot_once(line: Line, read: int) -> None:
    line.small.script = ["a", "b"]
    answer = await line.ask(stream=True)
    second, third = line.ask(stream=True), line.ask(stream=True)
    await until(lambda: waiting(line) == 2)
    assert answer.events is not None
    for _ in range(read):
        await anext(answer.events)
    await answer.events.aclose()
    await answer.events.aclose()
    held = await second
    await settled()
    assert not third.done() and waiting(line) == 1
    assert held.events is not None
    await held.events.aclose()
    last = (await third).events
    assert last is not None
    await last.aclose()


async def test_over_the_bound_a_request_is_refused_and_recorded(line: Line) -> None:
    gate = asyncio.Event()
    line.small.script = [gate, "Hello"]
    answered = [line.ask() for _ in range(3)]
    await until(lambda: waiting(line) == 2)
    with pytest.raises(Overloaded):
        await line.ask()
    with pytest.raises(Overloaded):
        await line.ask(forced=(SMALL, Cause.MODEL))
    assert (line.statuses, len(line.small.calls)) == ([Status.REFUSED] * 2, 1)
    gate.set()
    await asyncio.gather(*answered)


async def test_a_displaced_request_is_refused_and_recorded(line: Line) -> None:
    gate = asyncio.Event()
    line.small.script = [gate, "Hello"]
    first, second, third = (line.ask(priority=5) for _ in range(3))
    await until(lambda: waiting(line) == 2)
    urgent = line.ask(priority=1)
    with pytest.raises(Overloaded):
        await third
    gate.set()
    await asyncio.gather(first, second, urgent)
    assert line.statuses[0] is Status.REFUSED and line.outcomes[0].queue_s > 0
    assert [each.caller.priority for each in line.small.calls] == [5, 1, 5]


async def test_a_caller_that_goes_away_leaves_the_queue(line: Line) -> None:
    gate = asyncio.Event()
    line.small.script = [gate, "Hello"]
    first, second, third = (line.ask() for _ in range(3))
    await until(lambda: waiting(line) == 2)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    assert waiting(line) == 1 and line.statuses == [Status.CANCELLED]
    gate.set()
    await asyncio.gather(first, third)
    assert len(line.small.calls) == 2


async def test_what_is_wrong_with_a_request_frees_its_slot(line: Line) -> None:
    line.small.script = [RequestError("wrong")]
    for _ in range(3):
        with pytest.raises(RequestError):
            await line.ask()


async def test_escalating_while_the_large_tier_is_full_waits_with_no_small_slot_held(line: Line) -> None:
    line.use(EscalationConfig())
    gate = asyncio.Event()
    line.small.script, line.large.script = [("unsure", 0.1)], [gate, "Hello"]
    busy = [line.ask(HARD) for _ in range(3)]
    await until(lambda: waiting(line, LARGE) == 2)
    escalated = line.ask()
    await until(lambda: waiting(line, LARGE) == 3)
    with pytest.raises(Overloaded):
        await line.ask(HARD)
    line.small.script = [("sure", 0.99)]
    assert (await line.ask("simple_too")).tier == "s", "its slot is free meanwhile"
    gate.set()
    assert (await escalated).decision.cause is Cause.ESCALATION
    await asyncio.gather(*busy)


async def test_one_that_went_on_to_the_large_tier_arrived_before_those_that_come_now(line: Line) -> None:
    first_gate, large_gate = asyncio.Event(), asyncio.Event()
    line.use(EscalationConfig())
    line.small.script, line.large.script = [first_gate, ("unsure", 0.1)], [large_gate, "Hello"]
    escalated = line.ask()
    await until(lambda: line.small.running == 1)
    holder, later = line.ask(HARD), line.ask(HARD)
    await until(lambda: waiting(line, LARGE) == 1)
    first_gate.set()
    await until(lambda: waiting(line, LARGE) == 2)
    large_gate.set()
    await asyncio.gather(holder, escalated, later)
    assert [each.prompts[0].text for each in line.large.calls] == [HARD, SIMPLE, HARD]


async def test_what_a_dead_tier_s_queue_held_goes_to_the_other(line: Line) -> None:
    gate = asyncio.Event()
    line.small.script = [gate, TierUnavailable("gone")]
    asked = [line.ask() for _ in range(3)]
    await until(lambda: waiting(line) == 2)
    line.small.state = TierState.FAILED
    gate.set()
    answers = await asyncio.gather(*asked)
    assert {answer.tier for answer in answers} == {"l"}
    assert {answer.decision.cause for answer in answers} == {Cause.FAILOVER}


async def test_where_both_tiers_die_nobody_is_left_waiting(line: Line) -> None:
    small_gate, large_gate = asyncio.Event(), asyncio.Event()
    line.small.script = [small_gate, TierUnavailable("gone")]
    line.large.script = [large_gate, TierUnavailable("gone")]
    asked = [line.ask(), line.ask(HARD)]
    await until(lambda: line.small.running == 1 and line.large.running == 1)
    asked += [line.ask(), line.ask(HARD)]
    await until(lambda: waiting(line) == 1 and waiting(line, LARGE) == 1)
    line.small.state = line.large.state = TierState.FAILED
    small_gate.set()
    large_gate.set()
    for end in await asyncio.gather(*asked, return_exceptions=True):
        assert isinstance(end, TierUnavailable)
    assert line.statuses == [Status.UNAVAILABLE] * 4


async def test_who_insists_on_a_tier_that_dies_is_told_so_without_having_had_a_slot(line: Line) -> None:
    line.small.script = [asyncio.Event(), "never"]
    holder = line.ask()
    await until(lambda: line.small.running == 1)
    waits = line.ask(forced=(SMALL, Cause.MODEL))
    await until(lambda: waiting(line) == 1)
    line.small.state = TierState.LOADING  # being rebuilt; that of who holds the slot nobody hears yet
    with pytest.raises(TierUnavailable):
        await waits
    assert not line.large.calls
    holder.cancel()
    await asyncio.gather(holder, return_exceptions=True)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_tier_that_dies_while_its_answer_is_held_is_answered_for(line: Line, stream: bool) -> None:
    line.use(EscalationConfig(hold_tokens=3))
    gate = asyncio.Event()
    line.small.script = [("sure", 0.99), gate, TierUnavailable("gone")]
    asked = line.ask(stream=stream)
    await until(lambda: line.small.running == 1)
    line.small.state = TierState.FAILED
    gate.set()
    answer = await asked
    assert (answer.tier, answer.decision.cause) == ("l", Cause.FAILOVER)
    if answer.events is not None:
        async with aclosing(answer.events):
            told = b"".join([event async for event in answer.events])
        assert b"sure" not in told and told.endswith(b"[DONE]\n\n")
    (outcome,) = line.outcomes
    assert outcome.judgement is not None and outcome.judgement.doubt is Doubt.FAILURE


@pytest.mark.parametrize("stream", [False, True])
async def test_an_escalation_that_waits_for_a_tier_that_dies_ends_with_the_doubted_answer(
    line: Line, stream: bool
) -> None:
    line.use(EscalationConfig())
    line.small.script, line.large.script = [("unsure", 0.1)], [asyncio.Event(), "never"]
    holder = line.ask(HARD)
    await until(lambda: line.large.running == 1)
    escalated = line.ask(stream=stream)
    await until(lambda: waiting(line, LARGE) == 1)
    line.large.state = TierState.FAILED
    answer = await escalated
    assert (answer.tier, answer.decision.cause) == ("s", Cause.FAILOVER)
    if answer.events is not None:
        async with aclosing(answer.events):
            assert b"unsure" in b"".join([event async for event in answer.events])
    holder.cancel()
    await asyncio.gather(holder, return_exceptions=True)


async def test_a_deadline_before_the_first_byte_frees_the_slot(line: Line) -> None:
    line.small.script = [asyncio.Event(), "never"]
    for stream in (False, True):
        with pytest.raises(DeadlineExceeded):
            await line.ask(deadline=time.monotonic() + 0.02, stream=stream)
        await until(lambda: line.small.running == 0)
    assert line.statuses == [Status.DEADLINE] * 2


async def test_a_deadline_in_the_queue_leaves_it(line: Line) -> None:
    gate = asyncio.Event()
    line.small.script = [gate, "Hello"]
    first = line.ask()
    await until(lambda: line.small.running == 1)
    with pytest.raises(DeadlineExceeded):
        await line.ask(deadline=time.monotonic() + 0.02)
    assert waiting(line) == 0 and line.outcomes[0].queue_s > 0
    gate.set()
    await first


async def test_a_deadline_within_a_stream_ends_it_and_frees_the_slot(line: Line) -> None:
    line.small.script = ["a", asyncio.Event(), "never"]
    answer = await line.ask(deadline=time.monotonic() + 1, stream=True)
    assert answer.events is not None
    with pytest.raises(DeadlineExceeded):
        async for _ in answer.events:
            pass
    assert (line.statuses, line.small.running) == ([Status.DEADLINE], 0)


async def test_a_deadline_that_is_not_reached_changes_nothing(line: Line) -> None:
    answer = await line.ask(deadline=time.monotonic() + 600, stream=True)
    assert answer.events is not None
    assert len([event async for event in answer.events]) == 2
    assert line.statuses == [Status.OK]


async def test_reading_in_advance_takes_no_slot(line: Line) -> None:
    line.use(EscalationConfig(prewarm=True, prewarm_band=10))
    line.large.script = ["a", "b"]
    line.large.slots = 2
    held = (await line.ask(HARD, stream=True)).events
    line.small.script = [("sure", 0.99)]
    await line.ask()
    assert len(line.large.prewarmed) == 1
    assert line.admission._lines[LARGE].holding == 1
    assert held is not None
    await held.aclose()
