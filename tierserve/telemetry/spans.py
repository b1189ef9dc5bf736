"""What a finished request consisted of, in time: route, queue, generate, escalate. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from tierserve.core import Judgement, Outcome, Role

Value = str | float | int | bool


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a request; times are seconds since its arrival."""

    name: str
    start_s: float
    end_s: float
    attributes: Mapping[str, Value] = field(default_factory=dict)
    first_byte_s: float | None = None


def spans(outcome: Outcome, names: Mapping[Role, str]) -> Iterator[Span]:
    """In order, as far as the request came; `names` are the tiers'. `queue` is there where it waited for a tier,
    `escalate` where the small one's answer was doubted: `generate` is then that answer, until it was judged."""
    decision, judgement, end_s = outcome.decision, outcome.judgement, outcome.total_s
    if decision is None or outcome.route_s is None:
        yield Span("route", 0.0, end_s)
        return
    yield Span("route", 0.0, outcome.route_s, known({"tierserve.score": decision.score}))
    name, begun, waited_s = "generate", outcome.route_s, outcome.queue_s
    if judgement is not None and judgement.escalated:
        yield from _queue(begun, judgement.queue_s)
        asked = begun + judgement.queue_s
        judged = min(asked + judgement.held_s, end_s)
        yield Span(name, asked, judged, {"tierserve.tier": names[Role.SMALL], **_judged(judgement)})
        name, begun, waited_s, judgement = "escalate", judged, waited_s - judgement.queue_s, None
    yield from _queue(begun, waited_s)
    begun = min(begun + waited_s, end_s)
    attributes = known({"tierserve.tier": outcome.tier}) | (_judged(judgement) if judgement is not None else {})
    yield Span(name, begun, end_s, attributes, outcome.first_byte_s)


def request_attributes(outcome: Outcome) -> dict[str, Value]:
    """Of the request as a whole. No prompt text; `gen_ai.*` are OpenTelemetry's names for what others have too."""
    return known(
        {
            "gen_ai.operation.name": "chat" if outcome.call.kind == "chat" else "text_completion",
            "gen_ai.response.model": outcome.tier,
            "gen_ai.usage.input_tokens": outcome.usage.prompt_tokens,
            "gen_ai.usage.output_tokens": outcome.usage.completion_tokens,
            "tierserve.request_id": outcome.call.id,
            "tierserve.key": outcome.call.caller.key or None,
            "tierserve.stream": outcome.call.stream,
            "tierserve.cause": str(outcome.decision.cause) if outcome.decision else None,
            "tierserve.status": str(outcome.status),
            "tierserve.cost": outcome.cost.spent if outcome.cost else None,
        }
    )


def known(values: Mapping[str, Value | None]) -> dict[str, Value]:
    return {name: value for name, value in values.items() if value is not None}


def _queue(start_s: float, waited_s: float) -> Iterator[Span]:
    if waited_s > 0:
        yield Span("queue", start_s, start_s + waited_s)


def _judged(judgement: Judgement) -> dict[str, Value]:
    return known(
        {
            "tierserve.confidence": judgement.confidence,
            "tierserve.doubt": judgement.doubt and str(judgement.doubt),
            "tierserve.held_s": judgement.held_s,
        }
    )
