"""Who is let in, and in which order: one queue before both tiers, whose bound follows from what they can take.

    place = admission.place(call)
    place.arrive()                  # raises Overloaded: too many wait
    await place.room(Role.SMALL)    # then the place holds one of the small tier's slots
    await place.room(Role.LARGE)    # gives it back before it waits for one of the large tier's: nobody waits in a ring
    place.leave()                   # in whatever stage: out of the queue, or the slot is free

Of two that wait for the same tier the one with the lower priority goes first, then the one that arrived first; so the
lowest priority waits for as long as others keep coming. A request that found a place in the queue, or a slot, is not
refused later when it has to wait for the other tier too; but while it still waits for its first one, a request with a
lower priority may push it out of a full queue.
"""

import asyncio
import time
from bisect import insort
from collections import Counter
from collections.abc import Callable, Mapping
from enum import Enum, auto
from itertools import count
from typing import TYPE_CHECKING

from tierserve.core import Call, Load, Queue, Refusal, Role
from tierserve.errors import Overloaded
from tierserve.tiers.base import Tier, TierState

if TYPE_CHECKING:
    from tierserve.config import AdmissionConfig
    from tierserve.tiers.pair import TierPair

# A slot that is given back wakes who waits. The engine's own state (its KV cache is full, a prompt is read in advance,
# it has died) tells nobody when it changes: that is looked at so often, while somebody waits.
_LOOK_AGAIN_S = 0.05
_WEIGHT = 0.1  # of the latest request in the means over requests
_SOONEST_S, _LATEST_S = 1.0, 60.0  # of what a refused caller is told


class Stage(Enum):
    """A request's way, in order. It may leave at any stage, and go from one tier's slot to the other's queue."""

    OUTSIDE = auto()
    UNDECIDED = auto()  # being routed, or between two tiers
    WAITING = auto()  # for a tier's slot
    HOLDING = auto()  # one
    LEFT = auto()


class Place:
    """One request's. `queue_s` is how long it has waited so far, for both tiers together."""

    def __init__(self, admission: "Admission", call: Call, number: int) -> None:
        self.call = call
        self.queue_s = 0.0
        self.stage = Stage.OUTSIDE
        self.accepted = False  # into the queue: from then on only another's priority counts
        self.worked_on = False  # it has held a slot: from then on nothing puts it off
        self.order = (call.caller.priority, number)
        self.role: Role | None = None  # of the tier that it waits for or holds a slot of
        self.since = 0.0  # it does so
        self.let_in: asyncio.Future[None] | None = None
        self._admission = admission

    def arrive(self) -> None:
        """Raises Overloaded."""
        self._admission.arrive(self)

    async def room(self, role: Role) -> None:
        """Wait for a slot, with none held meanwhile. Of a tier that can't answer now there is nothing to wait for: it
        says so itself. Raises Overloaded.
        """
        self._admission.queue(self, role)
        if self.let_in is not None:
            await self.let_in

    def leave(self) -> None:
        """Harmless when it has left already."""
        self._admission.leave(self)


class Loan:
    """A slot that the node uses for itself for as long as no caller needs it; then `recall` is called, once."""

    def __init__(self, admission: "Admission", role: Role, recall: Callable[[], None]) -> None:
        self.role = role
        self.recall: Callable[[], None] | None = recall
        self._admission = admission

    def give_back(self) -> None:
        """When the slot is free again, recalled or not."""
        self._admission.take_back(self)


class Admission:
    """What is counted is all there is to a request's place: no task, no timer of its own.

    `refused` counts who was turned away, by where.
    """

    def __init__(
        self, tiers: "TierPair", config: "AdmissionConfig | None" = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Without a configuration nobody waits here, and nobody is refused."""
        self.clock = clock
        self.refused = Counter[str](dict.fromkeys(Refusal, 0))
        self._config = config
        self._tiers = tiers
        self._lines = {role: _Line(tiers[role], config) for role in Role}
        self._undecided = 0
        self._small_share = 1.0  # of the requests that are routed, lately
        self._numbers = count()

    @property
    def longest_s(self) -> float | None:
        """That any request may take; None: there is no limit."""
        return self._config.deadline_s if self._config else None

    def renew(self, config: "AdmissionConfig | None") -> None:
        """Other bounds from now on. Who is in the queue stays; without a configuration all of them are let in."""
        self._config = config
        for line in self._lines.values():
            line.config = config
            self._serve(line)

    def place(self, call: Call) -> Place:
        return Place(self, call, next(self._numbers))

    def check(self, priority: int = 0, role: Role | None = None, deadline: float | None = None) -> None:
        """Whether one more request is taken on, asked before anything is spent on it. Without a role, where only its
        body or the router will tell, by the tier that most are routed to: when that one is full, so many are let past
        as it answers, and of each kind the same part. To route all of them, for the few that are for the other tier,
        would cost more the more the node is asked.

        Raises Overloaded.
        """
        if self._config is None:
            return
        line = self._lines[role or (Role.SMALL if self._small_share >= 0.5 else Role.LARGE)]
        if role is None and not line.ready:
            line = next((each for each in self._lines.values() if each.ready), line)
        is_full = self._waiting + self._undecided >= self._config.queue
        if (is_full or line.is_full(self._undecided)) and line.last_after(priority) is None:
            self._refuse(Refusal.DOOR, line, self._undecided)
        self._check_deadline(Refusal.DOOR, line, self._undecided, deadline)

    def load(self) -> Load:
        """What the tiers have to do, with those who wait for them here."""
        return Load(*(line.load for line in self._lines.values()))

    def waiting(self, role: Role) -> Mapping[int, int]:
        """How many wait for a tier, by priority."""
        return Counter(place.order[0] for place in self._lines[role].waiting)

    # --- for the node itself

    def lend(self, role: Role, recall: Callable[[], None]) -> Loan | None:
        """A slot that nobody needs, so that another one stays free; where the tiers share a device, only while nobody
        needs anything. None where there is none. A borrower takes no caller's place: it is not waited for."""
        line = self._lines[role]
        if self._tiers.share_device and self._at_work or not line.can_lend:
            return None
        loan = Loan(self, role, recall)
        line.lent.append(loan)
        return loan

    def take_back(self, loan: Loan) -> None:
        line = self._lines[loan.role]
        line.lent.remove(loan)
        self._serve(line)

    # --- for places

    def arrive(self, place: Place) -> None:
        call = place.call
        self.check(call.caller.priority, call.forced[0] if call.forced else None, call.deadline)
        self._enter_undecided(place)
        if self._tiers.share_device:
            for line in self._lines.values():
                line.recall()

    def queue(self, place: Place, role: Role) -> None:
        """Into the queue, or past it: then there is nothing to wait for."""
        self._give_up(place)
        place.let_in = None
        line = self._lines[role]
        if not line.ready:
            self._enter_undecided(place)
            return
        if place.call.forced is None and not place.accepted:
            self._small_share += _WEIGHT * ((role is Role.SMALL) - self._small_share)
        if not place.accepted:
            self._make_room(line, place)
        place.stage, place.role, place.since, place.accepted = Stage.WAITING, role, self.clock(), True
        if line.has_room and not line.waiting:
            self._let_in(line, place)
            return
        line.recall()
        place.let_in = asyncio.get_running_loop().create_future()
        insort(line.waiting, place, key=lambda each: each.order)
        self._serve(line)

    def leave(self, place: Place) -> None:
        self._give_up(place)
        place.stage = Stage.LEFT

    # ---

    @property
    def _at_work(self) -> bool:
        """Whether there is any caller's request."""
        return bool(self._undecided or self._waiting or any(line.holding for line in self._lines.values()))

    @property
    def _waiting(self) -> int:
        return sum(len(line.waiting) for line in self._lines.values())

    def _enter_undecided(self, place: Place) -> None:
        place.stage, place.role = Stage.UNDECIDED, None
        self._undecided += 1

    def _give_up(self, place: Place) -> None:
        """Whatever it has."""
        match place.stage:
            case Stage.UNDECIDED:
                self._undecided -= 1
            case Stage.WAITING:
                assert place.role is not None
                self._lines[place.role].waiting.remove(place)
                place.queue_s += self.clock() - place.since
            case Stage.HOLDING:
                assert place.role is not None
                line = self._lines[place.role]
                line.release(self.clock() - place.since)
                self._serve(line)
        place.stage, place.role = Stage.OUTSIDE, None

    def _make_room(self, line: "_Line", place: Place) -> None:
        """In the queue, for one more. Raises Overloaded where nobody has to make way for it."""
        if line.is_full(0):
            last = line.last_after(place.order[0])
            if last is None:
                self._refuse(Refusal.QUEUE, line, 0)
            else:
                self._displace(last, line)
        self._check_deadline(Refusal.QUEUE, line, 0, place.call.deadline)

    def _displace(self, place: Place, line: "_Line") -> None:
        assert place.let_in is not None
        self._give_up(place)
        self.refused[Refusal.DISPLACED] += 1
        if not place.let_in.done():  # else its caller has just gone away
            place.let_in.set_exception(_overloaded(line, 0))

    def _check_deadline(self, how: Refusal, line: "_Line", undecided: int, deadline: float | None) -> None:
        """Not of one that is over: that is told otherwise."""
        if deadline is None:
            return
        now = self.clock()
        if now < deadline < now + line.expected_s(undecided):
            self._refuse(how, line, undecided)

    def _refuse(self, how: Refusal, line: "_Line", undecided: int) -> None:
        self.refused[how] += 1
        raise _overloaded(line, undecided)

    def _serve(self, line: "_Line") -> None:
        """Let in whoever is next, as long as there is room."""
        while line.waiting and line.has_room:
            place = line.waiting.pop(0)
            place.queue_s += self.clock() - place.since
            if line.ready:
                self._let_in(line, place)
            else:
                self._enter_undecided(place)
            assert place.let_in is not None
            if not place.let_in.done():  # else its caller has just gone away, and it leaves by itself
                place.let_in.set_result(None)
        if line.waiting and line.look_again is None:
            line.look_again = asyncio.get_running_loop().call_later(_LOOK_AGAIN_S, self._look_again, line)

    def _let_in(self, line: "_Line", place: Place) -> None:
        place.stage, place.since, place.worked_on = Stage.HOLDING, self.clock(), True
        line.holding += 1
        if not line.keeps_one_free:
            line.recall()

    def _look_again(self, line: "_Line") -> None:
        line.look_again = None
        self._serve(line)


class _Line:
    """Before one tier: how many of its slots are held, who waits for one."""

    def __init__(self, tier: Tier, config: "AdmissionConfig | None") -> None:
        self.tier = tier
        self.config = config
        self.holding = 0
        self.waiting: list[Place] = []  # whose turn it is first
        self.lent: list[Loan] = []
        self.look_again: asyncio.TimerHandle | None = None
        self._held_s = 0.0  # how long slots are held, on average

    @property
    def ready(self) -> bool:
        return self.tier.state is TierState.READY

    @property
    def has_room(self) -> bool:
        """For one more, now. Where nobody holds a slot there always is: nobody's leaving would ever make any."""
        return self.holding == 0 or not self.ready or self._free is None or self._free > 0

    @property
    def _free(self) -> int | None:
        """Slots: by what was let in, which the engine may not have seen yet, and by what the engine sees, which may be
        full of what is lent and recalled. None: any number."""
        slots = self.tier.slots
        if slots is None or self.config is None:
            return None
        return max(slots - self.holding, 0) if self.lent or self.tier.queue.has_room else 0

    @property
    def can_lend(self) -> bool:
        slots = self.tier.slots
        spare = slots is None or self.holding + len(self.lent) + 1 <= max(slots - 1, 1)
        return spare and self.ready and not self.waiting and self.tier.queue.has_room

    @property
    def keeps_one_free(self) -> bool:
        """Beside what callers have and what is lent."""
        return self.tier.slots is None or self.holding + len(self.lent) < self.tier.slots

    def recall(self) -> None:
        for loan in self.lent:
            recall, loan.recall = loan.recall, None
            if recall is not None:
                recall()

    @property
    def load(self) -> Queue | None:
        if not self.ready:
            return None
        queue, waiting = self.tier.queue, len(self.waiting)
        return Queue(queue.waiting + waiting, queue.has_room and not waiting)

    def is_full(self, undecided: int) -> bool:
        """Whether one more would wait longer than anybody has to, behind `undecided` beside those who wait."""
        ahead = self._without_slot(undecided)
        if not self.ready or self.tier.slots is None or self.config is None or ahead < 0:
            return False
        most = max(int(self.config.queue_share * self.tier.slots), 1)
        return ahead >= most or self.expected_s(undecided) > self.config.queue_s

    def expected_s(self, undecided: int) -> float:
        """How long one more would wait: as many slots become free in a second as are held, by how long each is."""
        return max(self._without_slot(undecided) + 1, 0) * self._held_s / max(self.holding, 1)

    def _without_slot(self, undecided: int) -> int:
        """How many are ahead of one more and have to wait; below 0 where there are slots for them and for it."""
        free = self._free
        return -1 if free is None else max(len(self.waiting) + undecided - free, -1)

    def last_after(self, priority: int) -> Place | None:
        """The last of those that a request with this priority may displace."""
        after = (place for place in reversed(self.waiting) if place.order[0] > priority)
        return next((place for place in after if not place.worked_on), None)

    def release(self, held_s: float) -> None:
        self.holding -= 1
        self._held_s += _WEIGHT * (held_s - self._held_s) if self._held_s else held_s


def _overloaded(line: _Line, undecided: int) -> Overloaded:
    after_s = min(max(line.expected_s(undecided), _SOONEST_S), _LATEST_S)
    return Overloaded("the node has as much to do as it can answer in time: come again later", after_s)
