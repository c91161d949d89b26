"""One execution in memory, from the moment this process owns it until it is at rest."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, TypeVar

import pydantic_core

from workflow_core.clock import from_epoch_ms, to_epoch_ms
from workflow_core.context import WorkflowContext
from workflow_core.current_step import current_step
from workflow_core.database.store import ABANDONED, UNFINISHED_STEPS
from workflow_core.errors import (
    InvalidStateError,
    LeaseLostError,
    PanicError,
    StepConflictError,
    StepFailure,
    StorageError,
    WorkflowCoreError,
    WorkflowTimeoutError,
    error_text,
)
from workflow_core.events import (
    ExecutionCompleted,
    ExecutionFailed,
    ExecutionPanicked,
    ExecutionRestarted,
    ExecutionStarted,
)
from workflow_core.failures import error_name
from workflow_core.models import TERMINAL_STATUSES, ErrorInfo, ExecutionResult, StepResult
from workflow_core.timeouts import Timeout, cancelled_from_outside

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterator
    from datetime import datetime

    from workflow_core.database.store import ErrorRecord, ExecutionRecord, Lease, StepRecord, WorkflowStore
    from workflow_core.definition import Definition
    from workflow_core.engine import WorkflowEngine
    from workflow_core.events import Event
    from workflow_core.hookspecs import AttemptHandler, Run
    from workflow_core.models import ExecutionStatus, PanicConfig, RetryConfig
    from workflow_core.serialization import Codec
    from workflow_core.step import StepBuilder

__tracebackhide__ = True  # pytest leaves the frames of this module out
__all__ = ["Execution", "result_of", "where"]

ResultT = TypeVar("ResultT")


_STARTED: Final = ExecutionStarted()


class Execution:
    """What one run of a workflow needs at hand.

    A restart makes a new object on the same rows, so that whatever is left of the run before cannot write any more.

    Args:
        engine: The engine that runs it.
        definition: The workflow.
        record: Its row.
        lease: The right to write it.
        retry_config: Its retry configuration.
        panic_config: Its panic configuration.
        input_value: Its input.
        steps: Its steps so far.
        seq: The highest position in its history.
    """

    def __init__(
        self,
        engine: WorkflowEngine,
        definition: Definition,
        record: ExecutionRecord,
        lease: Lease,
        retry_config: RetryConfig,
        panic_config: PanicConfig,
        input_value: object,
        steps: dict[str, StepRecord],
        seq: int,
    ) -> None:
        self.engine = engine
        self.now: Callable[[], datetime] = engine.clock.now
        self.definition = definition
        self.record = record
        self.lease = lease
        self.retry_config = retry_config
        self.panic_config = panic_config
        self.input = input_value
        self.steps = steps
        self.last_errors: dict[str, ErrorInfo] = {}
        self.status: ExecutionStatus = record.status
        self._asked_status = self.status
        self.codec: Codec = engine.codec
        self.store: WorkflowStore = engine.store_of(self)
        self.context: WorkflowContext[Any] = WorkflowContext(self)
        self.extensions = engine.extensions
        self.observed = engine.extensions.observed
        self.workflow_name = definition.name
        self.execution_id = lease.execution_id
        self.log = engine.log_files
        self.step_log = self.log if self.log is not None and self.log.logs_steps else None
        self.watched = self.observed or self.log is not None
        self.opening: Event | None = None
        self.begun_by: Event = _STARTED
        self.run_began_at = record.started_at
        self.has_failed = False
        self.description: Run | None = None
        self.run_wrappers: list[Callable[[AttemptHandler], AttemptHandler]] = []
        self.hopeless: WorkflowCoreError | None = None
        self.doom: BaseException | None = None
        self.bodies = 0
        self.sleepers = 0
        self.not_begun: dict[StepBuilder[Any], str] = {}
        self.locates_steps = engine.locates_steps or _is_debugged()
        self._over = False
        self._active: dict[str, asyncio.Task[Any] | None] = {}
        self._bodies: dict[str, Coroutine[Any, Any, object]] = {}
        self._handler: Awaitable[object] | None = None
        self.task: asyncio.Task[None] | None = None
        self.is_let_go = False
        self._waiting: dict[int, str] = {}
        self._moments: dict[int, int] = {}
        self._seq = self._first_seq = seq

    def __str__(self) -> str:
        return f'workflow "{self.definition.name}", execution "{self.execution_id}"'

    @property
    def restart_attempt(self) -> int:
        """1, and one more for each restart."""
        return self.record.restart_attempt

    # History ---------------------------------------------------------------------------------------------------------

    @property
    def last_seq(self) -> int:
        """The highest position in the history."""
        return self._seq

    def next_seq(self) -> int:
        """Take the next position in the history."""
        self._seq += 1
        return self._seq

    def release_seq(self, seq: int) -> None:
        """Give a position back that was not needed after all."""
        if self._seq == seq:
            self._seq -= 1

    def opens_with(self, event: Event, seq: int, at: datetime) -> None:
        """Note by what this run begins; the observers are told before anything of it runs."""
        self.begun_by = event
        if self.watched:
            self.opening = event.stamped(seq, at, self.execution_id, self.definition.name)

    async def emit(self, event: Event, seq: int, at: datetime) -> None:
        """Log an event that was committed, and tell the observers of it."""
        await self.tell(event.stamped(seq, at, self.execution_id, self.definition.name))

    async def tell(self, event: Event) -> None:
        """Log an event that knows its place, and tell the observers of it."""
        if self.log is not None:
            self.log.event(event)
        if self.observed:
            await self.extensions.emit(event)

    def taken_over(self, lease: Lease, status: ExecutionStatus) -> None:
        """Note that this process has it now, and has recorded that."""
        self.lease, self.status = lease, status
        self._asked_status = status
        self._first_seq = self._seq

    @property
    def has_got_on(self) -> bool:
        """Whether anything has happened in it since this process has it, or it waits for a moment to come."""
        return self._over or self._seq != self._first_seq or bool(self._waiting)

    # What runs at the moment -----------------------------------------------------------------------------------------

    def current_attempt(self) -> int:
        """Return the attempt of the step that runs in this task; 1 outside every step."""
        frame = current_step.get()
        return frame[1] if frame is not None and frame[0] is self else 1

    def current_step(self) -> str | None:
        """Return the id of the step that runs in this task; ``None`` outside every step."""
        frame = current_step.get()
        return frame[2] if frame is not None and frame[0] is self else None

    def begin_activity(self, step_id: str) -> None:
        """Mark a step or sleep as running.

        Raises:
            StepConflictError: It runs already.
        """
        if step_id in self._active:
            raise StepConflictError(
                f'{self}: step "{step_id}" is already running in another task; steps that run at the same time need '
                "different ids"
            )
        self._active[step_id] = asyncio.current_task()

    def end_activity(self, step_id: str) -> None:
        """Mark a step or sleep as not running any more."""
        del self._active[step_id]
        self._bodies.pop(step_id, None)
        if self._moments:
            self.engine.rests(self)

    def show(self, step_id: str, body: Coroutine[Any, Any, ResultT]) -> Coroutine[Any, Any, ResultT]:
        """Keep a running step's coroutine, whose frames tell where it waits; an awaited step hides them."""
        self._bodies[step_id] = body
        return body

    def check_alive(self) -> None:
        """Raise what has doomed this run: a panic cannot be ignored by the workflow's code.

        Raises:
            InvalidStateError: The handler has returned, or raised; a task that it left behind has nothing to add.
        """
        if self.doom is not None:
            raise self.doom
        if self.record.deadline_at is not None and self.deadline_has_passed():
            self.doomed(self.timed_out())
            raise self.timed_out()
        if self._over:
            raise InvalidStateError(
                f"{self}: its handler has ended, so no step can begin; await all tasks that run steps in the handler"
            )

    def cannot_be_written(self, error: BaseException) -> bool:
        """Tell whether an error says that this execution cannot be written, rather than another one, or nothing."""
        if isinstance(error, LeaseLostError):
            return error.execution_id == self.execution_id
        if isinstance(error, StorageError):
            return error.location is not None and error.location == self.store.location(self.definition.name)
        return False

    def doomed(self, error: BaseException) -> None:
        """Let every further step and sleep of this run raise ``error``."""
        if self.doom is None:
            self.doom = error

    def note_error(self, step_id: str, error: ErrorRecord) -> None:
        """Remember the latest error of a step."""
        self.last_errors[step_id] = ErrorInfo(
            type=error.error_type, message=error.error_message, step_id=step_id, attempt=error.attempt
        )

    def status_change(self) -> ExecutionStatus | None:
        """Return the status to write with the next durable point, or ``None`` if it stays.

        It stays if it is that of the durable point before, even if the commit of that one is still waited for.
        """
        status: ExecutionStatus = "sleeping" if self.sleepers and not self.bodies else "running"
        if status == self._asked_status:
            return None
        self._asked_status = status
        return status

    def status_changed(self, written: ExecutionStatus | None) -> None:
        """Note which status was written with a durable point, if any; writes that waited may end in another order."""
        if written is not None:
            self.status = self._asked_status = written

    # While the database cannot be used -------------------------------------------------------------------------------

    def keeps_trying(self) -> bool:
        """Tell whether the engine drives this run, so that a durable point is tried again for as long as it takes."""
        return self.engine.drives(self)

    def tell_waiters(self, error: StorageError) -> None:
        """Raise an error to everybody who waits for this execution, which goes on all the same."""
        told = StorageError(
            f"{error}; {self} waits for it, and goes on by itself when it works again", error.location, error.reason
        )
        told.__cause__ = error
        self.engine.tell_waiters(self, told)

    @contextlib.contextmanager
    def waiting_for_storage(self, reason: str) -> Iterator[None]:
        """Note, in a ``with`` block, that a database is waited for, and why."""
        key = object()
        self._waiting[id(key)] = reason
        try:
            yield
        finally:
            del self._waiting[id(key)]
            self.engine.tell_waiters(self, None)

    async def wait_until(self, moment_ms: int, reason: str) -> None:
        """Wait for a wall time, in milliseconds since 1970; return at once if it has passed.

        Args:
            moment_ms: The time.
            reason: What is waited for, for diagnoses.
        """
        clock = self.engine.clock
        when = from_epoch_ms(moment_ms)
        if clock.now() >= when:
            return
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        handle = clock.call_at(when, lambda: None if done.done() else done.set_result(None))
        self._waiting[id(done)] = f"{reason} until {when.isoformat()}"
        self._moments[id(done)] = moment_ms
        self.engine.rests(self)
        try:
            await done
        finally:
            handle.cancel()
            del self._waiting[id(done)], self._moments[id(done)]

    def resting_until(self) -> int | None:
        """Return until when nothing happens in it, in milliseconds since 1970; ``None`` if something does now.

        Each of its steps and sleeps waits then for a moment to come. What its handler does besides is not known.
        """
        if not self._moments or len(self._moments) != len(self._active):
            return None
        deadline = self.record.deadline_at
        return min(self._moments.values()) if deadline is None else min(deadline, *self._moments.values())

    @property
    def rests_as_a_whole(self) -> bool:
        """Whether its handler itself waits for the one moment that is waited for, so that nothing else can go on."""
        return len(self._active) == len(self._moments) == 1 and self.task in self._active.values()

    def waiting_for(self) -> list[str]:
        """Describe what this execution waits for, one line each."""
        lines = list(self._waiting.values())
        for step_id in self._active:
            step = self.steps.get(step_id)
            if step is None or step.status != "running":
                continue
            place = where(self._bodies.get(step_id)) or where(self._handler)
            lines.append(f'step "{step_id}", attempt {step.attempt}{place}')
        return lines or [f"its handler, outside every step{where(self._handler)}"]

    # One run of the handler ------------------------------------------------------------------------------------------

    async def run(self) -> BaseException | None:
        """Run the handler once, and record how it ended.

        Returns:
            ``None`` when the execution completed, else the error that ended this run; `status` tells what became of it.

        Raises:
            LeaseLostError: Another process owns the execution now.
            StorageError: The database could not be written; the execution can be resumed.
        """
        error: BaseException | None
        try:
            try:
                output = await self._call_handler()
            finally:
                self._over = True
                if self._active:
                    await self._stop_leftovers()
            if self.doom is None and not self.is_let_go:
                text, _ = self.codec.encode(output, lambda: f"what {self} returned", self.definition.returns)
                self._tell_of_steps_never_awaited()
                seq, at = self.next_seq(), self.now()
                await self.store.execution_completed(self.lease, text, self._abandon_steps(), seq, at)
                self.record.output_data, self.record.completed_at = text, at
                self.status = "completed"
                error = None
            else:
                error = self.doom
        except (Exception, asyncio.CancelledError) as raised:
            if self.cannot_be_written(raised):
                raise
            if isinstance(raised, asyncio.CancelledError) and cancelled_from_outside():
                raise
            error = self.doom or raised
        if self.is_let_go:  # whatever its handler makes of the cancellation: it has not ended
            raise asyncio.CancelledError
        if error is not None:
            return await self._ended_by(error)
        if self.watched:
            await self.emit(ExecutionCompleted(), seq, at)
        return None

    def _tell_of_steps_never_awaited(self) -> None:
        for step, place in self.not_begun.items():
            self.engine.step_never_awaited(
                f'step "{step.step_id}" of {self} was never awaited, so it did not run{place}; write await before it'
            )

    async def _call_handler(self) -> object:
        deadline = self.record.deadline_at
        if deadline is not None and self.deadline_has_passed():
            raise self.timed_out()
        call: AttemptHandler = functools.partial(self.engine.invoke, self.definition.handler, self.context)
        for wrap in self.run_wrappers:
            call = wrap(call)
        self._handler = call()
        if deadline is None:
            return await self._handler
        timeout = Timeout(self.engine.clock, deadline - to_epoch_ms(self.now()))
        try:
            async with timeout:
                return await self._handler
        except TimeoutError as error:
            if not timeout.expired:
                raise
            raise self.timed_out() from error

    def deadline_has_passed(self) -> bool:
        """Tell whether the execution has taken longer than its ``timeout_ms``."""
        deadline = self.record.deadline_at
        return deadline is not None and to_epoch_ms(self.now()) >= deadline

    def timed_out(self) -> WorkflowTimeoutError:
        """Return the error of an execution that took too long."""
        return WorkflowTimeoutError(f"{self}: it took longer than the timeout_ms it was started with")

    async def _stop_leftovers(self) -> None:
        """Cancel steps that run on although the handler is done with them."""
        current = asyncio.current_task()
        tasks = {task for task in self._active.values() if task is not None and task is not current}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _ended_by(self, error: BaseException) -> BaseException:
        error = _leading(error)
        if self.extensions.is_fatal(error):
            await self.fail(error)
            return error
        indicator = self.extensions.panic_indicator(error)
        if indicator is None and isinstance(error, WorkflowCoreError):
            await self.fail(error)
            return error
        if isinstance(error, PanicError):
            panic = error
        else:
            panic = PanicError(
                f"{self}: it panicked ({indicator or 'unexpected error'}): {error_name(error)}: {error_text(error)}",
                None,
                self.current_attempt(),
                error,
                indicator or "unexpected error",
            )
            panic.__cause__ = error
        await self._panic(panic)
        return panic

    async def fail(self, error: BaseException) -> None:
        """Record that the execution failed for good."""
        info = self._describe(error)
        seq, at = self.next_seq(), self.now()
        await self.store.execution_failed(self.lease, info.model_dump_json(), str(info), seq, at)
        self.status, self.record.completed_at, self.record.error_data = "failed", at, info.model_dump_json()
        self.record.restart_at = None
        self._abandon_steps()
        if self.watched:
            await self.emit(ExecutionFailed(info.type, info.message), seq, at)

    def _abandon_steps(self) -> bool:
        """Count the steps that were begun and not finished as failed; tell whether there were any."""
        unfinished = [step for step in self.steps.values() if step.status in UNFINISHED_STEPS]
        for step in unfinished:
            step.status, step.error_message = "failed", step.error_message or ABANDONED
        return bool(unfinished)

    async def _panic(self, panic: PanicError) -> None:
        info = self._describe(panic)
        config = self.panic_config
        seq, at = self.next_seq(), self.now()
        restarts_left = self.restart_attempt <= config.max_restart_attempts
        if config.enable_auto_restart and not restarts_left:
            self.release_seq(seq)
            await self.fail(panic)
            return
        delay = config.restart_delay_ms if config.enable_auto_restart else None
        restart_at = None if delay is None else to_epoch_ms(at) + delay
        event = ExecutionPanicked(info.indicator, info.type, info.message, info.step_id, delay)
        data = pydantic_core.to_json(event.named_fields()).decode()
        await self.store.execution_panicked(self.lease, info.model_dump_json(), str(info), restart_at, data, seq, at)
        self.status, self.record.restart_at, self.record.error_data = "panicked", restart_at, info.model_dump_json()
        if self.watched:
            await self.emit(event, seq, at)

    def _describe(self, error: BaseException) -> ErrorInfo:
        failure = error if isinstance(error, StepFailure) else None
        cause = error
        while isinstance(cause, StepFailure) and cause.original_error is not None:
            cause = cause.original_error
        redact = self.codec.secrets.redact
        indicator = error.indicator if isinstance(error, PanicError) else None
        return ErrorInfo(
            type=redact(error_name(cause)),
            message=redact(error_text(cause)),
            step_id=failure.step_id if failure is not None else None,
            attempt=failure.attempt if failure is not None else None,
            indicator=None if indicator is None else redact(indicator),
        )

    async def restart(self, *, by_hand: bool = False) -> Execution:
        """Begin again: completed steps are kept; all others get their attempts back.

        Args:
            by_hand: Somebody asked for it: the time that the execution may take begins anew.

        Returns:
            The execution to run from now on, on a new lease.
        """
        seq, at = self.next_seq(), self.now()
        attempt = self.restart_attempt + 1
        deadline_at = self.record.deadline_at
        if by_hand and deadline_at is not None:
            deadline_at = to_epoch_ms(at) + deadline_at - to_epoch_ms(self.record.started_at)
        lease = await self.store.execution_restarted(
            self.lease, self.engine.owner, self.engine.lease_expiry(), attempt, deadline_at, seq, at
        )
        steps, seq_now = await self.store.load_steps(self.definition.name, self.execution_id)
        record = replace(
            self.record,
            status="restarting",
            restart_attempt=attempt,
            restart_at=None,
            deadline_at=deadline_at,
            error_data=None,
            completed_at=None,
            owner_id=self.engine.owner.owner_id,
            fencing_token=lease.fencing_token,
        )
        again = Execution(
            self.engine,
            self.definition,
            record,
            lease,
            self.retry_config,
            self.panic_config,
            self.codec.decode(record.input_data, self.definition.input_type, f"the input of {self}"),
            steps,
            seq_now,
        )
        again.opens_with(ExecutionRestarted(attempt), seq_now, at)
        again.run_began_at = at
        again.has_failed = self.has_failed or self.status == "failed"
        return again

    def snapshot(self) -> ExecutionResult:
        """Return what is known of the execution now."""
        self.record.status = self.status
        return result_of(self.record, self.steps, self.last_errors, self.codec, self.definition)


def _leading(error: BaseException) -> BaseException:
    """Return the first of a group's errors if all of them are the engine's own, as a task group raises them."""
    while isinstance(error, BaseExceptionGroup):
        others = error.split(WorkflowCoreError)[1]
        if others is not None:
            break
        error = error.exceptions[0]
    return error


def _is_debugged() -> bool:
    """Tell whether asyncio is in its debug mode, in which it lets coroutines note where they were made."""
    return sys.get_coroutine_origin_tracking_depth() > 0


def where(coroutine: object) -> str:
    """Tell where a suspended coroutine waits: the innermost frame that is neither asyncio's nor the engine's."""
    awaited: Any = coroutine
    place = ""
    while awaited is not None:
        frame = getattr(awaited, "cr_frame", None) or getattr(awaited, "gi_frame", None)
        if frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] not in _NOT_THE_USERS:
            place = f", at {frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"
        awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "gi_yieldfrom", None)
    return place


_NOT_THE_USERS = frozenset({"asyncio", "workflow_core", "pytest_workflow"})


def result_of(
    record: ExecutionRecord,
    steps: dict[str, StepRecord],
    errors: dict[str, ErrorInfo],
    codec: Codec,
    definition: Definition | None,
) -> ExecutionResult:
    """Build the public result from the rows.

    Args:
        record: The execution's row.
        steps: Its steps' rows.
        errors: The last error of each step that met one.
        codec: Reads the stored values.
        definition: The workflow, whose declared types its input and output are read as; ``None`` if it is unknown here.
    """
    make_steps = functools.partial(_step_results, steps, errors, codec)
    fields = {
        "execution_id": record.execution_id,
        "workflow_name": record.workflow_name,
        "status": record.status,
        "input": _read(codec, record.input_data, definition.input_type if definition else None),
        "output": _read(codec, record.output_data, definition.returns if definition else None),
        "error": ErrorInfo.model_validate_json(record.error_data) if record.error_data else None,
        "started_at": record.started_at,
        "completed_at": record.completed_at,
        "restart_attempt": record.restart_attempt,
    }
    if record.status in TERMINAL_STATUSES:  # nothing changes in its steps any more
        return ExecutionResult.with_steps_later(make_steps, **fields)
    return ExecutionResult.trusted(**fields, steps=make_steps())


def _step_results(steps: dict[str, StepRecord], errors: dict[str, ErrorInfo], codec: Codec) -> dict[str, StepResult]:
    return {
        step.step_id: StepResult.trusted(
            step_id=step.step_id,
            status=step.status,
            result=codec.decode_for_display(step.result_data),
            error=(errors.get(step.step_id) or ErrorInfo(type="Error", message=step.error_message))
            if step.error_message is not None
            else None,
            attempt=step.attempt,
            started_at=step.started_at,
            completed_at=step.completed_at,
        )
        for step in steps.values()
    }


def _read(codec: Codec, text: str | None, declared: Any) -> Any:  # noqa: ANN401 - what was stored
    try:
        return codec.decode(text, declared)
    except WorkflowCoreError:
        return codec.decode_for_display(text)
