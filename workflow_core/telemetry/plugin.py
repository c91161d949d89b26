"""The plugin: what the hooks tell becomes spans and metrics."""

from __future__ import annotations

import asyncio
import functools
import importlib.metadata
import logging
from typing import TYPE_CHECKING, Concatenate, Final, Literal, ParamSpec, TypeVar

from opentelemetry import context, trace

from workflow_core.events import (
    CircuitClosed,
    CircuitHalfOpened,
    CircuitOpened,
    Event,
    ExecutionCancelled,
    ExecutionCompleted,
    ExecutionFailed,
    ExecutionPanicked,
    ExecutionRecovered,
    ExecutionRestarted,
    ExecutionStarted,
    SleepCompleted,
    SleepStarted,
    StepCompleted,
    StepEvent,
    StepFailed,
    StepInterrupted,
    StepRetrying,
    StepSkipped,
    StepStarted,
)
from workflow_core.hookspecs import hookimpl
from workflow_core.telemetry.logs import TRACE_FIELDS, trace_fields
from workflow_core.telemetry.metrics import WorkflowMetrics
from workflow_core.telemetry.spans import ExecutionSpans, SpanOptions
from workflow_core.telemetry.tracer import SpanSource

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

    from workflow_core.hookspecs import Attempt, AttemptHandler, Leaving, Run

__all__ = ["OpenTelemetryPlugin"]

logger = logging.getLogger("workflow_core")

_P = ParamSpec("_P")
_R = TypeVar("_R")
_CIRCUIT_STATES: Final[dict[type[Event], str]] = {
    CircuitOpened: "open",
    CircuitHalfOpened: "half_open",
    CircuitClosed: "closed",
}


def _harmless(
    method: Callable[Concatenate[OpenTelemetryPlugin, _P], _R],
) -> Callable[Concatenate[OpenTelemetryPlugin, _P], _R | None]:
    """Let an error of a tracer or a meter be logged, once, and disturb neither the execution nor other plugins."""

    @functools.wraps(method)
    def guarded(self: OpenTelemetryPlugin, /, *args: _P.args, **kwargs: _P.kwargs) -> _R | None:
        try:
            return method(self, *args, **kwargs)
        except Exception:
            if not self._told:
                self._told = True
                logger.exception("OpenTelemetry failed; the executions go on, and further failures are not logged")
            return None

    return guarded


class _Tracked:
    """An execution that runs in this process."""

    __slots__ = ("began", "run", "spans")

    def __init__(self, run: Run, spans: ExecutionSpans) -> None:
        self.run = run
        self.spans = spans
        self.began: dict[str, datetime] = {}


class OpenTelemetryPlugin:
    """Traces executions, measures them, and puts the ids of spans into logs. Each engine needs one of its own.

    Args:
        tracer_provider: Where spans go; ``None`` for the global provider, also one that is set later.
        meter_provider: Where metrics go; ``None`` for the global provider, also one that is set later.
        caller: What becomes of the span that is current where an execution is started. ``"link"``: the execution has
            a trace of its own, and the two are linked both ways. ``"parent"``: the execution goes on with the caller's
            trace; processes that recover it cannot know that, and go on in the execution's own. ``"ignore"``: nothing.
        exception_messages: Record the messages and tracebacks of errors, with secrets masked, not their classes alone.
        step_name: Makes what spans and metrics call a step of its id, for ids that hold numbers without end:
            ``lambda step_id: step_id.partition("-")[0]``. Spans have the id itself as an attribute.
    """

    def __init__(
        self,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        *,
        caller: Literal["link", "parent", "ignore"] = "link",
        exception_messages: bool = True,
        step_name: Callable[[str], str] = str,
    ) -> None:
        if caller not in {"link", "parent", "ignore"}:
            raise ValueError(f'caller must be "link", "parent" or "ignore", not {caller!r}')
        version = importlib.metadata.version("pytest-workflow-core")
        self._source = SpanSource(tracer_provider, version)
        self._options = SpanOptions(caller, exception_messages, step_name)
        self._metrics = WorkflowMetrics(meter_provider, version, step_name)
        self._tracked: dict[tuple[str, str], _Tracked] = {}
        self._told = False
        logger.addFilter(TRACE_FIELDS)  # once, however often it is added

    # Runs ------------------------------------------------------------------------------------------------------------

    @hookimpl
    @_harmless
    def wrap_run(self, run: Run) -> Callable[[AttemptHandler], AttemptHandler] | None:
        """Begin the spans of a run, and make its span the current one for the handler."""
        key = run.workflow_name, run.execution_id
        before = self._tracked.get(key)
        if before is None:
            self._metrics.came(run.workflow_name)
        going_on = before.spans if before is not None and run.beginning == "restarted" else None
        spans = ExecutionSpans(self._source, self._options, run, going_on)
        self._tracked[key] = _Tracked(run, spans)
        if not trace.get_current_span(spans.context).get_span_context().is_valid:
            return None
        return lambda call: functools.partial(_within, call, spans.context)

    @hookimpl
    @_harmless
    def on_run_left(self, run: Run, leaving: Leaving) -> None:
        """End what this process alone can tell of, and leave the rest to the one that goes on."""
        tracked = self._tracked.pop((run.workflow_name, run.execution_id), None)
        if tracked is None:
            return
        self._metrics.went(run.workflow_name)
        if leaving == "cancelled":
            now = run.now()
            self._metrics.ended(run.workflow_name, "cancelled", None, now - run.started_at)
            tracked.spans.end_execution("cancelled", now)
        elif leaving == "released":
            tracked.spans.forget_sleeps()
            tracked.spans.end_steps("released", run.now())

    # Attempts and handlers -------------------------------------------------------------------------------------------

    @hookimpl
    @_harmless
    def wrap_attempt(self, attempt: Attempt) -> Callable[[AttemptHandler], AttemptHandler] | None:
        """Make the attempt's span the current one for the step's function."""
        tracked = self._tracked.get((attempt.workflow_name, attempt.execution_id))
        span = None if tracked is None else tracked.spans.attempt_span(attempt.step_id)
        if tracked is None or span is None:
            return None
        spans, now = tracked.spans, tracked.run.now

        def wrap(call: AttemptHandler) -> AttemptHandler:
            async def observed() -> object:
                try:
                    return await _within(call, trace.set_span_in_context(span))
                except (Exception, asyncio.CancelledError) as error:
                    cancelled = isinstance(error, asyncio.CancelledError)
                    spans.attempt_raised(attempt.step_id, error, now() if cancelled else None)
                    raise

            return observed

        return wrap

    @hookimpl
    @_harmless
    def wrap_handler(self, attempt: Attempt, handler: str) -> Callable[[AttemptHandler], AttemptHandler] | None:
        """Put a span around a handler of a step."""
        tracked = self._tracked.get((attempt.workflow_name, attempt.execution_id))
        if tracked is None or not tracked.spans.recording:
            return None
        spans, now = tracked.spans, tracked.run.now
        span = spans.handler_started(attempt.step_id, attempt.attempt, handler, now())

        def wrap(call: AttemptHandler) -> AttemptHandler:
            async def observed() -> object:
                try:
                    value = await _within(call, trace.set_span_in_context(span))
                except (Exception, asyncio.CancelledError) as error:
                    self._handler_ended(spans, span, now(), error)
                    raise
                self._handler_ended(spans, span, now(), None)
                return value

            return observed

        return wrap

    @_harmless
    def _handler_ended(
        self, spans: ExecutionSpans, span: trace.Span, at: datetime, error: BaseException | None
    ) -> None:
        spans.handler_ended(span, at, error)

    @hookimpl
    @_harmless
    def log_fields(self) -> dict[str, str]:
        """Name the current span in what is logged."""
        return trace_fields()

    # Events ----------------------------------------------------------------------------------------------------------

    @hookimpl
    @_harmless
    def on_event(self, event: Event) -> None:
        """Begin and end spans, and count."""
        tracked = self._tracked.get((event.workflow_name, event.execution_id))
        if tracked is None:
            return
        if isinstance(event, StepEvent):
            self._of_step(tracked, event)
        else:
            self._of_execution(tracked, event)

    def _of_step(self, tracked: _Tracked, event: StepEvent) -> None:
        name, step_id, at, spans = event.workflow_name, event.step_id, event.at, tracked.spans
        if isinstance(event, StepStarted):
            tracked.began[step_id] = at
            if spans.recording:
                spans.attempt_started(step_id, event.attempt, at)
        elif isinstance(event, StepCompleted):
            began = tracked.began.pop(step_id, None)
            if event.handled_by is None:
                self._metrics.attempt(name, step_id, "completed", None, None if began is None else at - began)
                spans.attempt_completed(step_id, at)
        elif isinstance(event, StepFailed):
            began = tracked.began.pop(step_id, None)
            self._metrics.attempt(name, step_id, "failed", event.error, None if began is None else at - began)
            spans.attempt_failed(step_id, at, event.error, event.message)
        else:
            self._of_step_rarely(tracked, event)

    def _of_step_rarely(self, tracked: _Tracked, event: StepEvent) -> None:
        name, step_id, at, spans = event.workflow_name, event.step_id, event.at, tracked.spans
        state = _CIRCUIT_STATES.get(type(event))
        if state is not None:
            self._metrics.circuit_changed(name, step_id, state)
            spans.circuit_changed(step_id, state, at)
        elif isinstance(event, StepRetrying):
            self._metrics.retried(name, step_id)
            if spans.recording:
                spans.backoff_started(step_id, at, event.backoff_ms)
        elif isinstance(event, StepSkipped):
            self._metrics.attempt(name, step_id, "skipped")
            spans.skipped(step_id, at)
        elif isinstance(event, StepInterrupted):
            self._metrics.attempt(name, step_id, "interrupted")
        elif isinstance(event, SleepStarted) and spans.recording:
            spans.sleep_started(step_id, at, event.duration_ms)
        elif isinstance(event, SleepCompleted):
            spans.sleep_completed(step_id, at)

    def _of_execution(self, tracked: _Tracked, event: Event) -> None:
        name, spans = event.workflow_name, tracked.spans
        if isinstance(event, ExecutionStarted):
            self._metrics.started(name)
        elif isinstance(event, ExecutionRecovered):
            self._metrics.recovered(name)
        elif isinstance(event, ExecutionRestarted):
            self._metrics.restarted(name)
        elif isinstance(event, ExecutionPanicked):
            self._metrics.panicked(name, event.error)
            spans.panicked(event.at, event.indicator, event.error, event.message)
            if event.restart_delay_ms is None:
                self._forget(event)
        elif isinstance(event, ExecutionCompleted):
            self._ended(tracked, event, "completed")
        elif isinstance(event, ExecutionFailed):
            self._ended(tracked, event, "failed", event.error, event.message)
        elif isinstance(event, ExecutionCancelled):
            self._ended(tracked, event, "cancelled")

    def _ended(self, tracked: _Tracked, event: Event, status: str, error: str | None = None, message: str = "") -> None:
        self._forget(event)
        self._metrics.ended(event.workflow_name, status, error, event.at - tracked.run.started_at)
        tracked.spans.end_execution(status, event.at, error, message)

    def _forget(self, event: Event) -> None:
        del self._tracked[event.workflow_name, event.execution_id]
        self._metrics.went(event.workflow_name)


async def _within(call: AttemptHandler, inner: context.Context) -> object:
    """Call something with its own OpenTelemetry context."""
    token = context.attach(inner)
    try:
        value = await call()
    except GeneratorExit:
        raise  # the coroutine is closed from elsewhere, in another context, and its own ends with it
    except BaseException:
        context.detach(token)
        raise
    context.detach(token)
    return value
