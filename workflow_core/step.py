"""Running one step of an execution: attempts, handlers, retries and what is recorded of them."""

from __future__ import annotations

import asyncio
import functools
import sys
from collections.abc import Callable, Generator, Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

from workflow_core import circuit_breaker
from workflow_core.clock import to_epoch_ms
from workflow_core.database.cancellation import late_cancellations, meet_late_cancellation
from workflow_core.database.store import CircuitChange, StepRecord
from workflow_core.definition import configured
from workflow_core.errors import (
    CircuitOpenError,
    PanicError,
    StepConflictError,
    StepInterruptedError,
    StepTimeoutError,
    UnstorableResultError,
    ValidationError,
    WorkflowError,
    error_text,
    shown,
)
from workflow_core.events import (
    CircuitClosed,
    CircuitHalfOpened,
    CircuitOpened,
    StepCompleted,
    StepFailed,
    StepInterrupted,
    StepRetrying,
    StepSkipped,
    StepStarted,
)
from workflow_core.failures import classes_of, error_name, rebuild_error, record_error
from workflow_core.hookspecs import Attempt, AttemptHandler, StepDescription
from workflow_core.models import CircuitBreakerConfig, RetryConfig
from workflow_core.retry import is_retryable, wait_ms
from workflow_core.serialization import ReturnType
from workflow_core.signatures import takes
from workflow_core.timeouts import Timeout, cancelled_from_outside, validate_timeout

if TYPE_CHECKING:
    from datetime import datetime
    from types import FrameType

    from workflow_core.circuit_breaker import CircuitState
    from workflow_core.context import WorkflowContext
    from workflow_core.database.store import ErrorRecord
    from workflow_core.events import Event
    from workflow_core.execution import Execution

__tracebackhide__ = True  # pytest leaves the frames of this module out
__all__ = ["StepBuilder", "ErrorHandler", "OpenHandler", "validate_step_id"]

ResultT = TypeVar("ResultT")

ErrorHandler: TypeAlias = Callable[[Any, "WorkflowContext[Any]"], object]
"""Takes the error and the context; returns the step's value, or an awaitable of it, or raises."""

OpenHandler: TypeAlias = Callable[["WorkflowContext[Any]"], object]
"""Takes the context; returns the value of a step whose circuit is open, or an awaitable of it."""

_LONGEST_STEP_ID = 255


def validate_step_id(step_id: object) -> str:
    """Return what names a step, as a plain string.

    Raises:
        ValidationError: It is not a string of 1 to 255 printable characters.
    """
    if not isinstance(step_id, str):
        raise ValidationError(f"A step id must be a non-empty string, not {shown(step_id)}")
    plain = str.__str__(step_id)
    if not plain.strip():
        raise ValidationError(f"A step id must be a non-empty string, not {shown(plain)}")
    if len(plain) > _LONGEST_STEP_ID or not plain.isprintable():
        raise ValidationError(
            f"A step id must be at most {_LONGEST_STEP_ID} printable characters; this one is {shown(plain, 60)}"
        )
    return plain


class StepBuilder(Generic[ResultT]):
    """A step with its handlers; await it, or await ``execute()``, to run it."""

    __slots__ = (
        "_catch",
        "_circuit",
        "_execution",
        "_handler",
        "_on_error",
        "_on_open",
        "_retry",
        "_returns",
        "_timeout_ms",
        "step_id",
    )

    def __init__(
        self,
        execution: Execution,
        step_id: str,
        handler: Callable[[], object],
        *,
        returns: object = None,
        timeout_ms: float | None = None,
    ) -> None:
        step_id = validate_step_id(step_id)
        if not callable(handler):
            raise ValidationError(
                f'Step "{step_id}": the handler must be a function without arguments, not {shown(handler)}'
            )
        if timeout_ms is not None:
            validate_timeout(f'Step "{step_id}"', timeout_ms)
        if execution.codec.secrets.known:
            execution.codec.refuse_secrets(step_id, "the id of a step")
        self.step_id = step_id
        self._execution = execution
        self._handler = handler
        self._returns = ReturnType(handler, returns)
        self._timeout_ms = timeout_ms
        self._retry: RetryConfig | None = None
        self._circuit: CircuitBreakerConfig | None = None
        self._on_open: OpenHandler | None = None
        self._on_error: dict[type[BaseException] | str, ErrorHandler] = {}
        self._catch: ErrorHandler | None = None
        execution.not_begun[self] = _place_of(sys._getframe(2)) if execution.locates_steps else ""

    def __repr__(self) -> str:
        return f'<step "{self.step_id}" of {self._execution}; await it to run it>'

    def on_error(self, handlers: Mapping[Any, ErrorHandler]) -> StepBuilder[ResultT]:
        """Handle errors by their class.

        Args:
            handlers: Handlers by error class, by class name, or ``"default"``. The entry for the most specific class of
                the error is called with the error and the context. What it returns completes the step; what it raises
                passes on.

        Raises:
            ValidationError: A key is neither an error class nor a string, or a value is no function of two arguments.
        """
        if not isinstance(handlers, Mapping):
            raise ValidationError(f'Step "{self.step_id}": on_error takes a dictionary, not {shown(handlers)}')
        for key, handler in dict(handlers).items():
            if not (isinstance(key, str) or (isinstance(key, type) and issubclass(key, BaseException))):
                raise ValidationError(
                    f'Step "{self.step_id}": on_error takes error classes, class names and "default", not {shown(key)}'
                )
            if not callable(handler):
                raise ValidationError(f'Step "{self.step_id}": the on_error handler for {shown(key)} is not callable')
            self._check_arguments(f"on_error handler for {key!r}", handler, "error", "context")
            self._on_error[key] = handler
        return self

    def catch(self, handler: ErrorHandler) -> StepBuilder[ResultT]:
        """Handle every error that ``on_error`` did not.

        Args:
            handler: Called with the error and the context, like those of ``on_error``.

        Raises:
            ValidationError: It is no function of two arguments.
        """
        if not callable(handler):
            raise ValidationError(f'Step "{self.step_id}": the catch handler is not callable')
        self._check_arguments("catch handler", handler, "error", "context")
        self._catch = handler
        return self

    def with_circuit_breaker(
        self, failure_threshold: int, reset_timeout_ms: int = 60_000, on_open: OpenHandler | None = None
    ) -> StepBuilder[ResultT]:
        """Stop calling a service that fails; the count is shared by all executions of the workflow.

        Args:
            failure_threshold: Consecutive failures that open the circuit.
            reset_timeout_ms: Time until an open circuit lets one probe through, in milliseconds.
            on_open: Called with the context while the circuit is open; the step is then skipped with what it returns.
                Without it the step meets a `CircuitOpenError`.

        Raises:
            ValidationError: A number is out of range, or ``on_open`` is no function of one argument.
        """
        if on_open is not None:
            if not callable(on_open):
                raise ValidationError(f'Step "{self.step_id}": on_open is not callable')
            self._check_arguments("on_open handler", on_open, "context")
        self._circuit = CircuitBreakerConfig(failure_threshold=failure_threshold, reset_timeout_ms=reset_timeout_ms)
        self._on_open = on_open
        return self

    def with_retry(self, config: RetryConfig | None = None, /, **changes: Any) -> StepBuilder[ResultT]:  # noqa: ANN401
        """Retry this step differently from the rest of the execution.

        Args:
            config: The whole configuration; without it the execution's is taken.
            **changes: Fields of `RetryConfig` to change, such as ``max_attempts=5``.

        Raises:
            ValidationError: It is no configuration, or a value is out of range.
        """
        base = self._execution.retry_config if config is None else configured(RetryConfig, config)
        self._retry = RetryConfig(**{**base.model_dump(), **changes}) if changes else base
        return self

    def result_name(self) -> str:
        """Name the step's result, for error messages."""
        return f'the result of step "{self.step_id}" ({self._execution})'

    def _check_arguments(self, what: str, handler: Callable[..., object], *arguments: str) -> None:
        if not takes(handler, len(arguments)):
            raise ValidationError(
                f'Step "{self.step_id}": the {what} is called with the {" and the ".join(arguments)}; {handler!r} '
                "cannot be called like that"
            )

    async def execute(self) -> ResultT:
        """Run the step, or return its stored result if it is completed.

        Raises:
            WorkflowError: The attempts are used up.
            PanicError: The step panicked.
            StepConflictError: The same step runs already, in another task.
        """
        execution = self._execution
        execution.not_begun.pop(self, None)
        execution.check_alive()
        record = execution.steps.get(self.step_id)
        if record is not None:
            if record.kind != "step":
                raise StepConflictError(
                    f'{execution}: "{self.step_id}" is the id of a sleep already; give the step another id'
                )
            if record.status in {"completed", "skipped"}:
                value: ResultT = execution.codec.decode(record.result_data, self._returns, self.result_name)
                return value
        execution.begin_activity(self.step_id)
        run = _StepRun(execution, self, record)
        try:
            result: ResultT = await execution.show(self.step_id, run.run())
        except Exception:
            if late_cancellations:
                await meet_late_cancellation()
            raise
        else:
            if late_cancellations:
                await meet_late_cancellation()
            return result
        finally:
            run.leave_body()
            execution.end_activity(self.step_id)

    def __await__(self) -> Generator[Any, None, ResultT]:
        """Run the step: the same as ``execute()``."""
        return self.execute().__await__()


def _place_of(frame: FrameType) -> str:
    return f" (made at {frame.f_code.co_filename}:{frame.f_lineno})"


class _StepRun:
    """The attempts of one step."""

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

    async def run(self) -> Any:  # noqa: ANN401 - the step's result
        """Go on from whatever is recorded until there is a result or an error."""
        record = self.record
        if self.execution.extensions.announces_steps:
            self.execution.extensions.announce_step(self._describe_step())
        if record.status == "failed":
            raise self._as_final_error(await self._recorded_error())
        if record.status == "running" or record.error_message is not None:
            done, value = await self._continue_interrupted()
            if done:
                return value
        while True:
            if record.status == "retrying" and record.next_attempt_at is not None:
                await self.execution.wait_until(record.next_attempt_at, f'back-off of step "{record.step_id}"')
            done, value = await self._attempt()
            if done:
                return value

    # Going on after a crash ------------------------------------------------------------------------------------------

    async def _continue_interrupted(self) -> tuple[bool, Any]:
        record = self.record
        if record.status == "pending":
            return (await self._skip()) if self.builder._on_open is not None else (False, None)
        if record.status == "retrying":
            return False, None
        if record.error_message is not None:
            self._recorded = await self._recorded_error()
            return await self._handle(self._recorded)
        if record.attempt >= self.retry.max_attempts:
            error = StepInterruptedError(
                f'{self.execution}: the process ended during attempt {record.attempt} of step "{record.step_id}", and '
                f"{self.retry.max_attempts} attempts are all there are"
            )
            return await self._failed(error, counts=False)
        return False, None

    async def _recorded_error(self) -> Exception:
        builder, execution = self.builder, self.execution
        rows = await execution.store.load_errors(execution.definition.name, execution.execution_id, self.record.step_id)
        if not rows:
            return WorkflowError(self.record.error_message or "unknown error", self.record.step_id, self.record.attempt)
        return rebuild_error(rows[-1][1], self.record.step_id, _classes(builder._on_error), execution.codec)

    # One attempt -----------------------------------------------------------------------------------------------------

    async def _attempt(self) -> tuple[bool, Any]:
        execution, builder, record = self.execution, self.builder, self.record
        attempt = record.attempt + 1
        refused = builder._circuit is not None and not await self._admitted(builder._circuit, attempt)
        if refused and builder._on_open is not None:
            await execution.store.step_refused(execution.lease, record, attempt, execution.now())
            record.attempt, record.status, record.stored = attempt, "pending", True
            record.error_message = "the circuit is open"
            return await self._skip()
        await self._start(attempt)
        if refused:
            return await self._failed(
                CircuitOpenError(
                    f'{execution}: the circuit of step "{record.step_id}" is open; give the step an on_open handler, '
                    "or wait for its reset time-out"
                ),
                counts=False,
            )
        try:
            value = await self._call_handler(attempt)
            text, value = self._encode(value)
        except (Exception, asyncio.CancelledError) as raised:  # noqa: BLE001 - a step may fail with anything
            return await self._failed(self._as_failure(raised), counts=True)
        await self._complete(text, None)
        return True, value

    async def _start(self, attempt: int) -> None:
        execution, record = self.execution, self.record
        cut_off = record.stored and record.status == "running" and record.started_seq is not None
        seq = execution.next_seq()
        earlier_attempt, earlier_seq = record.attempt, seq
        at = execution.now()
        execution.bodies += 1
        self._in_body = True
        status = execution.status_change()
        started_seq = execution.next_seq() if cut_off else seq
        await execution.store.step_started(execution.lease, record, attempt, seq, at, status)
        execution.status_changed(status)
        record.stored, record.status, record.attempt = True, "running", attempt
        record.started_at, record.started_seq = at, started_seq
        record.error_message = record.next_attempt_at = None
        if cut_off and execution.watched:
            await execution.emit(StepInterrupted(record.step_id, earlier_attempt), earlier_seq, at)
        if execution.observed:
            await execution.emit(StepStarted(record.step_id, attempt), started_seq, at)
        elif execution.step_log is not None:
            name, execution_id = execution.workflow_name, execution.execution_id
            execution.step_log.step((name, at, execution_id, started_seq, "StepStarted", record.step_id, attempt))

    def leave_body(self) -> None:
        """Note that the step's own function does not run any more."""
        if self._in_body:
            self._in_body = False
            self.execution.bodies -= 1

    async def _call_handler(self, attempt: int) -> object:
        execution, builder = self.execution, self.builder
        call: AttemptHandler = functools.partial(execution.engine.invoke, builder._handler)
        if execution.extensions.wraps_attempts:
            for wrap in execution.extensions.attempt_wrappers(self._describe(attempt)):
                call = wrap(call)
        with execution.frame(attempt, builder.step_id):
            if builder._timeout_ms is None:
                return await call()
            timeout = Timeout(execution.engine.clock, builder._timeout_ms)
            try:
                async with timeout:
                    return await call()
            except TimeoutError as error:
                if not timeout.expired:
                    raise
                raise StepTimeoutError(
                    f'{execution}: attempt {attempt} of step "{builder.step_id}" took longer than its timeout_ms of '
                    f"{builder._timeout_ms} ms"
                ) from error

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

    # What becomes of an attempt --------------------------------------------------------------------------------------

    async def _complete(self, text: str | None, handled_by: str | None) -> None:
        execution, record = self.execution, self.record
        self.leave_body()
        seq, at = execution.next_seq(), execution.now()
        change = None
        if self.builder._circuit is not None and handled_by is None:
            execution_id = execution.execution_id
            change = CircuitChange(
                lambda state: circuit_breaker.after_success(state, execution_id), execution.next_seq()
            )
        status = execution.status_change()
        circuit = await execution.store.step_completed(
            execution.lease, record, text, handled_by, seq, at, status, change
        )
        execution.status_changed(status)
        record.status, record.result_data, record.handled_by = "completed", text, handled_by
        record.completed_at, record.completed_seq, record.error_message = at, seq, None
        execution.last_errors.pop(record.step_id, None)
        changed = self._circuit_asked(circuit, change)
        if execution.observed or handled_by is not None:
            await self._emit_all([(StepCompleted(record.step_id, record.attempt, handled_by), seq)], at)
        elif execution.step_log is not None:
            name, attempt = execution.workflow_name, record.attempt
            execution.step_log.step((name, at, execution.execution_id, seq, "StepCompleted", record.step_id, attempt))
        if changed:
            await self._emit_all(changed, at)

    async def _failed(self, error: Exception, *, counts: bool) -> tuple[bool, Any]:
        """Record a failed attempt, then see what the handlers make of it."""
        execution, record, config = self.execution, self.record, self.builder._circuit
        if isinstance(error, PanicError) and error is execution.doom:
            raise error
        self.leave_body()
        seq, at = execution.next_seq(), execution.now()
        change = None
        if config is not None and counts:
            execution_id, now_ms = execution.execution_id, to_epoch_ms(at)
            change = CircuitChange(
                lambda state: circuit_breaker.after_failure(state, config, execution_id, now_ms), execution.next_seq()
            )
        entry = self._entry(error, at)
        status = execution.status_change()
        circuit = await execution.store.step_attempt_failed(execution.lease, record, entry, seq, at, status, change)
        execution.status_changed(status)
        record.status, record.error_message, record.started_seq = "running", entry.error_message, None
        self._recorded = error
        execution.note_error(record.step_id, entry)
        changed = self._circuit_asked(circuit, change)
        failed = StepFailed(record.step_id, record.attempt, entry.error_type, entry.error_message)
        await self._emit_all([(failed, seq), *changed], at)
        return await self._handle(error)

    async def _handle(self, error: Exception) -> tuple[bool, Any]:
        """Let ``on_error`` and ``catch`` answer, else retry or fail."""
        execution, builder, record = self.execution, self.builder, self.record
        await self._raise_if_final(error)
        invoke = execution.engine.invoke
        for name, handler in self._handlers_for(error):
            self._announce(name, error)
            try:
                call = self._wrapped(name, error, functools.partial(invoke, handler, error, execution.context))
                with execution.frame(record.attempt, record.step_id):
                    value = await call()
                text, value = self._encode(value)
            except (Exception, asyncio.CancelledError) as raised:  # noqa: BLE001 - passes on to the next handler
                error = self._as_failure(raised)
                await self._raise_if_final(error)
                if name != "catch" and builder._catch is not None:
                    continue
                break
            await self._complete(text, name)
            return True, value
        if record.attempt < self.retry.max_attempts and is_retryable(self.retry, error):
            await self._retry_later(error)
            return False, None
        await self._fail(error)
        raise self._as_final_error(error) from error

    def _handlers_for(self, error: Exception) -> list[tuple[str, ErrorHandler]]:
        builder, found = self.builder, []
        chosen = _select(builder._on_error, error)
        if chosen is not None:
            found.append((f"on_error:{chosen[0]}", chosen[1]))
        if builder._catch is not None:
            found.append(("catch", builder._catch))
        return found

    async def _raise_if_final(self, error: Exception) -> None:
        """End the step at once for errors that no handler may see."""
        execution = self.execution
        if execution.extensions.is_fatal(error):
            execution.doomed(error)
        elif execution.extensions.panic_indicator(error) is None and not isinstance(error, UnstorableResultError):
            return
        await self._fail(error)
        raise self._as_final_error(error)

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

    async def _fail(self, error: Exception) -> None:
        execution, record = self.execution, self.record
        at = execution.now()
        entry = self._entry(error, at)
        is_new = error is not self._recorded
        await execution.store.step_failed(execution.lease, record, entry, is_new, at)
        record.status, record.completed_at, record.error_message = "failed", at, entry.error_message
        execution.note_error(record.step_id, entry)

    def _entry(self, error: Exception, at: datetime) -> ErrorRecord:
        indicator = self.execution.extensions.panic_indicator(error)
        return record_error(error, self.record.attempt, to_epoch_ms(at), self.execution.codec, indicator)

    async def _retry_later(self, error: Exception) -> None:
        execution, record = self.execution, self.record
        wait = wait_ms(self.retry, record.attempt, error)
        seq, at = execution.next_seq(), execution.now()
        due = to_epoch_ms(at) + wait
        await execution.store.step_retrying(execution.lease, record, due, wait, seq, at)
        record.status, record.next_attempt_at = "retrying", due
        if execution.watched:
            await execution.emit(StepRetrying(record.step_id, record.attempt, wait), seq, at)

    # The circuit -----------------------------------------------------------------------------------------------------

    async def _admitted(self, config: CircuitBreakerConfig, attempt: int) -> bool:
        execution, record = self.execution, self.record
        at = execution.now()
        now_ms = to_epoch_ms(at)
        forced = execution.extensions.forced_circuit(self._describe(attempt))

        def ask(state: CircuitState) -> tuple[bool, CircuitState]:
            if forced is not None:
                state = circuit_breaker.forced(state, config, forced, now_ms)
            answer = circuit_breaker.admit(state, config, execution.execution_id, now_ms)
            return answer.allowed, answer.state

        change = CircuitChange(lambda state: state, execution.next_seq())
        allowed, before, after = await execution.store.circuit_admitted(
            execution.lease, record.step_id, ask, change.seq, at
        )
        await self._emit_all(self._circuit_asked((before, after), change), at)
        return allowed

    async def _skip(self) -> tuple[bool, Any]:
        """Answer an open circuit by ``on_open``."""
        execution, record, on_open = self.execution, self.record, self.builder._on_open
        assert on_open is not None  # noqa: S101 - the callers ask
        self._announce("on_open", None)
        try:
            call = self._wrapped(
                "on_open", None, functools.partial(execution.engine.invoke, on_open, execution.context)
            )
            with execution.frame(record.attempt, record.step_id):
                value = await call()
            text, value = self._encode(value)
        except (Exception, asyncio.CancelledError) as raised:  # noqa: BLE001 - on_open may fail with anything
            return await self._failed(self._as_failure(raised), counts=False)
        seq, at = execution.next_seq(), execution.now()
        await execution.store.step_skipped(execution.lease, record, text, seq, at)
        record.status, record.result_data, record.completed_at = "skipped", text, at
        record.completed_seq, record.error_message = seq, None
        if execution.watched:
            await execution.emit(StepSkipped(record.step_id, record.attempt), seq, at)
        return True, value

    def _circuit_asked(
        self, circuit: tuple[CircuitState, CircuitState] | None, change: CircuitChange | None
    ) -> list[tuple[Event, int]]:
        """Return the event of a change of the circuit; give its place in the history back if there was none."""
        if circuit is None or change is None:
            return []
        before, after = circuit
        if before.status == after.status:
            self.execution.release_seq(change.seq)
            return []
        return [(_circuit_event(self.record.step_id, after), change.seq)]

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
    for cls, name in classes_of(error, _classes(handlers)):
        if cls is not None and cls in handlers:
            return name, handlers[cls]
        if name in handlers:
            return name, handlers[name]
    return ("default", handlers["default"]) if "default" in handlers else None


def _classes(handlers: Mapping[type[BaseException] | str, ErrorHandler]) -> list[type[BaseException]]:
    return [key for key in handlers if isinstance(key, type)]
