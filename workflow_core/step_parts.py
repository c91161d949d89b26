"""What the run of a step is made of: how it is described to plugins, what its errors become, who is told of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from workflow_core.clock import to_epoch_ms
from workflow_core.database.store import StepRecord
from workflow_core.errors import (
    PanicError,
    StepInterruptedError,
    UnstorableResultError,
    ValidationError,
    WorkflowError,
    error_text,
)
from workflow_core.events import (
    CircuitClosed,
    CircuitHalfOpened,
    CircuitOpened,
)
from workflow_core.failures import classes_of, error_name, record_error
from workflow_core.hookspecs import Attempt, AttemptHandler, StepDescription
from workflow_core.timeouts import cancelled_from_outside

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from workflow_core.circuit_breaker import CircuitState
    from workflow_core.database.store import ErrorRecord
    from workflow_core.events import Event
    from workflow_core.execution import Execution
    from workflow_core.step import ErrorHandler, StepBuilder

__tracebackhide__ = True  # pytest leaves the frames of this module out
__all__ = ["StepParts", "classes_handled"]


class StepParts:
    """What one run of a step knows."""

    __slots__ = ("_in_body", "_recorded", "builder", "execution", "record", "retry")

    def __init__(self, execution: Execution, builder: StepBuilder[Any], record: StepRecord | None) -> None:
        self.execution = execution
        self.builder = builder
        self.retry = builder._retry or execution.retry_config
        self._in_body = False
        self._recorded: Exception | None = None
        if record is None:
            record = execution.steps[builder.step_id] = StepRecord(builder.step_id)
        self.record = record

    def leave_body(self) -> None:
        """Note that the step's own function does not run any more."""
        if self._in_body:
            self._in_body = False
            self.execution.bodies -= 1

    def end(self) -> None:
        """Note that the step has ended, and let go of its error, whose frames refer back to this run of it."""
        self.leave_body()
        self._recorded = None

    def _as_failure(self, raised: BaseException) -> Exception:
        """Return what a handler of this step raised, as an error that can be recorded.

        A cancellation of something that the handler awaited is such an error. One that is meant for this task goes on,
        and so does the failure of this execution's own store, which a nested step of it met.
        """
        if isinstance(raised, Exception):
            if self.execution.cannot_be_written(raised):
                raise raised
            return raised
        if cancelled_from_outside():
            raise raised
        failure = StepInterruptedError(
            f'{self.execution}: something that step "{self.record.step_id}" awaited was cancelled'
        )
        failure.__cause__ = raised
        return failure

    def _describe(self, attempt: int) -> Attempt:
        execution = self.execution
        return Attempt(
            execution.definition.name,
            execution.execution_id,
            self.record.step_id,
            attempt,
            execution.restart_attempt,
            self.builder._handler,
        )

    def _describe_step(self) -> StepDescription:
        execution, builder = self.execution, self.builder
        keys = (key if isinstance(key, str) else key.__name__ for key in builder._on_error)
        handlers = dict.fromkeys(f"on_error:{key}" for key in keys)
        if builder._catch is not None:
            handlers["catch"] = None
        if builder._on_open is not None:
            handlers["on_open"] = None
        return StepDescription(
            execution.definition.name,
            execution.execution_id,
            builder.step_id,
            tuple(handlers),
            builder._circuit is not None,
            self.retry.max_attempts,
            builder._timeout_ms,
        )

    def _announce(self, handler: str, error: Exception | None) -> None:
        if self.execution.extensions.announces_handlers:
            self.execution.extensions.announce_handler(self._describe(self.record.attempt), handler, error)

    def _wrapped(self, handler: str, error: Exception | None, call: AttemptHandler) -> AttemptHandler:
        extensions = self.execution.extensions
        if extensions.wraps_handlers:
            for wrap in extensions.handler_wrappers(self._describe(self.record.attempt), handler, error):
                call = wrap(call)
        return call

    def _encode(self, value: object) -> tuple[str | None, Any]:
        try:
            return self.execution.codec.encode(value, self.builder.result_name, self.builder._returns)
        except ValidationError as error:
            raise UnstorableResultError(str(error), error.errors) from None

    def _handlers_for(self, error: Exception) -> list[tuple[str, ErrorHandler]]:
        builder, found = self.builder, []
        chosen = _select(builder._on_error, error)
        if chosen is not None:
            found.append((f"on_error:{chosen[0]}", chosen[1]))
        if builder._catch is not None:
            found.append(("catch", builder._catch))
        return found

    def _as_final_error(self, error: Exception) -> Exception:
        """Return what the workflow's code sees of a step that failed for good."""
        execution, record = self.execution, self.record
        if execution.doom is error or isinstance(error, UnstorableResultError):
            return error
        indicator = execution.extensions.panic_indicator(error)
        if indicator is not None:
            if isinstance(error, PanicError):
                panic = error
            else:
                panic = PanicError(
                    f'{execution}: step "{record.step_id}" panicked on attempt {record.attempt} ({indicator}): '
                    f"{error_name(error)}: {error_text(error)}",
                    record.step_id,
                    record.attempt,
                    error,
                    indicator,
                )
                panic.__cause__ = error
            execution.doomed(panic)
            return panic
        failure = WorkflowError(
            f'{execution}: step "{record.step_id}" failed after {record.attempt} '
            f"attempt{'s' if record.attempt != 1 else ''}: {error_name(error)}: {error_text(error)}",
            record.step_id,
            record.attempt,
            error,
        )
        failure.__cause__ = error
        return failure

    def _entry(self, error: Exception, at: datetime) -> ErrorRecord:
        indicator = self.execution.extensions.panic_indicator(error)
        return record_error(error, self.record.attempt, to_epoch_ms(at), self.execution.codec, indicator)

    def _circuit_asked(self, circuit: tuple[CircuitState, CircuitState] | None, seq: int) -> list[tuple[Event, int]]:
        """Return the event of a change of the circuit; give its place in the history back if there was none."""
        if circuit is None:
            return []
        before, after = circuit
        if before.status == after.status:
            self.execution.release_seq(seq)
            return []
        return [(_circuit_event(self.record.step_id, after), seq)]

    async def _emit_all(self, events: list[tuple[Event, int]], at: datetime) -> None:
        if self.execution.watched:
            for event, seq in events:
                await self.execution.emit(event, seq, at)


def _circuit_event(step_id: str, state: CircuitState) -> Event:
    if state.status == "open":
        return CircuitOpened(step_id, state.failures)
    return CircuitHalfOpened(step_id) if state.status == "half_open" else CircuitClosed(step_id)


def _select(
    handlers: Mapping[type[BaseException] | str, ErrorHandler], error: BaseException
) -> tuple[str, ErrorHandler] | None:
    """Choose the handler for the most specific class of the error, by class or by class name, else the default."""
    for cls, name in classes_of(error, classes_handled(handlers)):
        if cls is not None and cls in handlers:
            return name, handlers[cls]
        if name in handlers:
            return name, handlers[name]
    return ("default", handlers["default"]) if "default" in handlers else None


def classes_handled(handlers: Mapping[type[BaseException] | str, ErrorHandler]) -> list[type[BaseException]]:
    """Return the error classes among the keys of ``on_error``."""
    return [key for key in handlers if isinstance(key, type)]
