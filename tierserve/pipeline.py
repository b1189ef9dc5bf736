"""The life of a request: admit, route, generate and judge, escalate or commit, record. No HTTP here, and no vLLM."""

import logging
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace

from tierserve.core import Call, Cause, Decision, Judgement, Outcome, Role, Sent, Status, Usage
from tierserve.deadline import Patience, in_time
from tierserve.errors import ContextOverflow, DeadlineExceeded, Refused, RequestError, TierBusy, TierUnavailable
from tierserve.escalation.escalator import Doubted, Escalator
from tierserve.router.router import Router
from tierserve.tiers.admission import Admission, Place
from tierserve.tiers.base import Reply, armed
from tierserve.tiers.pair import TierPair

log = logging.getLogger(__name__)

Record = Callable[[Outcome], None]


@dataclass(frozen=True, slots=True)
class Answer:
    """`events` is None where `body` is the whole answer. `tier` is the name of the one that spoke; `judgement` is None
    where nobody judged what it said. `outcome` is complete once the answer has ended."""

    tier: str
    decision: Decision
    judgement: Judgement | None
    body: bytes
    events: AsyncGenerator[bytes, None] | None
    outcome: Outcome


class Pipeline:
    """Holds the rooms together. Each request becomes one Outcome, handed to `record` when it has ended.

    Without an escalator the small tier's answers stand; another may be set at any time, for the calls that come then.
    Without an admission nobody waits for a tier. With `keep_answers` an Outcome has what was sent.
    """

    def __init__(
        self,
        router: Router,
        tiers: TierPair,
        record: Record,
        escalator: Escalator | None = None,
        clock: Callable[[], float] = time.perf_counter,
        admission: Admission | None = None,
        keep_answers: bool = False,
    ) -> None:
        self.admission = admission or Admission(tiers)
        self._router = router
        self._tiers = tiers
        self._record = record
        self.escalator = escalator
        self._clock = clock
        self._keep_answers = keep_answers

    async def answer(self, call: Call) -> Answer:
        """Answer a call. Raises RequestError, Overloaded when too many wait, DeadlineExceeded when its time is over, or
        TierUnavailable when no tier is left that could."""
        started = self._clock()
        outcome = Outcome(call, sent=Sent() if self._keep_answers else None)
        place = self.admission.place(call)
        try:
            place.arrive()
            async with in_time(call.deadline):
                decision = outcome.decision = await self._router.decide(call, self.admission.load)
                outcome.route_s = self._clock() - started
                if self.escalator is not None and decision.role is Role.SMALL and call.forced is None:
                    outcome.judgement = Judgement()
                outcome.decision, reply = await self._generate(call, decision, outcome.judgement, place)
            self._router.settle(call, outcome.decision)
            outcome.tier = self._tiers[outcome.decision.role].name
            outcome.first_byte_s = self._clock() - started
        except BaseException as error:
            self._end(outcome, place, _status_of(error), started)
            raise
        if reply.events is None:
            outcome.usage = reply.usage
            if outcome.sent is not None:
                outcome.sent.add(reply.body)
            self._end(outcome, place, Status.OK, started)
            return Answer(outcome.tier, outcome.decision, outcome.judgement, reply.body, None, outcome)
        events = await armed(self._stream(reply, outcome, place, started))
        return Answer(outcome.tier, outcome.decision, outcome.judgement, b"", events, outcome)

    async def decide(self, call: Call) -> Decision:
        """Where `answer` would send the call, as far as that shows beforehand; a look, which changes nothing.

        Raises TierUnavailable.
        """
        decision = await self._router.look(call, self.admission.load)
        if decision.role is Role.SMALL and call.forced is None and not await self._tiers[Role.SMALL].fits(call):
            return replace(decision, role=Role.LARGE, cause=Cause.CONTEXT)
        return decision

    async def _generate(
        self, call: Call, decision: Decision, judgement: Judgement | None, place: Place
    ) -> tuple[Decision, Reply]:
        """From the tier decided on, once it has room; where that can't answer, or its answer may not do, from the
        other, unless the caller insisted on the first."""
        first = self._tiers[decision.role]
        try:
            await place.room(decision.role)
            if judgement is not None and self.escalator is not None:
                judgement.queue_s = place.queue_s
                return await self.escalator.answer(call, decision, judgement)
            return decision, await first.generate(call)
        except (Doubted, TierUnavailable, ContextOverflow) as error:
            cause = None if call.forced else _cause_to_ask_the_other(decision, error)
            if cause is None:
                raise
            problem = error
        elsewhere = replace(decision, role=decision.role.other, cause=cause)
        second = self._tiers[elsewhere.role]
        level = logging.WARNING if cause is Cause.FAILOVER else logging.INFO
        log.log(level, "%s does not answer (%s), asking %s", first.name, _in_words(problem), second.name)
        try:
            await place.room(elsewhere.role)
            reply = await second.generate(call)
        except (TierUnavailable, RequestError) as refusal:
            if judgement is not None and not isinstance(problem, TierUnavailable):
                return replace(decision, cause=Cause.FAILOVER), await self._after_all(
                    call, judgement, problem, refusal, place
                )
            if isinstance(problem, TierUnavailable) and isinstance(refusal, ContextOverflow):
                raise problem from None  # the prompt is not too long, its tier is away
            raise
        if judgement is not None:
            judgement.escalated = True
        return elsewhere, reply

    async def _after_all(
        self,
        call: Call,
        judgement: Judgement,
        problem: Doubted | ContextOverflow,
        refusal: TierUnavailable | RequestError,
        place: Place,
    ) -> Reply:
        """The small tier's answer, which was doubted, or did not fit in the form in which it was to be judged; it is
        better than none."""
        log.warning("the large tier can't answer either (%s): the small one's answer stands", type(refusal).__name__)
        if isinstance(problem, Doubted) and problem.reply is not None:
            judgement.wasted = Usage()  # it is sent
            return problem.reply
        try:
            await place.room(Role.SMALL)
            return await self._tiers[Role.SMALL].generate(call)
        except ContextOverflow:
            raise refusal from None

    async def _stream(
        self, reply: Reply, outcome: Outcome, place: Place, started: float
    ) -> AsyncGenerator[bytes, None]:
        assert reply.events is not None
        status, sent = Status.CANCELLED, outcome.sent  # cancelled is what it is when nobody reads to the end
        try:
            async with aclosing(reply.events), Patience(outcome.call.deadline) as patience:
                yield b""
                while (event := await patience.next(reply.events)) is not None:
                    if sent is not None:
                        sent.add(event)
                    yield event
            status = Status.ERROR if reply.broken else Status.OK
        except Exception as error:
            status = Status.DEADLINE if isinstance(error, DeadlineExceeded) else Status.ERROR
            raise
        finally:
            outcome.usage = reply.usage
            self._end(outcome, place, status, started)

    def _end(self, outcome: Outcome, place: Place, status: Status, started: float) -> None:
        place.leave()
        outcome.status, outcome.queue_s = status, place.queue_s
        outcome.total_s = self._clock() - started
        self._record(outcome)


def _cause_to_ask_the_other(decision: Decision, error: Doubted | TierUnavailable | ContextOverflow) -> Cause | None:
    match error:
        case Doubted():
            return Cause.ESCALATION
        case ContextOverflow():
            return Cause.CONTEXT if decision.role is Role.SMALL else None
        case TierBusy():
            return None  # a full queue is no failure: the other tier's would be next
        case _:
            # What the small tier can't hold has nowhere else to go.
            return None if decision.cause is Cause.CONTEXT else Cause.FAILOVER


def _in_words(problem: Exception) -> str:
    return f"doubted: {problem.doubt}" if isinstance(problem, Doubted) else type(problem).__name__


def _status_of(error: BaseException) -> Status:
    if isinstance(error, RequestError):
        return Status.INVALID
    if isinstance(error, TierUnavailable):
        return Status.UNAVAILABLE
    if isinstance(error, Refused):
        return Status.REFUSED
    if isinstance(error, DeadlineExceeded):
        return Status.DEADLINE
    return Status.ERROR if isinstance(error, Exception) else Status.CANCELLED
