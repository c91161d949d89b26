"""The durable points of steps, sleeps and circuits in one SQLite database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from workflow_core.database import parts
from workflow_core.database.moments import stored_text
from workflow_core.database.parts import stored_json
from workflow_core.database.store import CIRCUIT_IS_OPEN
from workflow_core.database.writing import WritableDatabase

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable
    from datetime import datetime

    from workflow_core.circuit_breaker import CircuitState
    from workflow_core.database.store import CircuitChange, ErrorRecord, Lease, StepRecord
    from workflow_core.models import ExecutionStatus

__all__ = ["StepPoints"]

_INSERT_STARTED: Final = (
    "INSERT INTO steps (execution_id, step_id, status, started_at, attempt, started_seq, created_at, updated_at)"
    " SELECT id, ?, 'running', ?, ?, ?, ?, ? FROM executions WHERE id = ? AND fencing_token = ?"
)

_COMPLETE: Final = (
    "UPDATE steps SET status = 'completed', completed_at = ?, result_data = ?, handled_by = ?,"
    " completed_seq = ?, error_message = NULL, revision = revision + 1, updated_at = ?"
    " WHERE execution_id = ? AND step_id = ?"
    " AND EXISTS (SELECT 1 FROM executions WHERE id = execution_id AND fencing_token = ?)"
)


class StepPoints(WritableDatabase):
    """Writes what becomes of steps."""

    async def step_started(
        self, lease: Lease, step: StepRecord, attempt: int, seq: int, at: datetime, status: ExecutionStatus | None
    ) -> None:
        """Record that an attempt begins."""
        now = stored_text(at)
        if not step.stored and status is None:
            values = step.step_id, now, attempt, seq, now, now, lease.execution_id, lease.fencing_token
            if self.groups.is_alone():
                self._change_one(lease, _INSERT_STARTED, values)
            else:
                await self._change_in_group(lease, _INSERT_STARTED, values)
        else:
            await self._commit(self._starting_again(lease, step, attempt, seq, now, status))

    def _starting_again(
        self, lease: Lease, step: StepRecord, attempt: int, seq: int, now: str, status: ExecutionStatus | None
    ) -> Callable[[sqlite3.Connection], None]:
        def write(connection: sqlite3.Connection) -> None:
            self._check(connection, lease)
            self._set_status(connection, lease, status, now)
            place = seq + step.was_cut_off
            if step.was_cut_off:
                parts.interrupt_step(connection, lease, step, seq, now)
            if step.stored:
                connection.execute(
                    "UPDATE steps SET status = 'running', attempt = ?, started_at = ?, started_seq = ?,"
                    " next_attempt_at = NULL, error_message = NULL, revision = revision + 1, updated_at = ?"
                    " WHERE execution_id = ? AND step_id = ?",
                    (attempt, now, place, now, lease.execution_id, step.step_id),
                )
            else:
                values = step.step_id, now, attempt, place, now, now, lease.execution_id, lease.fencing_token
                self._change(connection, lease, _INSERT_STARTED, values)

        return write

    async def step_completed(
        self,
        lease: Lease,
        step: StepRecord,
        result_data: str | None,
        handled_by: str | None,
        seq: int,
        at: datetime,
        status: ExecutionStatus | None,
        circuit: CircuitChange | None,
    ) -> tuple[CircuitState, CircuitState] | None:
        """Record a step's result; return the circuit before and after, if there is one."""
        now = stored_text(at)
        values = (
            now,
            result_data,
            handled_by,
            seq,
            now,
            lease.execution_id,
            step.step_id,
            lease.fencing_token,
        )
        if circuit is None and status is None:
            if self.groups.is_grouping:
                await self._change_in_group(lease, _COMPLETE, values)
            else:
                self._change_one(lease, _COMPLETE, values)
            return None
        write = self._completing(lease, step, values, now, status, circuit)
        return await self._commit(write) if circuit is None else self._commit_at_once(write)

    def _completing(
        self,
        lease: Lease,
        step: StepRecord,
        values: tuple[object, ...],
        now: str,
        status: ExecutionStatus | None,
        circuit: CircuitChange | None,
    ) -> Callable[[sqlite3.Connection], tuple[CircuitState, CircuitState] | None]:
        def write(connection: sqlite3.Connection) -> tuple[CircuitState, CircuitState] | None:
            self._change(connection, lease, _COMPLETE, values)
            self._set_status(connection, lease, status, now)
            return parts.change_circuit(connection, lease, step.step_id, circuit, now)

        return write

    async def step_attempt_failed(
        self,
        lease: Lease,
        step: StepRecord,
        error: ErrorRecord,
        seq: int,
        at: datetime,
        status: ExecutionStatus | None,
        circuit: CircuitChange | None,
    ) -> tuple[CircuitState, CircuitState] | None:
        """Record that an attempt raised an error, and count it on the circuit."""
        now = stored_text(at)

        def write(connection: sqlite3.Connection) -> tuple[CircuitState, CircuitState] | None:
            self._check(connection, lease)
            self._set_status(connection, lease, status, now)
            parts.keep_start_events(connection, lease.execution_id, "step_id = ?", (step.step_id,))
            connection.execute(
                "UPDATE steps SET status = 'running', attempt = ?, started_seq = NULL, error_message = ?,"
                " revision = revision + 1, updated_at = ? WHERE execution_id = ? AND step_id = ?",
                (error.attempt, error.error_message, now, lease.execution_id, step.step_id),
            )
            parts.insert_error(connection, lease, step, error)
            data = stored_json(error=error.error_type, message=error.error_message)
            parts.log_event(connection, lease.execution_id, seq, "StepFailed", now, step.step_id, error.attempt, data)
            return parts.change_circuit(connection, lease, step.step_id, circuit, now)

        return await self._commit(write) if circuit is None else self._commit_at_once(write)

    async def step_retrying(
        self, lease: Lease, step: StepRecord, next_attempt_at: int, backoff_ms: int, seq: int, at: datetime
    ) -> None:
        """Record when the next attempt is due."""
        now = stored_text(at)

        def write(connection: sqlite3.Connection) -> None:
            self._check(connection, lease)
            connection.execute(
                "UPDATE steps SET status = 'retrying', next_attempt_at = ?, revision = revision + 1, updated_at = ?"
                " WHERE execution_id = ? AND step_id = ?",
                (next_attempt_at, now, lease.execution_id, step.step_id),
            )
            data = stored_json(backoff_ms=backoff_ms)
            parts.log_event(connection, lease.execution_id, seq, "StepRetrying", now, step.step_id, step.attempt, data)

        await self._commit(write)

    async def step_failed(self, lease: Lease, step: StepRecord, error: ErrorRecord, is_new: bool, at: datetime) -> None:
        """Record that a step failed for good."""
        now = stored_text(at)

        def write(connection: sqlite3.Connection) -> None:
            self._check(connection, lease)
            connection.execute(
                "UPDATE steps SET status = 'failed', completed_at = ?, error_message = ?, next_attempt_at = NULL,"
                " revision = revision + 1, updated_at = ? WHERE execution_id = ? AND step_id = ?",
                (now, error.error_message, now, lease.execution_id, step.step_id),
            )
            if is_new:
                parts.insert_error(connection, lease, step, error)

        await self._commit(write)

    async def step_refused(
        self, lease: Lease, step: StepRecord, attempt: int, interrupted_seq: int | None, at: datetime
    ) -> None:
        """Record that a step's circuit is open and its ``on_open`` handler begins."""
        now = stored_text(at)

        def write(connection: sqlite3.Connection) -> None:
            self._check(connection, lease)
            if interrupted_seq is not None:
                parts.interrupt_step(connection, lease, step, interrupted_seq, now)
            connection.execute(
                "INSERT INTO steps (execution_id, step_id, status, attempt, error_message, created_at, updated_at)"
                " VALUES (?, ?, 'pending', ?, ?, ?, ?) ON CONFLICT (execution_id, step_id) DO UPDATE SET"
                " status = 'pending', attempt = excluded.attempt, error_message = excluded.error_message,"
                " started_seq = NULL, next_attempt_at = NULL, revision = revision + 1,"
                " updated_at = excluded.updated_at",
                (lease.execution_id, step.step_id, attempt, CIRCUIT_IS_OPEN, now, now),
            )

        await self._commit(write)

    async def step_skipped(
        self, lease: Lease, step: StepRecord, result_data: str | None, seq: int, at: datetime
    ) -> None:
        """Record that a step is skipped, with the value that ``on_open`` or the workflow supplied."""
        now = stored_text(at)

        def write(connection: sqlite3.Connection) -> None:
            self._check(connection, lease)
            connection.execute(
                "INSERT INTO steps (execution_id, step_id, status, attempt, completed_at, result_data, completed_seq,"
                " created_at, updated_at) VALUES (?, ?, 'skipped', ?, ?, ?, ?, ?, ?)"
                " ON CONFLICT (execution_id, step_id) DO UPDATE SET status = 'skipped',"
                " completed_at = excluded.completed_at, result_data = excluded.result_data, error_message = NULL,"
                " completed_seq = excluded.completed_seq, revision = revision + 1, updated_at = excluded.updated_at",
                (lease.execution_id, step.step_id, step.attempt, now, result_data, seq, now, now),
            )

        await self._commit(write)

    async def sleep_started(
        self,
        lease: Lease,
        step: StepRecord,
        duration_ms: int,
        wake_time: int,
        seq: int,
        at: datetime,
        status: ExecutionStatus | None,
    ) -> None:
        """Record a durable sleep and when it ends."""
        now = stored_text(at)

        def write(connection: sqlite3.Connection) -> None:
            self._check(connection, lease)
            self._set_status(connection, lease, status, now)
            connection.execute(
                "INSERT INTO steps (execution_id, step_id, kind, status, started_at, wake_time, duration_ms,"
                " started_seq, created_at, updated_at) VALUES (?, ?, 'sleep', 'sleeping', ?, ?, ?, ?, ?, ?)",
                (lease.execution_id, step.step_id, now, wake_time, duration_ms, seq, now, now),
            )

        await self._commit(write)

    async def sleep_completed(
        self, lease: Lease, step: StepRecord, seq: int, at: datetime, status: ExecutionStatus | None
    ) -> None:
        """Record that a durable sleep is over."""
        now = stored_text(at)

        def write(connection: sqlite3.Connection) -> None:
            self._check(connection, lease)
            self._set_status(connection, lease, status, now)
            connection.execute(
                "UPDATE steps SET status = 'completed', completed_at = ?, completed_seq = ?, revision = revision + 1,"
                " updated_at = ? WHERE execution_id = ? AND step_id = ?",
                (now, seq, now, lease.execution_id, step.step_id),
            )

        await self._commit(write)

    async def circuit_admitted(
        self,
        lease: Lease,
        step_id: str,
        admit: Callable[[CircuitState], tuple[bool, CircuitState]],
        seq: int,
        at: datetime,
    ) -> tuple[bool, CircuitState, CircuitState]:
        """Ask the circuit whether an attempt may run, and store what the question changed."""
        with self.reading() as connection:
            before = parts.select_circuit(connection, lease.workflow_name, step_id)
            allowed, after = admit(before)
            if after is before:
                return allowed, before, after
        with self.transaction() as connection:
            self._check(connection, lease)
            before = parts.select_circuit(connection, lease.workflow_name, step_id)
            allowed, after = admit(before)
            parts.store_circuit(connection, lease, step_id, before, after, seq, stored_text(at))
        return allowed, before, after

    async def circuit_forced(
        self, workflow_name: str, step_id: str, transition: Callable[[CircuitState], CircuitState]
    ) -> CircuitState:
        """Set a circuit by hand; return its new state."""
        with self.transaction() as connection:
            after = transition(parts.select_circuit(connection, workflow_name, step_id))
            parts.upsert_circuit(connection, workflow_name, step_id, after)
        return after
