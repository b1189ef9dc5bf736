"""What is written: an Outcome as a row of `decisions`, a Comparison as one of `comparisons`. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from numpy.typing import NDArray

from tierserve.core import Outcome, Prompt, Sent

Value = str | float | int | bytes | None

_COLUMNS: Final = (
    *("time", "id", "trace_id", "key", "kind", "stream", "status"),
    *("tier", "role", "cause", "score", "threshold"),
    *("confidence", "doubt", "escalated", "held_s"),
    *("prompt_tokens", "completion_tokens", "wasted_prompt_tokens", "wasted_completion_tokens"),
    *("route_s", "queue_s", "first_byte_s", "total_s"),
    *("cost", "cost_all_large", "cost_wasted"),
    *("turns", "prompts"),
)
_COMPLETED: Final = ("prompt", "answer", "embedding", "features")

INSERT_DECISION: Final = (
    f"INSERT INTO decisions ({', '.join(_COLUMNS + _COMPLETED)}) VALUES ({', '.join('?' * len(_COLUMNS + _COMPLETED))})"
)

Verdict = Literal["small", "large", "tie"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """The small tier's answer to a request against the large one's. `first_order` is the judge's verdict with the small
    tier's answer shown first, `second_order` with the large one's; None where no judge was asked."""

    request_id: str
    key: str
    small_tier: str
    large_tier: str
    verdict: Verdict
    first_order: Verdict | None = None
    second_order: Verdict | None = None
    similarity: float | None = None
    confidence: float | None = None
    score: float | None = None
    judge_ms: float | None = None
    small_answer: str | None = None
    large_answer: str | None = None


_COMPARED: Final = tuple(Comparison.__slots__)
INSERT_COMPARISON: Final = (
    f"INSERT INTO comparisons (time, {', '.join(_COMPARED)}) VALUES (?, {', '.join('?' * len(_COMPARED))})"
)


@dataclass(frozen=True, slots=True)
class Finished:
    """A request that ended: its row as far as it can be told at once, and what the rest is made of, later and on
    another thread."""

    values: Sequence[Value]
    stream: bool
    prompts: Sequence[Prompt] = ()
    sent: Sent | None = None
    embedding: NDArray[Any] | None = None


def values(outcome: Outcome, now: float, threshold: float) -> tuple[Value, ...]:
    """Those of the columns up to `prompts`, in order. `now` is the time of day in seconds since 1970."""
    call, decision, judgement = outcome.call, outcome.decision, outcome.judgement
    usage, cost = outcome.usage, outcome.cost
    return (
        now,
        call.id,
        f"{call.trace.trace_id:032x}" if call.trace is not None else None,
        call.caller.key,
        call.kind,
        call.stream,
        outcome.status,
        outcome.tier,
        *((decision.role, decision.cause, decision.score) if decision is not None else (None, None, None)),
        threshold,
        *(
            (judgement.confidence, judgement.doubt, judgement.escalated, judgement.held_s)
            if judgement is not None
            else (None, None, None, None)
        ),
        usage.prompt_tokens,
        usage.completion_tokens,
        judgement.wasted.prompt_tokens if judgement is not None else 0,
        judgement.wasted.completion_tokens if judgement is not None else 0,
        outcome.route_s,
        outcome.queue_s,
        outcome.first_byte_s,
        outcome.total_s,
        *((cost.spent, cost.all_large, cost.wasted) if cost is not None else (None, None, None)),
        call.prompts[0].turns if call.prompts else None,
        len(call.prompts),
    )


def compared(comparison: Comparison, now: float) -> tuple[Value, ...]:
    return (now, *(getattr(comparison, name) for name in _COMPARED))
