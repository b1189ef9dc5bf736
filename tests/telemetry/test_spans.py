"""The parts of a request in time."""

import pytest

from tierserve.core import Call, Cause, Decision, Doubt, Judgement, Kind, Outcome, Prompt, Role, Status, Usage
from tierserve.telemetry.spans import Span, request_attributes, spans

CALL = Call("id", Kind.CHAT, {"messages": "secret"}, (Prompt("secret"),))
NAMES = {Role.SMALL: "s", Role.LARGE: "l"}
SMALL, LARGE = Decision(Role.SMALL, Cause.SCORE, 2.5), Decision(Role.LARGE, Cause.ESCALATION, 2.5)


def of(outcome: Outcome) -> list[Span]:
    return list(spans(outcome, NAMES))


def test_an_answer_is_routed_and_then_generated() -> None:
    assert of(Outcome(CALL, Status.OK, SMALL, "s", Usage(1, 2), 0.25, 0.5, 1.0)) == [
        Span("route", 0.0, 0.25, {"tierserve.score": 2.5}),
        Span("generate", 0.25, 1.0, {"tierserve.tier": "s"}, 0.5),
    ]


def test_waiting_stands_between() -> None:
    found = of(Outcome(CALL, Status.OK, SMALL, "s", Usage(1, 2), 0.25, 0.5, 1.0, queue_s=0.125))
    assert [(span.name, span.start_s, span.end_s) for span in found] == [
        ("route", 0.0, 0.25),
        ("queue", 0.25, 0.375),
        ("generate", 0.375, 1.0),
    ]


def test_an_escalation_follows_the_answer_that_was_doubted() -> None:
    judgement = Judgement(0.125, Doubt.LOW, True, 0.5)
    _, generate, escalate = of(Outcome(CALL, Status.OK, LARGE, "l", Usage(1, 2), 0.25, 0.875, 2.0, judgement))
    said = {"tierserve.tier": "s", "tierserve.confidence": 0.125, "tierserve.doubt": "low", "tierserve.held_s": 0.5}
    assert generate == Span("generate", 0.25, 0.75, said)
    assert escalate == Span("escalate", 0.75, 2.0, {"tierserve.tier": "l"}, 0.875)


def test_an_escalation_may_wait_for_each_tier() -> None:
    judgement = Judgement(0.125, Doubt.LOW, True, 0.5, queue_s=0.25)
    found = of(Outcome(CALL, Status.OK, LARGE, "l", Usage(1, 2), 0.25, 1.75, 2.0, judgement, queue_s=0.625))
    assert [(span.name, span.start_s, span.end_s) for span in found] == [
        ("route", 0.0, 0.25),
        ("queue", 0.25, 0.5),
        ("generate", 0.5, 1.0),
        ("queue", 1.0, 1.375),
        ("escalate", 1.375, 2.0),
    ]


def test_an_answer_that_was_judged_and_stands_tells_its_confidence() -> None:
    found = of(Outcome(CALL, Status.OK, SMALL, "s", Usage(1, 2), 0.25, 0.5, 1.0, Judgement(0.75, held_s=0.125)))
    assert found[-1].attributes == {"tierserve.tier": "s", "tierserve.confidence": 0.75, "tierserve.held_s": 0.125}


def test_a_request_that_was_never_routed_was_all_routing() -> None:
    assert of(Outcome(CALL, Status.CANCELLED, total_s=0.5)) == [Span("route", 0.0, 0.5)]


@pytest.mark.parametrize("status", Status)
def test_attributes_hold_no_prompt(status: Status) -> None:
    outcome = Outcome(CALL, status, SMALL, "s", Usage(1, 2), 0.25, 0.5, 1.0, Judgement(0.75))
    said = repr([request_attributes(outcome), *of(outcome)])
    assert "secret" not in said and str(status) in said
