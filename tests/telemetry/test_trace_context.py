"""`traceparent`, as callers send it and as it is passed on."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierserve.core import Trace
from tierserve.telemetry.trace_context import begin

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = f"00-{TRACE}-{SPAN}-01"


@pytest.mark.parametrize(("flags", "sampled"), [("01", True), ("00", False), ("03", True), ("02", False)])
def test_the_callers_word_on_sampling_counts(flags: str, sampled: bool) -> None:
    for share in (0.0, 1.0):
        trace = begin(f"00-{TRACE}-{SPAN}-{flags}", "a=1,b=2", share)
        assert trace is not None
        assert (trace.trace_id, trace.parent_id) == (int(TRACE, 16), int(SPAN, 16))
        assert trace.sampled is sampled
        assert trace.span_id not in (0, trace.parent_id)
        assert trace.headers == {
            "traceparent": f"00-{TRACE}-{trace.span_id:016x}-{'01' if sampled else '00'}",
            "tracestate": "a=1,b=2",
        }


def test_without_a_caller_the_configured_share_is_traced() -> None:
    traces = [begin(None, "", share) for share in (0.0, 1.0)]
    assert [trace and trace.sampled for trace in traces] == [False, True]
    assert all(trace and trace.trace_id and trace.span_id and not trace.parent_id for trace in traces)
    half = [begin(None, "", 0.5) for _ in range(1000)]
    assert 350 < sum(trace.sampled for trace in half if trace) < 650
    assert len({trace.trace_id for trace in half if trace}) == 1000


def test_where_nothing_is_traced_the_callers_is_passed_on() -> None:
    trace = begin(SAMPLED, "a=1", None)
    assert trace is not None and trace.headers == {"traceparent": SAMPLED, "tracestate": "a=1"}
    assert begin(None, "a=1", None) is None


@pytest.mark.parametrize(
    "header",
    [
        "",
        "00",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"{SAMPLED}-more",
        f"{SAMPLED} ",
        f"00-{TRACE[1:]}-{SPAN}-01",
    ],
)
def test_what_is_no_traceparent_starts_a_trace_of_its_own(header: str) -> None:
    trace = begin(header, "a=1", 1.0)
    assert trace is not None and trace.parent_id == 0 and trace.trace_id != int(TRACE, 16)
    assert trace.state == ""
    assert begin(header, "a=1", None) is None


def test_a_later_version_may_say_more() -> None:
    trace = begin(f"01-{TRACE}-{SPAN}-01-more", "", 0.0)
    assert trace is not None and trace.parent_id == int(SPAN, 16) and trace.sampled


@given(st.text(), st.text())
def test_whatever_stands_there_does_no_harm(header: str, state: str) -> None:
    trace = begin(header, state, 1.0)
    assert trace is not None
    assert all(value.isprintable() and value.isascii() for value in trace.headers.values())


def test_a_trace_is_passed_on_with_full_length_ids() -> None:
    assert Trace(1, 2).headers == {"traceparent": f"00-{1:032x}-{2:016x}-00"}
