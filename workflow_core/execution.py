"""One execution in memory, from the moment this process owns it until it is at rest."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import sys
from typing import TYPE_CHECKING, Any, Final, TypeVar

from workflow_core.clock import from_epoch_ms, to_epoch_ms
from workflow_core.context import WorkflowContext
from workflow_core.current_step import current_step
from workflow_core.ending import abandon_steps, ended_by
from workflow_core.errors import (
    InvalidStateError,
    LeaseLostError,
    StepConflictError,
    StorageError,
    WorkflowCoreError,
    WorkflowTimeoutError,
)
from workflow_core.events import (
    ExecutionCompleted,
    ExecutionStarted,
)
from workflow_core.interception import undriven
from workflow_core.results import result_of
from workflow_core.suspended import where
from workflow_core.timeouts import Timeout, cancelled_from_outside

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterator
    from datetime import datetime

    from workflow_core.database.store import ErrorRecord, ExecutionRecord, HistoryEnd, Lease, StepRecord, WorkflowStore
    from workflow_core.definition import Definition
    from workflow_core.engine import WorkflowEngine
    from workflow_core.events import Event
    from workflow_core.hookspecs import AttemptHandler, Run
    from workflow_core.models import ErrorInfo, ExecutionResult, ExecutionStatus, PanicConfig, RetryConfig
    from workflow_core.serialization import Codec
    from workflow_core.step import StepBuilder

__tracebackhide__ = True  # pytest leaves the frames of this module out
__all__ = ["Execution"]

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
        end: Where its history ends.
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
        end: HistoryEnd,
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
        self.changes_read = end.changes
        self._seq = self._first_seq = end.seq
        self.not_before(end.at)

    def __str__(self) -> str:
        return f'workflow "{self.definition.name}", execution "{self.execution_id}"'

    @functools.cached_property
    def context(self) -> WorkflowContext[Any]:
        """What its handler is given."""
        return WorkflowContext(self)

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

    def not_before(self, moment: datetime) -> None:
        """Let nothing be recorded from now on as if it were before a moment that is in the history already.

        Whoever had it before may have had another clock, and a clock may have been set back since.
        """
        if self.now() < moment:
            now = self.engine.clock.now
            self.now = lambda: max(now(), moment)

    def taken_over(self, lease: Lease, status: ExecutionStatus) -> None:
        """Note that this process has it now, and has recorded that."""
        if lease.recovered is not None:
            self.not_before(lease.recovered.at)
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
            overdue = self.timed_out()
            self.doomed(overdue)
            raise overdue
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
        self.last_errors[step_id] = error.info(step_id)

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
            if self.doom is None:
                text, _ = self.codec.encode(output, lambda: f"what {self} returned", self.definition.returns)
                self._tell_of_steps_never_awaited()
                seq, at = self.next_seq(), self.now()
                await self.store.execution_completed(self.lease, text, abandon_steps(self.steps), seq, at)
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
            return await ended_by(self, error)
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

    def untie(self) -> None:
        """Let go of what refers back to this execution: it has ended, so it is freed with whoever knows it last.

        Else each execution would be left to the garbage collector, which looks at all that is alive.
        """
        self.not_begun.clear()
        self.__dict__.pop("context", None)  # who asks for it later has it made again
        undriven(self.store)

    def snapshot(self) -> ExecutionResult:
        """Return what is known of the execution now."""
        self.record.status = self.status
        return result_of(self.record, self.steps, self.last_errors, self.codec, self.definition)


def _is_debugged() -> bool:
    """Tell whether asyncio is in its debug mode, in which it lets coroutines note where they were made."""
    return sys.get_coroutine_origin_tracking_depth() > 0
