"""The spans of one execution in this process.

    execution order                 start to end; ended by the process that sees the execution end
    └── run order                   a run of the handler; ended by the process that sees it complete, fail or panic
        ├── step charge             an attempt: failed
        ├── back-off charge
        ├── step charge             an attempt: completed
        ├── recover order           another process has taken over; no time of its own
        └── sleep settle

A span is exported when it ends, so one whose process died is never seen. What must not be missing has an id that
every process derives for itself: the process that ends an execution ends its span, whoever began it, and the process
that takes an execution over tells of the attempts that were cut off. So nothing about spans is stored.
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING

from opentelemetry import context, trace
from opentelemetry.trace.status import Status, StatusCode

from workflow_core.errors import error_text, printable
from workflow_core.secrets import REDACTION
from workflow_core.telemetry.attributes import (
    BACKOFF_DURATION,
    CIRCUIT_STATE,
    ERROR_TYPE,
    EXECUTION_ID,
    EXECUTION_STATUS,
    HANDLER,
    PANIC_INDICATOR,
    RUN_ATTEMPT,
    RUN_OUTCOME,
    SLEEP_DURATION,
    STEP_ATTEMPT,
    STEP_ID,
    STEP_OUTCOME,
    WORKFLOW_NAME,
)
from workflow_core.telemetry.identity import derived_span_id, derived_trace_id, nanoseconds

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from typing import Literal

    from opentelemetry.util.types import AttributeValue

    from workflow_core.hookspecs import Run
    from workflow_core.telemetry.tracer import SpanSource

__all__ = ["ExecutionSpans", "SpanOptions"]

_LONGEST_STACKTRACE = 16_384


@dataclass(frozen=True, slots=True)
class SpanOptions:
    """What can be chosen about spans.

    Attributes:
        caller: What becomes of the span that is current where an execution is started.
        exception_messages: Whether the messages of errors, and tracebacks, are recorded.
        step_name: Makes the name of a step's spans of its id.
    """

    caller: Literal["link", "parent", "ignore"]
    exception_messages: bool
    step_name: Callable[[str], str]


class _Attempt:
    """The span of an attempt under way."""

    __slots__ = ("cancelled_at", "error", "span")

    def __init__(self, span: trace.Span) -> None:
        self.span = span
        self.error: BaseException | None = None
        self.cancelled_at: datetime | None = None


class ExecutionSpans:
    """The spans of an execution that runs in this process, from the beginning of a run on.

    Args:
        source: Starts spans.
        options: What was chosen.
        run: The run.
        before: The spans of the run before, if it was in this process.
    """

    def __init__(self, source: SpanSource, options: SpanOptions, run: Run, before: ExecutionSpans | None) -> None:
        self._source = source
        self._options = options
        self._run = run
        self._trace_id = derived_trace_id(run)
        self._attempts: dict[str, _Attempt] = {}
        self._waits: dict[str, trace.Span] = {}
        self._marks: dict[str, AttributeValue] = {WORKFLOW_NAME: run.workflow_name, EXECUTION_ID: run.execution_id}
        self._execution: trace.Span = self._execution_span() if before is None else before._execution
        self.recording = self._execution.is_recording()
        self._of_run: trace.Span | None = None
        self.context = trace.set_span_in_context(self._execution)
        if self.recording and not run.is_over:
            self._begin_run()

    # The execution, and the run --------------------------------------------------------------------------------------

    def _execution_span(self) -> trace.Span:
        run, caller = self._run, trace.get_current_span().get_span_context()
        span_id = derived_span_id(self._trace_id, "execution")
        called = run.beginning == "started" and caller.is_valid and self._options.caller != "ignore"
        span = self._source.start_root(
            f"execution {run.workflow_name}",
            self._trace_id,
            span_id,
            context.get_current() if called and self._options.caller == "parent" else None,
            run.started_at,
            self._marks,
            [trace.Link(caller)] if called and self._options.caller == "link" else [],
        )
        if called and self._options.caller == "link" and span.get_span_context().is_valid:
            self._source.start(
                f"start {run.workflow_name}",
                context.get_current(),
                run.started_at,
                self._marks,
                kind=trace.SpanKind.PRODUCER,
                links=[trace.Link(span.get_span_context())],
            ).end(nanoseconds(run.started_at))
        return span

    def _begin_run(self) -> None:
        run = self._run
        self._of_run = self._source.start(
            f"run {run.workflow_name}",
            self.context,
            run.began_at,
            {**self._marks, RUN_ATTEMPT: run.restart_attempt},
            span_id=derived_span_id(self._trace_id, "run", run.restart_attempt),
        )
        self.context = trace.set_span_in_context(self._of_run)
        recovered = run.beginning == "recovered"
        for step in run.unfinished:
            if step.kind == "sleep":  # the run before a restart had its own part of it
                self.sleep_started(step.step_id, step.began_at if recovered else run.began_at, None)
        if recovered:
            self._recovered()

    def _recovered(self) -> None:
        """Tell that this process has taken over, and what was cut off when the one before it ended."""
        now = self._run.now()
        for step in self._run.unfinished:
            if step.kind == "sleep":
                continue
            self.attempt_started(step.step_id, step.attempt, step.began_at, self.context)
            cut_off = self._attempts.pop(step.step_id)
            cut_off.span.set_status(Status(StatusCode.ERROR, "the process ended during the attempt"))
            self._end_attempt(cut_off, "interrupted", now)
        self._source.start(f"recover {self._run.workflow_name}", self.context, now, self._marks).end(nanoseconds(now))

    def end_run(self, outcome: str, at: datetime, error: str | None = None, message: str = "") -> None:
        """End what is under way, and the run.

        Args:
            outcome: ``completed``, ``failed``, ``panicked`` or ``cancelled``.
            at: When.
            error: Class name of the error that ended it.
            message: Its text.
        """
        self.end_steps("cancelled", at)
        run, self._of_run = self._of_run, None
        if run is not None:
            run.set_attribute(RUN_OUTCOME, outcome)
            if error is not None:
                self._mark_failed(run, error, message)
            run.end(nanoseconds(at))

    def end_steps(self, outcome: str, at: datetime) -> None:
        """End the attempts and the waits that are under way."""
        for attempt in self._attempts.values():
            self._end_attempt(attempt, outcome, attempt.cancelled_at or at)
        for span in self._waits.values():
            span.end(nanoseconds(at))
        self._attempts, self._waits = {}, {}

    def forget_sleeps(self) -> None:
        """Leave the sleeps to the process that will see their end."""
        self._waits = {key: span for key, span in self._waits.items() if not key.startswith("sleep ")}

    def end_execution(self, status: str, at: datetime, error: str | None = None, message: str = "") -> None:
        """End the execution, and what of it is under way; an execution that had failed before has its span already."""
        self.end_run(status, at, error, message)
        if self._run.has_failed:
            return
        self._execution.set_attribute(EXECUTION_STATUS, status)
        if error is not None:
            self._mark_failed(self._execution, error, message)
        self._execution.end(nanoseconds(at))

    def panicked(self, at: datetime, indicator: str | None, error: str, message: str) -> None:
        """Tell of a panic, and end the run by it."""
        if self._of_run is not None:
            self._of_run.add_event("workflow.panic", {PANIC_INDICATOR: indicator or "unknown"}, nanoseconds(at))
        self.end_run("panicked", at, error, message)

    def _mark_failed(self, span: trace.Span, error: str, message: str) -> None:
        span.set_attribute(ERROR_TYPE, error)
        span.set_status(Status(StatusCode.ERROR, printable(message) if self._options.exception_messages else error))

    # Steps -----------------------------------------------------------------------------------------------------------

    def attempt_started(self, step_id: str, attempt: int, at: datetime, parent: context.Context | None = None) -> None:
        """Begin the span of an attempt, and end the back-off before it."""
        self._end_wait(f"back-off {step_id}", at)
        span = self._source.start(
            f"step {self._options.step_name(step_id)}",
            self._here() if parent is None else parent,
            at,
            {**self._marks, STEP_ID: step_id, STEP_ATTEMPT: attempt, RUN_ATTEMPT: self._run.restart_attempt},
            span_id=derived_span_id(self._trace_id, "step", step_id, attempt, nanoseconds(at)),
        )
        self._attempts[step_id] = _Attempt(span)

    def _here(self) -> context.Context:
        """Return the context of what runs in this task, if it is this trace: user code may have spans of its own."""
        current = trace.get_current_span().get_span_context()
        return (
            context.get_current() if current.trace_id == self._execution.get_span_context().trace_id else self.context
        )

    def attempt_span(self, step_id: str) -> trace.Span | None:
        """Return the span of the attempt that runs."""
        attempt = self._attempts.get(step_id)
        return None if attempt is None else attempt.span

    def attempt_raised(self, step_id: str, error: BaseException, at: datetime | None) -> None:
        """Note what left an attempt's function; what it means is told later.

        Args:
            step_id: The step.
            error: What was raised.
            at: When it was cancelled, if it was.
        """
        attempt = self._attempts.get(step_id)
        if attempt is not None:
            attempt.error, attempt.cancelled_at = error, at

    def attempt_completed(self, step_id: str, at: datetime) -> None:
        """End the span of an attempt that brought the result."""
        attempt = self._attempts.pop(step_id, None)
        if attempt is not None:
            self._end_attempt(attempt, "completed", at)

    def attempt_failed(self, step_id: str, at: datetime, error: str, message: str) -> None:
        """End the span of an attempt that failed."""
        attempt = self._attempts.pop(step_id, None)
        if attempt is None:
            return
        self._record_exception(attempt, error, message, at)
        self._mark_failed(attempt.span, error, message)
        self._end_attempt(attempt, "failed", at)

    def _record_exception(self, attempt: _Attempt, error: str, message: str, at: datetime) -> None:
        recorded: dict[str, AttributeValue] = {"exception.type": error}
        if self._options.exception_messages:
            recorded["exception.message"] = printable(message)  # a lone surrogate would cost the exporter its batch
            if attempt.error is not None and attempt.cancelled_at is None:
                text = REDACTION.redact("".join(traceback.format_exception(attempt.error)))
                recorded["exception.stacktrace"] = printable(text)[-_LONGEST_STACKTRACE:]
        attempt.span.add_event("exception", recorded, nanoseconds(at))

    @staticmethod
    def _end_attempt(attempt: _Attempt, outcome: str, at: datetime) -> None:
        attempt.span.set_attribute(STEP_OUTCOME, outcome)
        attempt.span.end(nanoseconds(at))

    def handler_started(self, step_id: str, attempt: int, handler: str, at: datetime) -> trace.Span:
        """Begin the span of a step's handler."""
        marks = {**self._marks, STEP_ID: step_id, STEP_ATTEMPT: attempt, HANDLER: handler}
        return self._source.start(f"{handler} {self._options.step_name(step_id)}", self._here(), at, marks)

    def handler_ended(self, span: trace.Span, at: datetime, error: BaseException | None) -> None:
        """End the span of a step's handler."""
        if error is not None:
            self._mark_failed(span, type(error).__name__, REDACTION.redact(error_text(error)))
        span.end(nanoseconds(at))

    # Waits, and what takes no time -----------------------------------------------------------------------------------

    def sleep_started(self, step_id: str, at: datetime, duration_ms: int | None) -> None:
        """Begin the span of a sleep."""
        marks = {**self._marks, STEP_ID: step_id}
        if duration_ms is not None:
            marks[SLEEP_DURATION] = duration_ms / 1_000
        name = f"sleep {self._options.step_name(step_id)}"
        self._waits[f"sleep {step_id}"] = self._source.start(name, self._here(), at, marks)

    def sleep_completed(self, step_id: str, at: datetime) -> None:
        """End the span of a sleep."""
        self._end_wait(f"sleep {step_id}", at)

    def backoff_started(self, step_id: str, at: datetime, backoff_ms: int) -> None:
        """Begin the span of the wait before another attempt, if there is anything to wait for."""
        if backoff_ms:
            marks = {**self._marks, STEP_ID: step_id, BACKOFF_DURATION: backoff_ms / 1_000}
            name = f"back-off {self._options.step_name(step_id)}"
            self._waits[f"back-off {step_id}"] = self._source.start(name, self._here(), at, marks)

    def _end_wait(self, key: str, at: datetime) -> None:
        span = self._waits.pop(key, None)
        if span is not None:
            span.end(nanoseconds(at))

    def circuit_changed(self, step_id: str, state: str, at: datetime) -> None:
        """Tell of a change of a step's circuit."""
        self._tell("workflow.circuit", {STEP_ID: step_id, CIRCUIT_STATE: state}, at)

    def skipped(self, step_id: str, at: datetime) -> None:
        """Tell of a step that was skipped."""
        self._tell("workflow.step.skipped", {STEP_ID: step_id}, at)

    def _tell(self, name: str, attributes: dict[str, AttributeValue], at: datetime) -> None:
        if self._of_run is not None:
            self._of_run.add_event(name, attributes, nanoseconds(at))
