"""The durable points of executions in one SQLite database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pydantic_core

from workflow_core.database import parts
from workflow_core.database.moments import stored_text
from workflow_core.database.parts import stored_json
from workflow_core.database.store import CANCELLED, NOBODY, HistoryEnd, Lease
from workflow_core.database.writing import WritableDatabase

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from workflow_core.database.store import ExecutionRecord, NewExecution
    from workflow_core.ownership import Owner

__all__ = ["ExecutionPoints"]

_INSERT_EXECUTION: Final = (
    "INSERT INTO executions (id, workflow_name, status, started_at, input_data, retry_config, panic_config,"
    " deadline_at, owner_id, created_at, updated_at, definition_revision, fencing_token)"
    " VALUES (?, ?, 'running', ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (id) DO NOTHING"
)


class ExecutionPoints(WritableDatabase):
    """Writes what becomes of executions."""

    async def execution_started(
        self, execution: NewExecution, owner: Owner, lease_expires_at: int | None, at: datetime
    ) -> ExecutionRecord | None:
        """Record a new execution; return ``None``, or the record of that id which was there already."""
        is_single = execution.definition_document is None and self._is_recorded(owner, lease_expires_at)
        return await self._commit(self._starting(execution, owner, lease_expires_at, at), is_single=is_single)

    def execution_started_at_once(
        self, execution: NewExecution, owner: Owner, lease_expires_at: int | None, at: datetime
    ) -> ExecutionRecord | None:
        """Do the same without waiting for anybody, for a caller that holds a lock of its own."""
        return self._commit_at_once(self._starting(execution, owner, lease_expires_at, at))

    def _starting(
        self, execution: NewExecution, owner: Owner, lease_expires_at: int | None, at: datetime
    ) -> Callable[[sqlite3.Connection], ExecutionRecord | None]:
        now = stored_text(at)

        def write(connection: sqlite3.Connection) -> ExecutionRecord | None:
            self._ensure_owner(connection, owner, lease_expires_at)
            if execution.definition_document is not None:
                connection.execute(
                    "INSERT INTO definitions (revision, document) VALUES (?, ?) ON CONFLICT (revision) DO NOTHING",
                    (execution.definition_revision, execution.definition_document),
                )
            values = (
                execution.execution_id,
                execution.workflow_name,
                now,
                execution.input_data,
                execution.retry_config,
                execution.panic_config,
                execution.deadline_at,
                owner.owner_id,
                now,
                now,
                execution.definition_revision,
                execution.fencing_token,
            )
            while connection.execute(_INSERT_EXECUTION, values).rowcount != 1:
                existing = parts.select_execution(connection, execution.execution_id)
                if existing is not None:
                    return existing  # else another process has removed it in between
            return None

        return write

    async def execution_recovered(
        self, lease: Lease, owner: Owner, lease_expires_at: int | None, seq: int, at: datetime
    ) -> Lease:
        """Take an execution over; return the new lease."""
        now = stored_text(at)

        def write(connection: sqlite3.Connection) -> HistoryEnd:
            self._ensure_owner(connection, owner, lease_expires_at)
            released = connection.execute(
                "SELECT 1 FROM executions WHERE id = ? AND owner_id IS NULL", (lease.execution_id,)
            ).fetchone()
            self._update_execution(
                connection,
                lease,
                now,
                "status = CASE WHEN status IN ('sleeping', 'panicked') THEN status ELSE 'running' END, owner_id = ?,"
                " fencing_token = fencing_token + 1",
                (owner.owner_id,),
                "status IN ('running', 'sleeping', 'restarting', 'panicked')",
            )
            # The first statement took the row, so no other process can have written the history since.
            place = _behind(connection, lease, seq, at)
            data = stored_json(released=True) if released else None
            moment = stored_text(place.at)
            parts.log_event(connection, lease.execution_id, place.seq, "ExecutionRecovered", moment, data=data)
            return place

        place = await self._commit(write)
        return Lease(lease.workflow_name, lease.execution_id, lease.fencing_token + 1, place)

    async def execution_completed(
        self, lease: Lease, output_data: str | None, abandoned_steps: bool, seq: int, at: datetime
    ) -> None:
        """Record that the handler returned."""
        now = stored_text(at)

        def write(connection: sqlite3.Connection) -> None:
            self._update_execution(
                connection,
                lease,
                now,
                "status = 'completed', completed_at = ?, output_data = ?, error_message = NULL, error_data = NULL,"
                " owner_id = NULL, completed_seq = ?",
                (now, output_data, seq),
            )
            if abandoned_steps:
                parts.abandon_steps(connection, lease.execution_id, now)

        await self._commit(write, is_single=not abandoned_steps)

    async def execution_failed(self, lease: Lease, error_data: str, message: str, seq: int, at: datetime) -> None:
        """Record that the execution failed for good."""
        now = stored_text(at)

        def write(connection: sqlite3.Connection) -> None:
            self._update_execution(
                connection,
                lease,
                now,
                "status = 'failed', completed_at = ?, error_data = ?, error_message = ?, owner_id = NULL,"
                " restart_at = NULL",
                (now, error_data, message),
            )
            parts.abandon_steps(connection, lease.execution_id, now)
            error = pydantic_core.from_json(error_data)
            data = stored_json(error=error["type"], message=error["message"])
            parts.log_event(connection, lease.execution_id, seq, "ExecutionFailed", now, data=data)

        await self._commit(write)

    async def execution_panicked(
        self,
        lease: Lease,
        error_data: str,
        message: str,
        restart_at: int | None,
        event_data: str,
        seq: int,
        at: datetime,
    ) -> None:
        """Record a panic, and when the automatic restart is due."""
        now = stored_text(at)

        def write(connection: sqlite3.Connection) -> None:
            self._update_execution(
                connection,
                lease,
                now,
                "status = 'panicked', error_data = ?, error_message = ?, restart_at = ?,"
                " owner_id = CASE WHEN ? IS NULL THEN NULL ELSE owner_id END",
                (error_data, message, restart_at, restart_at),
            )
            parts.log_event(connection, lease.execution_id, seq, "ExecutionPanicked", now, data=event_data)

        await self._commit(write)

    async def execution_restarted(
        self,
        lease: Lease,
        owner: Owner,
        lease_expires_at: int | None,
        restart_attempt: int,
        deadline_at: int | None,
        seq: int,
        at: datetime,
    ) -> Lease:
        """Begin again with completed steps kept and all other steps' attempts given back."""
        now = stored_text(at)

        def write(connection: sqlite3.Connection) -> None:
            self._ensure_owner(connection, owner, lease_expires_at)
            self._update_execution(
                connection,
                lease,
                now,
                "status = 'restarting', completed_at = NULL, error_message = NULL, error_data = NULL,"
                " restart_at = NULL, restart_attempt = ?, owner_id = ?, deadline_at = ?,"
                " fencing_token = fencing_token + 1",
                (restart_attempt, owner.owner_id, deadline_at),
                "status IN ('panicked', 'failed')",
            )
            parts.keep_start_events(connection, lease.execution_id, parts.BEGINS_AGAIN)
            connection.execute(
                "INSERT INTO event_log (execution_id, seq, type, step_id, attempt, at)"
                " SELECT execution_id, completed_seq, 'StepSkipped', step_id, attempt, completed_at FROM steps"
                f" WHERE execution_id = ? AND {parts.SKIPPED_UNTRIED}",
                (lease.execution_id,),
            )
            connection.execute(
                "UPDATE steps SET status = CASE kind WHEN 'sleep' THEN 'sleeping' ELSE 'pending' END, attempt = 0,"
                " next_attempt_at = NULL, started_seq = CASE kind WHEN 'sleep' THEN started_seq END,"
                " error_message = NULL, result_data = NULL, completed_seq = NULL, completed_at = NULL,"
                f" revision = revision + 1, updated_at = ? WHERE execution_id = ? AND {parts.BEGINS_AGAIN}",
                (now, lease.execution_id),
            )
            data = stored_json(restart_attempt=restart_attempt)
            place = _behind(connection, lease, seq, at)
            moment = stored_text(place.at)
            parts.log_event(connection, lease.execution_id, place.seq, "ExecutionRestarted", moment, data=data)

        await self._commit(write)
        return Lease(lease.workflow_name, lease.execution_id, lease.fencing_token + 1)

    async def execution_cancelled(self, lease: Lease, seq: int, at: datetime) -> None:
        """Record a cancellation and end the lease."""
        now = stored_text(at)

        def write(connection: sqlite3.Connection) -> None:
            self._update_execution(
                connection,
                lease,
                now,
                "status = 'cancelled', completed_at = ?, owner_id = NULL, restart_at = NULL,"
                " fencing_token = fencing_token + 1",
                (now,),
                "status NOT IN ('completed', 'failed', 'cancelled')",
            )
            connection.execute(
                "UPDATE circuit_breaker_state SET probe_execution_id = NULL, probe_expires_at = NULL"
                " WHERE probe_execution_id = ?",
                (lease.execution_id,),
            )
            connection.execute(
                "UPDATE steps SET status = 'failed', error_message = ?, completed_at = ?,"
                " next_attempt_at = NULL, revision = revision + 1, updated_at = ?"
                " WHERE execution_id = ? AND status NOT IN ('completed', 'skipped', 'failed')",
                (CANCELLED, now, now, lease.execution_id),
            )
            place = _behind(connection, lease, seq, at)
            parts.log_event(connection, lease.execution_id, place.seq, "ExecutionCancelled", stored_text(place.at))

        await self._commit(write)

    async def execution_released(self, lease: Lease, give_back: bool, at: datetime) -> None:
        """Give an unfinished execution back; with ``give_back`` an attempt in flight as well, else it is used up."""
        now = stored_text(at)
        with self.transaction() as connection:
            self._update_execution(
                connection,
                lease,
                now,
                "owner_id = ?, fencing_token = fencing_token + 1",
                (None if give_back else NOBODY,),
            )
            if not give_back:
                return
            in_flight = "status = 'running' AND kind = 'step' AND error_message IS NULL"
            running = connection.execute(
                f"SELECT step_id, attempt FROM steps WHERE execution_id = ? AND {in_flight}",
                (lease.execution_id,),
            ).fetchall()
            if not running:
                return
            # A write that was refused may have taken a position in the history that nothing fills.
            seq = parts.history_end(connection, lease.execution_id).seq + 1
            parts.keep_start_events(connection, lease.execution_id, in_flight)
            connection.execute(
                "UPDATE steps SET status = 'pending', attempt = attempt - 1, started_seq = NULL,"
                f" revision = revision + 1, updated_at = ? WHERE execution_id = ? AND {in_flight}",
                (now, lease.execution_id),
            )
            for offset, (step_id, attempt) in enumerate(running):
                parts.log_event(connection, lease.execution_id, seq + offset, "StepInterrupted", now, step_id, attempt)

    async def executions_released(self, leases: Sequence[Lease], at: datetime) -> None:
        """Give executions back of which nothing is under way."""
        now = stored_text(at)
        with self.transaction() as connection:
            connection.executemany(
                "UPDATE executions SET owner_id = NULL, revision = revision + 1, updated_at = ?"
                " WHERE id = ? AND fencing_token = ?",
                [(now, lease.execution_id, lease.fencing_token) for lease in leases],
            )


def _behind(connection: sqlite3.Connection, lease: Lease, seq: int, at: datetime) -> HistoryEnd:
    """Return the place of an event by which an execution changes hands: behind all that is in its history."""
    end = parts.history_end(connection, lease.execution_id)
    return end._replace(seq=max(seq, end.seq + 1), at=max(at, end.at))
