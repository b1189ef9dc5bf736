"""OpenTelemetry spans of finished requests, sent to a collector in batches from a thread of their own.

They are made from the Outcome once it is there, so that a request that is under way is not slowed down by being traced.
A collector that fails or hangs costs the spans and a line in the log. Imported only where a collector is configured.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    TraceState,
    set_span_in_context,
)

from tierserve import __version__
from tierserve.core import Outcome, Role, Status, Trace
from tierserve.telemetry.spans import request_attributes, spans
from tierserve.threads import load_beside

if TYPE_CHECKING:
    from tierserve.config import TracingConfig

_NS: Final = 1_000_000_000
# Spans that wait to be sent; beyond them the oldest are dropped.
_QUEUE: Final = 8192
_BATCH: Final = 512
_EVERY_MS: Final = 2000
_SEND_S: Final = 5.0
# When the node ends, how long it waits for the last batch.
_LAST_S: Final = 2.0
_FAILED: Final = (Status.ERROR, Status.UNAVAILABLE)


class Tracing:
    """`record` takes outcomes. Whether a request is traced was settled when it came, and stands in its call."""

    def __init__(
        self, config: "TracingConfig", names: Mapping[Role, str], clock_ns: Callable[[], int] = time.time_ns
    ) -> None:
        """`names` are the tiers'; `clock_ns` gives the time of day."""
        self._names, self._clock_ns = names, clock_ns
        self._ids = _Ids()
        self._provider = TracerProvider(
            sampler=ALWAYS_ON,
            resource=Resource.create({"service.name": config.service_name, "service.version": __version__}),
            shutdown_on_exit=False,
            id_generator=self._ids,
        )
        exporter = OTLPSpanExporter(config.endpoint, timeout=_SEND_S)
        self._provider.add_span_processor(BatchSpanProcessor(exporter, _QUEUE, _EVERY_MS, _BATCH))
        self._tracer = self._provider.get_tracer("tierserve", __version__)

    def record(self, outcome: Outcome) -> None:
        trace = outcome.call.trace
        if trace is None or not trace.sampled:
            return
        ended = self._clock_ns()
        arrived = ended - round(outcome.total_s * _NS)

        def at(seconds: float) -> int:
            return arrived + round(seconds * _NS)

        with self._ids.given(trace):
            request = self._tracer.start_span(
                str(outcome.call.kind), _parent(trace), SpanKind.SERVER, request_attributes(outcome), (), arrived
            )
        under = set_span_in_context(request, Context())
        for part in spans(outcome, self._names):
            span = self._tracer.start_span(
                part.name, under, attributes=dict(part.attributes), start_time=at(part.start_s)
            )
            if part.first_byte_s is not None:
                span.add_event("first_byte", timestamp=at(part.first_byte_s))
            span.end(at(part.end_s))
        if outcome.status in _FAILED:
            request.set_status(StatusCode.ERROR)
        request.end(ended)

    async def close(self) -> None:
        """Send what is left, if that takes no more than two seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST_S):
                await load_beside(self._provider.shutdown)


class _Ids(RandomIdGenerator):
    """A request's span has the id that it was given when it came, for it was passed on to the tiers."""

    def __init__(self) -> None:
        self._trace: Trace | None = None

    @contextmanager
    def given(self, trace: Trace) -> Iterator[None]:
        self._trace = trace
        try:
            yield
        finally:
            self._trace = None

    def generate_trace_id(self) -> int:
        return self._trace.trace_id if self._trace else super().generate_trace_id()

    def generate_span_id(self) -> int:
        return self._trace.span_id if self._trace else super().generate_span_id()


def _parent(trace: Trace) -> Context:
    """The caller's span as the context to start in; an empty one where there is none."""
    if not trace.parent_id:
        return Context()
    state = TraceState.from_header([trace.state]) if trace.state else None
    caller = SpanContext(trace.trace_id, trace.parent_id, True, TraceFlags(TraceFlags.SAMPLED), state)
    return set_span_in_context(NonRecordingSpan(caller), Context())
