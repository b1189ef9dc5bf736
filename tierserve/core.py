"""The values that cross rooms. They hold data and derive data; nothing here waits, reads or writes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Role(StrEnum):
    """The two tiers. What they are called on the wire is configured."""

    SMALL = "small"
    LARGE = "large"

    @property
    def other(self) -> "Role":
        return Role.LARGE if self is Role.SMALL else Role.SMALL


class Kind(StrEnum):
    """The two endpoints of OpenAI's API that generate."""

    CHAT = "chat"
    COMPLETION = "completion"


class Cause(StrEnum):
    """Why a tier was chosen. Each decision has one."""

    MODEL = "model"  # the caller named the tier in `model`
    HEADER = "header"  # the caller named it in `x-tierserve-tier`
    KEY = "key"  # the only tier that the caller's key may have
    SCORE = "score"  # the prompt was scored
    ASSESSED = "assessed"  # it was scored where scores are unsure, and the assessor had a say
    UNASSESSED = "unassessed"  # likewise, and the assessor was late, full or failing: the score stands
    CACHE = "cache"  # the same prompt was scored before
    FOLLOW_UP = "follow_up"  # too short to be scored by itself: the tier of the conversation's last turn
    CONVERSATION = "conversation"  # the conversation was sent up before, and stays
    LOAD = "load"  # near the threshold, and the tier on that side has a queue
    UNSCORED = "unscored"  # scoring failed: the large tier, to be safe
    CONTEXT = "context"  # it would have been the small tier, which can't hold the prompt
    FAILOVER = "failover"  # the tier that was chosen can't answer
    ESCALATION = "escalation"  # the small tier's answer was doubted: the large one's instead
    BUDGET = "budget"  # it was doubted, and stands, for the escalation budget was spent


class Doubt(StrEnum):
    """Why an answer of the small tier may not do."""

    LOW = "low"  # its confidence is below the threshold
    UNSTATED = "unstated"  # it was to state its confidence, and did not
    UNREADABLE = "unreadable"  # it is not of the structured form that was asked for
    EMPTY = "empty"  # it says nothing
    CONTEXT = "context"  # the tier can't hold the prompt
    FAILURE = "failure"  # the tier failed before it had answered


class Status(StrEnum):
    """How a request ended."""

    OK = "ok"
    INVALID = "invalid"  # the caller's fault
    REFUSED = "refused"  # the node had too much to do
    DEADLINE = "deadline"  # the caller's time was over before the answer was there
    UNAVAILABLE = "unavailable"  # no tier could answer
    CANCELLED = "cancelled"  # the caller went away
    ERROR = "error"  # broken off after the answer had begun, or a fault of ours


class Failure(StrEnum):
    """What became of an engine that has to be built anew."""

    DIED = "died"
    HUNG = "hung"


class Refusal(StrEnum):
    """Where a request was turned away, as too many wait."""

    DOOR = "door"  # before it was read or routed
    QUEUE = "queue"  # when its tier was known
    DISPLACED = "displaced"  # from the queue, by one with a lower priority


class Measure(StrEnum):
    """What tells whether a node still works as it did: each is compared between two stretches of time."""

    WIN_RATE = "win_rate"  # of comparisons, those in which the small tier's answer did as well as the large one's
    CALIBRATION = "calibration"  # how far the confidence in answers is from how often they did
    ESCALATION = "escalation"  # of judged answers, those that the large tier gave in the end
    SCORE = "score"  # how the prompts' scores are distributed
    LARGE_SHARE = "large_share"  # of what the router had a choice in, what the large tier answered


@dataclass(frozen=True, slots=True)
class Decision:
    """Where a prompt goes and why. `score` is 0 (trivial) to 10 (hard); None where nobody asked for one."""

    role: Role
    cause: Cause
    score: float | None = None


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is scored: what the user said last, and how many times the user has spoken by then."""

    text: str
    turns: int = 1


@dataclass(frozen=True, slots=True)
class Conversation:
    """Where what is known of a call's conversation is kept. Digests, never text.

    `key` is this turn's place, `earlier` the places where a turn before it may have left something, nearest first.
    """

    key: bytes
    earlier: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: the name of their key, empty where the node has no keys; the tiers that it may have. Of two requests
    that wait, the one with the lower `priority` is served first. `admin`: may see what the node knows of all."""

    key: str = ""
    priority: int = 0
    tiers: frozenset[Role] = frozenset(Role)
    admin: bool = False


ANYBODY = Caller()


@dataclass(frozen=True, slots=True)
class Trace:
    """A request's place in a distributed trace (W3C Trace Context). `span_id` is the request's own, under the caller's
    span `parent_id`, 0 where they have none; `state` is what the caller sent beside it, passed on as it is."""

    trace_id: int
    span_id: int
    parent_id: int = 0
    sampled: bool = False
    state: str = ""

    @property
    def headers(self) -> dict[str, str]:
        """For whom the node asks in turn."""
        headers = {"traceparent": f"00-{self.trace_id:032x}-{self.span_id:016x}-{self.sampled:02x}"}
        return headers | ({"tracestate": self.state} if self.state else {})


@dataclass(frozen=True, slots=True)
class Call:
    """One accepted request.

    `body` is the caller's JSON without `model`; `parsed` the same as the tiers' own request model, where they have
    one. `prompts` is what the router scores: one for a chat, each of a completion's. `conversation` is None where there
    is none: in completions. `forced` is set, with its cause, when the caller chose the tier, or may have no other: then
    no other is asked, whatever happens. `trace` is None where neither the caller nor the node traces. `deadline` is
    when its time is over, on the event loop's clock; None: never. `background`: the node asks for itself, and engines
    that know priorities do everything else first.
    """

    id: str
    kind: Kind
    body: Mapping[str, Any]
    prompts: tuple[Prompt, ...]
    stream: bool = False
    forced: tuple[Role, Cause] | None = None
    parsed: Any = None
    conversation: Conversation | None = None
    caller: Caller = ANYBODY
    deadline: float | None = None
    trace: Trace | None = None
    background: bool = False


@dataclass(frozen=True, slots=True)
class Queue:
    """How many requests wait in a tier, beside those that it works on; `has_room`: one more would start at once."""

    waiting: int = 0
    has_room: bool = True


@dataclass(frozen=True, slots=True)
class Load:
    """What the two tiers have to do. None: the tier can't answer now."""

    small: Queue | None = Queue()
    large: Queue | None = Queue()

    def __getitem__(self, role: Role) -> Queue | None:
        return self.small if role is Role.SMALL else self.large


@dataclass(frozen=True, slots=True)
class Heard:
    """What one choice of an answer has grown by.

    `logprobs` has for each new token natural logarithms of probabilities: the sampled token's, then those of the
    likeliest tokens, as many as were asked for (the sampled one may be among them). `prompt_tokens` is the length of
    the prompt that the choice answers.
    """

    choice: int
    text: str
    tokens: int
    logprobs: Sequence[Sequence[float]] = ()
    ended: bool = False
    prompt_tokens: int = 0


@dataclass(slots=True)
class Usage:
    """Tokens in and out of one answer, as the engine counted them."""

    prompt_tokens: int = 0
    completion_tokens: int = 0


class Prewarm(StrEnum):
    """What became of a prompt that the large tier read in advance."""

    HIT = "hit"  # it had been read when the answer was doubted
    LATE = "late"  # it was still being read
    UNUSED = "unused"  # the small tier's answer stood


@dataclass(slots=True)
class Judgement:
    """How the small tier's answer was judged.

    `confidence` is 0 to 1, None where it was never known. `escalated`: the large tier answered instead, and `wasted` is
    what the small one had read and written by then. `held_s` is how long the answer was held back, from when the tier
    was asked; `queue_s` is how long the request had waited for it before.
    """

    confidence: float | None = None
    doubt: Doubt | None = None
    escalated: bool = False
    held_s: float = 0.0
    wasted: Usage = field(default_factory=Usage)
    prewarm: Prewarm | None = None
    queue_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Cost:
    """What a request cost, with the answer that was thrown away where it escalated, and what the large tier alone would
    have cost; in the money of the configured price. `wasted`: of what was spent, what was thrown away."""

    spent: float
    all_large: float
    wasted: float = 0.0


@dataclass(slots=True)
class Sent:
    """An answer's bytes as its caller gets them: a body, or events. Beyond `limit` bytes no more are kept."""

    chunks: list[bytes] = field(default_factory=list)
    size: int = 0
    limit: int = 2**20

    def add(self, chunk: bytes) -> None:
        self.size += len(chunk)
        if self.size <= self.limit:
            self.chunks.append(chunk)

    @property
    def whole(self) -> bool:
        return self.size <= self.limit


@dataclass(slots=True)
class Outcome:
    """How one request went: the single record that metrics, cost and logs read. Times are seconds since arrival.

    `first_byte_s` is when the first byte of the answer was at hand: for a stream its first event, else the whole.
    `decision` and `tier` are None when the request ended before one was made; `judgement` is None where the answer was
    not judged. `usage` is of the answer that the caller got. `queue_s` is how long the request waited for room in a
    tier. `cost` is None where no prices are configured. `sent` is None where nobody wants to read the answer. `drawn`:
    the answer is to be compared with what the large tier would have said.
    """

    call: Call
    status: Status = Status.ERROR
    decision: Decision | None = None
    tier: str | None = None
    usage: Usage = field(default_factory=Usage)
    route_s: float | None = None
    first_byte_s: float | None = None
    total_s: float = 0.0
    judgement: Judgement | None = None
    queue_s: float = 0.0
    cost: Cost | None = None
    sent: Sent | None = None
    drawn: bool = False
