"""Spans whose ids are given.

OpenTelemetry's API lets nobody choose the id of a span. Its SDK asks a generator for them, which each tracer has as an
attribute; this module puts its own in front of it, in the tracer of this package alone.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Protocol, cast

from opentelemetry import trace
from opentelemetry.context import Context

from workflow_core.telemetry.identity import nanoseconds

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from opentelemetry.util.types import AttributeValue

__all__ = ["SCOPE", "SpanSource"]

SCOPE = "workflow_core"
"""The instrumentation scope of all spans and metrics of this package."""


class _Generator(Protocol):
    """What the SDK's tracers ask for ids."""

    def generate_trace_id(self) -> int: ...

    def generate_span_id(self) -> int: ...


class _HasGenerator(Protocol):
    id_generator: _Generator


class _GivenIds:
    """Gives the ids that were asked for in this thread, each once, else those of the generator behind it."""

    def __init__(self, inner: _Generator) -> None:
        self._inner = inner
        self._next = threading.local()

    def give(self, trace_id: int | None, span_id: int | None) -> None:
        """Give these to the next span that this thread starts; ``None`` leaves an id to the generator behind."""
        self._next.trace_id, self._next.span_id = trace_id, span_id

    def generate_trace_id(self) -> int:
        given: int | None = getattr(self._next, "trace_id", None)
        return self._inner.generate_trace_id() if given is None else given

    def generate_span_id(self) -> int:
        given: int | None = getattr(self._next, "span_id", None)
        return self._inner.generate_span_id() if given is None else given

    def is_trace_id_random(self) -> bool:
        """Tell whether trace ids are spread evenly, as far as samplers are concerned: those that are hashes are."""
        given: int | None = getattr(self._next, "trace_id", None)
        behind = getattr(self._inner, "is_trace_id_random", None)
        return given is not None or (behind is not None and bool(behind()))


class SpanSource:
    """Starts spans.

    Args:
        provider: Where the tracer comes from; ``None`` for the global provider, also one that is set later.
        version: This package's.
    """

    def __init__(self, provider: trace.TracerProvider | None, version: str) -> None:
        self._provider = provider
        self._version = version
        self._tracer: trace.Tracer | None = None
        self._ids: _GivenIds | None = None

    def _resolved(self) -> trace.Tracer:
        """Return the tracer; one that stands in for a provider to come is asked for again."""
        if self._tracer is None:
            tracer = (self._provider or trace.get_tracer_provider()).get_tracer(SCOPE, self._version)
            if isinstance(tracer, trace.ProxyTracer):
                return tracer
            self._tracer = tracer
            if hasattr(tracer, "id_generator"):
                holder = cast("_HasGenerator", tracer)
                if not isinstance(holder.id_generator, _GivenIds):
                    holder.id_generator = _GivenIds(holder.id_generator)
                self._ids = holder.id_generator
        return self._tracer

    def start_root(
        self,
        name: str,
        trace_id: int,
        span_id: int,
        parent: Context | None,
        at: datetime,
        attributes: Mapping[str, AttributeValue],
        links: Sequence[trace.Link],
    ) -> trace.Span:
        """Start the span at the top of an execution's trace.

        A tracer that lets nobody choose ids makes a child of the span that should have been made.

        Args:
            name: Its name.
            trace_id: The id of the trace, unless there is a parent.
            span_id: Its own id.
            parent: The context whose span is the parent; ``None`` for none.
            at: When it begins.
            attributes: What is known of it.
            links: The spans that it is linked to.
        """
        tracer = self._resolved()
        if parent is None and self._ids is None:
            flags = trace.TraceFlags(trace.TraceFlags.SAMPLED)
            missing = trace.SpanContext(trace_id, span_id, is_remote=True, trace_flags=flags)
            parent = trace.set_span_in_context(trace.NonRecordingSpan(missing), Context())
        return self._start(
            tracer,
            name,
            Context() if parent is None else parent,
            at,
            attributes,
            trace.SpanKind.CONSUMER,
            links,
            (trace_id, span_id),
        )

    def start(
        self,
        name: str,
        parent: Context,
        at: datetime,
        attributes: Mapping[str, AttributeValue],
        *,
        span_id: int | None = None,
        kind: trace.SpanKind = trace.SpanKind.INTERNAL,
        links: Sequence[trace.Link] = (),
    ) -> trace.Span:
        """Start a span below another one.

        Args:
            name: Its name.
            parent: The context whose span is the parent.
            at: When it begins.
            attributes: What is known of it.
            span_id: Its id; ``None`` for a random one.
            kind: Its kind.
            links: The spans that it is linked to.
        """
        return self._start(self._resolved(), name, parent, at, attributes, kind, links, (None, span_id))

    def _start(
        self,
        tracer: trace.Tracer,
        name: str,
        parent: Context,
        at: datetime,
        attributes: Mapping[str, AttributeValue],
        kind: trace.SpanKind,
        links: Sequence[trace.Link],
        ids: tuple[int | None, int | None],
    ) -> trace.Span:
        if self._ids is not None:
            self._ids.give(*ids)
        try:
            return tracer.start_span(name, parent, kind, attributes, links, nanoseconds(at))
        finally:
            if self._ids is not None:
                self._ids.give(None, None)
