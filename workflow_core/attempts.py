"""Running one step of an execution: attempts, handlers, retries and what is recorded of them."""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING, Any

from workflow_core import circuit_breaker
from workflow_core.clock import to_epoch_ms
from workflow_core.current_step import current_step
from workflow_core.database.store import CIRCUIT_IS_OPEN, CircuitChange
from workflow_core.errors import (
    CircuitOpenError,
    PanicError,
    StepInterruptedError,
    StepTimeoutError,
    UnstorableResultError,
    WorkflowError,
)
from workflow_core.events import (
    StepCompleted,
    StepFailed,
    StepInterrupted,
    StepRetrying,
    StepSkipped,
    StepStarted,
)
from workflow_core.failures import rebuild_error
from workflow_core.retry import is_retryable, wait_ms
from workflow_core.step_parts import StepParts, classes_handled
from workflow_core.timeouts import Timeout

if TYPE_CHECKING:
    from collections.abc import Callable

    from workflow_core.circuit_breaker import CircuitState
    from workflow_core.hookspecs import AttemptHandler
    from workflow_core.models import CircuitBreakerConfig

__tracebackhide__ = True  # pytest leaves the frames of this module out
__all__ = ["StepRun"]


class StepRun(StepParts):
    """The attempts of one step."""

    __slots__ = ()

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
        return rebuild_error(rows[-1][1], self.record.step_id, classes_handled(builder._on_error), execution.codec)

    # One attempt -----------------------------------------------------------------------------------------------------

    async def _attempt(self) -> tuple[bool, Any]:
        execution, builder, record = self.execution, self.builder, self.record
        attempt = record.attempt + 1
        refused = builder._circuit is not None and not await self._admitted(builder._circuit, attempt)
        if refused and builder._on_open is not None:
            await self._refuse(attempt)
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
        cut_off = record.was_cut_off
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

    async def _call_handler(self, attempt: int) -> object:
        execution, builder = self.execution, self.builder
        call: AttemptHandler = functools.partial(execution.engine.invoke, builder._handler)
        if execution.extensions.wraps_attempts:
            for wrap in execution.extensions.attempt_wrappers(self._describe(attempt)):
                call = wrap(call)
        token = current_step.set((execution, attempt, builder.step_id))
        try:
            if builder._timeout_ms is None:
                return await call()
            return await self._call_in_time(call, attempt, builder._timeout_ms)
        finally:
            current_step.reset(token)

    async def _call_in_time(self, call: AttemptHandler, attempt: int, timeout_ms: float) -> object:
        timeout = Timeout(self.execution.engine.clock, timeout_ms)
        try:
            async with timeout:
                return await call()
        except TimeoutError as error:
            if not timeout.expired:
                raise
            raise StepTimeoutError(
                f'{self.execution}: attempt {attempt} of step "{self.record.step_id}" took longer than its timeout_ms '
                f"of {timeout_ms} ms"
            ) from error

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
        changed = [] if change is None else self._circuit_asked(circuit, change.seq)
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
        changed = [] if change is None else self._circuit_asked(circuit, change.seq)
        failed = StepFailed(record.step_id, record.attempt, entry.error_type, entry.error_message)
        await self._emit_all([(failed, seq), *changed], at)
        return await self._handle(error)

    async def _handle(self, error: Exception) -> tuple[bool, Any]:
        """Let ``on_error`` and ``catch`` answer, else retry or fail."""
        execution, record = self.execution, self.record
        await self._raise_if_final(error)
        for name, handler in self._handlers_for(error):
            self._announce(name, error)
            try:
                text, value = await self._answered(name, error, handler, error, execution.context)
            except (Exception, asyncio.CancelledError) as raised:  # noqa: BLE001 - passes on to the next handler
                error = self._as_failure(raised)
                await self._raise_if_final(error)
                continue
            await self._complete(text, name)
            return True, value
        if record.attempt < self.retry.max_attempts and is_retryable(self.retry, error):
            await self._retry_later(error)
            return False, None
        await self._fail(error)
        raise self._as_final_error(error) from error

    async def _answered(
        self, name: str, error: Exception | None, handler: Callable[..., object], *arguments: object
    ) -> tuple[str | None, Any]:
        """Call a handler of the step; return what it answers as it is stored, and as reading it back gives it."""
        execution = self.execution
        call = self._wrapped(name, error, functools.partial(execution.engine.invoke, handler, *arguments))
        token = current_step.set((execution, self.record.attempt, self.record.step_id))
        try:
            value = await call()
        finally:
            current_step.reset(token)
        return self._encode(value)

    async def _raise_if_final(self, error: Exception) -> None:
        """End the step at once for errors that no handler may see."""
        execution = self.execution
        if execution.extensions.is_fatal(error):
            execution.doomed(error)
        elif execution.extensions.panic_indicator(error) is None and not isinstance(error, UnstorableResultError):
            return
        await self._fail(error)
        raise self._as_final_error(error)

    async def _fail(self, error: Exception) -> None:
        execution, record = self.execution, self.record
        at = execution.now()
        entry = self._entry(error, at)
        is_new = error is not self._recorded
        await execution.store.step_failed(execution.lease, record, entry, is_new, at)
        record.status, record.completed_at, record.error_message = "failed", at, entry.error_message
        execution.note_error(record.step_id, entry)

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

        seq = execution.next_seq()
        allowed, before, after = await execution.store.circuit_admitted(execution.lease, record.step_id, ask, seq, at)
        await self._emit_all(self._circuit_asked((before, after), seq), at)
        return allowed

    async def _refuse(self, attempt: int) -> None:
        """Record that the circuit lets an attempt not run; its ``on_open`` handler is to answer."""
        execution, record = self.execution, self.record
        earlier_attempt, at = record.attempt, execution.now()
        seq = execution.next_seq() if record.was_cut_off else None
        await execution.store.step_refused(execution.lease, record, attempt, seq, at)
        record.attempt, record.status, record.stored = attempt, "pending", True
        record.started_seq, record.error_message = None, CIRCUIT_IS_OPEN
        if seq is not None and execution.watched:
            await execution.emit(StepInterrupted(record.step_id, earlier_attempt), seq, at)

    async def _skip(self) -> tuple[bool, Any]:
        """Answer an open circuit by ``on_open``."""
        execution, record, on_open = self.execution, self.record, self.builder._on_open
        assert on_open is not None  # noqa: S101 - the callers ask
        self._announce("on_open", None)
        try:
            text, value = await self._answered("on_open", None, on_open, execution.context)
        except (Exception, asyncio.CancelledError) as raised:  # noqa: BLE001 - on_open may fail with anything
            return await self._failed(self._as_failure(raised), counts=False)
        seq, at = execution.next_seq(), execution.now()
        await execution.store.step_skipped(execution.lease, record, text, seq, at)
        record.status, record.result_data, record.completed_at = "skipped", text, at
        record.completed_seq, record.error_message = seq, None
        if execution.watched:
            await execution.emit(StepSkipped(record.step_id, record.attempt), seq, at)
        return True, value
