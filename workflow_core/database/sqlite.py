"""One SQLite database of executions, in a file or in memory, by the same SQL."""

from __future__ import annotations

import functools
import sqlite3
from typing import TYPE_CHECKING, Final, TypeVar

import pydantic_core

from workflow_core.database import parts, removal
from workflow_core.database.diagnosis import storage_error
from workflow_core.database.parts import stored_json, stored_text
from workflow_core.database.reading import ReadableDatabase
from workflow_core.database.store import Lease
from workflow_core.errors import ExecutionNotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    from workflow_core.circuit_breaker import CircuitState
    from workflow_core.database.removal import Candidate, Expiry, Space
    from workflow_core.database.store import CircuitChange, ErrorRecord, ExecutionRecord, NewExecution, StepRecord
    from workflow_core.models import ExecutionStatus
    from workflow_core.ownership import Owner
    from workflow_core.summaries import Position

__all__ = ["SQLiteStore"]

T = TypeVar("T")

_FENCE: Final = "SELECT 1 FROM executions WHERE id = ? AND fencing_token = ?"

_INSERT_STARTED: Final = (
    "INSERT INTO steps (execution_id, step_id, status, started_at, attempt, started_seq, created_at, updated_at)"
    " SELECT id, ?2, 'running', ?3, ?4, ?5, ?3, ?3 FROM executions WHERE id = ?1 AND fencing_token = ?6"
)

_COMPLETE: Final = (
    "UPDATE steps SET status = 'completed', completed_at = ?3, result_data = ?4, handled_by = ?5,"
    " completed_seq = ?6, error_message = NULL, revision = revision + 1, updated_at = ?3"
    " WHERE execution_id = ?1 AND step_id = ?2"
    " AND EXISTS (SELECT 1 FROM executions WHERE id = ?1 AND fencing_token = ?7)"
)

_SKIPPED_UNTRIED: Final = "status = 'skipped' AND attempt = 0"
"""Steps that were skipped because of others, not by an open circuit: a restart decides anew about them."""

_BEGINS_AGAIN: Final = f"(status NOT IN ('completed', 'skipped', 'sleeping') OR {_SKIPPED_UNTRIED})"
"""Steps that a restart begins again."""

_LEASE_TOLERANCE_MS: Final = 1_000
"""A lease that starting an execution would prolong by less than this is left as it is."""

_NOBODY: Final = ""
"""The owner of an execution that broke out of its process: nobody, and not in an orderly way."""


class SQLiteStore(ReadableDatabase):
    """A store in one SQLite database, which may hold any number of workflows; takes the arguments of `Database`."""

    concurrency = 1

    @functools.cached_property
    def _known_owners(self) -> dict[str, int | None]:
        return {}

    def forked(self) -> None:
        """Begin again in a child process, which may not use a connection of its parent's."""
        super().forked()
        self._known_owners = {}

    def undone(self) -> None:
        """Forget which owners are known: the write that was taken back may have been the one that recorded one."""
        self._known_owners = {}

    def for_reading(self) -> SQLiteStore | None:
        """Return another store of this file, for a thread that only reads; ``None`` of a database in memory."""
        if self._path is None or self._borrowed:
            return None
        return SQLiteStore(self._path, synchronous=self._synchronous, busy_timeout_ms=self._busy_timeout_ms)

    def workflow(self, workflow_name: str) -> SQLiteStore:
        """Return this store: one database holds every workflow."""
        del workflow_name
        return self

    # Writing ---------------------------------------------------------------------------------------------------------

    async def workflow_defined(self, workflow_name: str, definition: Mapping[str, object], at: datetime) -> None:
        """Nothing to do: one database holds every workflow."""

    async def execution_started(
        self, execution: NewExecution, owner: Owner, lease_expires_at: int | None, at: datetime
    ) -> ExecutionRecord | None:
        """Record a new execution; return ``None``, or the record of that id which was there already."""
        return await self._commit(self._starting(execution, owner, lease_expires_at, at))

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
            cursor = connection.execute(
                "INSERT INTO executions (id, workflow_name, status, started_at, input_data, retry_config, panic_config,"
                " deadline_at, owner_id, created_at, updated_at, definition_revision, fencing_token)"
                " VALUES (?, ?, 'running', ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
                " ON CONFLICT (id) DO NOTHING",
                (
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
                ),
            )
            if cursor.rowcount == 1:
                return None
            return parts.select_execution(connection, execution.execution_id)

        return write

    async def execution_recovered(
        self, lease: Lease, owner: Owner, lease_expires_at: int | None, status: ExecutionStatus, seq: int, at: datetime
    ) -> Lease:
        """Take an execution over; return the new lease."""
        now = stored_text(at)

        def write(connection: sqlite3.Connection) -> None:
            self._ensure_owner(connection, owner, lease_expires_at)
            released = connection.execute(
                "SELECT 1 FROM executions WHERE id = ? AND owner_id IS NULL", (lease.execution_id,)
            ).fetchone()
            self._update_execution(
                connection,
                lease,
                now,
                "status = ?, owner_id = ?, fencing_token = fencing_token + 1",
                (status, owner.owner_id),
                "status IN ('running', 'sleeping', 'restarting', 'panicked')",
            )
            # The first statement took the row, so no other process can have written the history since.
            place = max(seq, parts.last_seq(connection, lease.execution_id) + 1)
            data = stored_json(released=True) if released else None
            parts.log_event(connection, lease.execution_id, place, "ExecutionRecovered", now, data=data)

        await self._commit(write)
        return Lease(lease.workflow_name, lease.execution_id, lease.fencing_token + 1)

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

        await self._commit(write)

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
            parts.keep_start_events(connection, lease.execution_id, _BEGINS_AGAIN)
            connection.execute(
                "INSERT INTO event_log (execution_id, seq, type, step_id, attempt, at)"
                " SELECT execution_id, completed_seq, 'StepSkipped', step_id, attempt, completed_at FROM steps"
                f" WHERE execution_id = ? AND {_SKIPPED_UNTRIED}",
                (lease.execution_id,),
            )
            connection.execute(
                "UPDATE steps SET status = CASE kind WHEN 'sleep' THEN 'sleeping' ELSE 'pending' END, attempt = 0,"
                " next_attempt_at = NULL, started_seq = CASE kind WHEN 'sleep' THEN started_seq END,"
                " error_message = NULL, result_data = NULL, completed_seq = NULL, completed_at = NULL,"
                f" revision = revision + 1, updated_at = ? WHERE execution_id = ? AND {_BEGINS_AGAIN}",
                (now, lease.execution_id),
            )
            data = stored_json(restart_attempt=restart_attempt)
            place = max(seq, parts.last_seq(connection, lease.execution_id) + 1)
            parts.log_event(connection, lease.execution_id, place, "ExecutionRestarted", now, data=data)

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
                "UPDATE steps SET status = 'failed', error_message = 'the execution was cancelled', completed_at = ?,"
                " next_attempt_at = NULL, revision = revision + 1, updated_at = ?"
                " WHERE execution_id = ? AND status NOT IN ('completed', 'skipped', 'failed')",
                (now, now, lease.execution_id),
            )
            place = max(seq, parts.last_seq(connection, lease.execution_id) + 1)
            parts.log_event(connection, lease.execution_id, place, "ExecutionCancelled", now)

        await self._commit(write)

    async def execution_released(self, lease: Lease, give_back: bool, at: datetime, seq: int) -> None:
        """Give an unfinished execution back; with ``give_back`` an attempt in flight as well, else it is used up."""
        now = stored_text(at)
        with self.transaction() as connection:
            self._update_execution(
                connection,
                lease,
                now,
                "owner_id = ?, fencing_token = fencing_token + 1",
                (None if give_back else _NOBODY,),
            )
            if not give_back:
                return
            running = connection.execute(
                "SELECT step_id, attempt FROM steps WHERE execution_id = ? AND status = 'running' AND kind = 'step'"
                " AND error_message IS NULL",
                (lease.execution_id,),
            ).fetchall()
            if not running:
                return
            # A write that was refused may have taken a position in the history that nothing fills.
            seq = parts.last_seq(connection, lease.execution_id) + 1
            in_flight = "status = 'running' AND kind = 'step' AND error_message IS NULL"
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

    async def step_started(
        self, lease: Lease, step: StepRecord, attempt: int, seq: int, at: datetime, status: ExecutionStatus | None
    ) -> None:
        """Record that an attempt begins."""
        now = stored_text(at)
        if not step.stored and status is None:
            values = lease.execution_id, step.step_id, now, attempt, seq, lease.fencing_token
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
            place = seq
            if step.status == "running" and step.started_seq is not None:
                place += parts.interrupt_step(connection, lease, step, seq, now)
            if step.stored:
                connection.execute(
                    "UPDATE steps SET status = 'running', attempt = ?, started_at = ?, started_seq = ?,"
                    " next_attempt_at = NULL, error_message = NULL, revision = revision + 1, updated_at = ?"
                    " WHERE execution_id = ? AND step_id = ?",
                    (attempt, now, place, now, lease.execution_id, step.step_id),
                )
            else:
                values = lease.execution_id, step.step_id, now, attempt, place, lease.fencing_token
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
            lease.execution_id,
            step.step_id,
            now,
            result_data,
            handled_by,
            seq,
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

    async def step_refused(self, lease: Lease, step: StepRecord, attempt: int, at: datetime) -> None:
        """Record that a step's circuit is open and its ``on_open`` handler begins."""
        now = stored_text(at)

        def write(connection: sqlite3.Connection) -> None:
            self._check(connection, lease)
            connection.execute(
                "INSERT INTO steps (execution_id, step_id, status, attempt, error_message, created_at, updated_at)"
                " VALUES (?1, ?2, 'pending', ?3, ?4, ?5, ?5) ON CONFLICT (execution_id, step_id) DO UPDATE SET"
                " status = 'pending', attempt = ?3, error_message = ?4, next_attempt_at = NULL,"
                " revision = revision + 1, updated_at = ?5",
                (lease.execution_id, step.step_id, attempt, "the circuit is open", now),
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
                " created_at, updated_at) VALUES (?1, ?2, 'skipped', ?3, ?4, ?5, ?6, ?4, ?4)"
                " ON CONFLICT (execution_id, step_id) DO UPDATE SET status = 'skipped', completed_at = ?4,"
                " result_data = ?5, error_message = NULL, completed_seq = ?6, revision = revision + 1, updated_at = ?4",
                (lease.execution_id, step.step_id, step.attempt, now, result_data, seq),
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
                " started_seq, created_at, updated_at) VALUES (?1, ?2, 'sleep', 'sleeping', ?3, ?4, ?5, ?6, ?3, ?3)",
                (lease.execution_id, step.step_id, now, wake_time, duration_ms, seq),
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

    async def lease_renewed(
        self, owner: Owner, lease_expires_at: int | None, leases: Sequence[Lease]
    ) -> set[tuple[str, int]]:
        """Prolong an owner's lease; return the ids and fencing tokens of those ``leases`` that it still has."""
        ids = pydantic_core.to_json([lease.execution_id for lease in leases]).decode()
        with self.transaction() as connection:
            connection.execute(
                "UPDATE owners SET lease_expires_at = ? WHERE owner_id = ?", (lease_expires_at, owner.owner_id)
            )
            if owner.owner_id in self._known_owners:
                self._known_owners[owner.owner_id] = lease_expires_at
            return set(
                connection.execute(
                    "SELECT e.id, e.fencing_token FROM json_each(?) AS held"
                    " CROSS JOIN executions e ON e.id = held.value WHERE e.owner_id = ?",
                    (ids, owner.owner_id),
                )
            )

    async def owner_retired(self, owner: Owner) -> None:
        """Forget an owner that ended in an orderly way."""
        if owner.owner_id in self._known_owners:
            with self.transaction() as connection:
                connection.execute("DELETE FROM owners WHERE owner_id = ?", (owner.owner_id,))
            del self._known_owners[owner.owner_id]

    # Removing --------------------------------------------------------------------------------------------------------

    async def executions_to_remove(
        self, workflow_name: str, expiry: Expiry, after: Position | None, limit: int
    ) -> list[Candidate]:
        """Read which executions of a workflow have expired, the earliest started first."""
        return self.read(removal.candidates, workflow_name, expiry, after, limit)

    async def executions_removed(
        self,
        workflow_name: str,
        expiry: Expiry,
        after: Position | None,
        limit: int,
        enough: Callable[[], bool],
        *,
        known_elsewhere: bool = False,
    ) -> tuple[list[Candidate], Position | None]:
        """Remove expired executions in one transaction; with ``known_elsewhere`` note which ones."""
        found = self.read(removal.candidates, workflow_name, expiry, after, limit)
        if not found:
            return [], None
        with self.transaction() as connection:
            removed, place = removal.remove(connection, found, expiry, enough, known_elsewhere=known_elsewhere)
        return removed, place

    async def removal_finished(self, workflow_name: str) -> None:
        """Nothing to do: nothing is known of an execution outside this database."""

    def names_removed(self, limit: int) -> list[tuple[str, bool]]:
        """Read ids that were removed here and may be known elsewhere, each with whether it is in use again."""
        return self.read(removal.names_removed, limit)

    def forget_removed(self, execution_ids: Sequence[str]) -> None:
        """Note that nothing is known any more of removed executions."""
        with self.transaction() as connection:
            removal.forget_removed(connection, execution_ids)

    async def logs_removed(self, workflow_name: str, before: datetime, dry_run: bool) -> int:
        """Nothing to do: a single database has no logs beside it."""
        del workflow_name, before, dry_run
        return 0

    async def space(self, workflow_name: str) -> Space:
        """Tell how much room the database takes."""
        del workflow_name
        return self.read(removal.space)

    async def shrunk(self, workflow_name: str, pages: int) -> bool:
        """Give free pages back to the file system; return whether there may be more."""
        del workflow_name
        return self.read(removal.shrink, pages)

    # Transactions ----------------------------------------------------------------------------------------------------

    async def _commit(self, write: Callable[[sqlite3.Connection], T]) -> T:
        """Write in a transaction, shared with the durable points that other tasks make in this turn of the loop."""
        if self.groups.is_alone():
            return self._commit_at_once(write)
        return await self.groups.commit(write, is_single=False)

    def _change_one(self, lease: Lease, statement: str, values: tuple[object, ...]) -> None:
        """Change one row by one statement, which needs no transaction of its own."""
        with self.lock:
            try:
                changed = (self._connection or self.connection).execute(statement, values).rowcount
            except sqlite3.Error as error:
                raise storage_error(error, self.location()) from error
        if changed != 1:
            raise lease.lost()

    async def _change_in_group(self, lease: Lease, statement: str, values: tuple[object, ...]) -> None:
        """Do the same in a transaction that is shared."""
        await self.groups.commit(lambda connection: self._change(connection, lease, statement, values), is_single=True)

    def _commit_at_once(self, write: Callable[[sqlite3.Connection], T]) -> T:
        """Write in a transaction of its own, after what waits for one.

        What counts on a circuit may give its position in the history back, so nobody may take the next one meanwhile.
        """
        with self.transaction() as connection:
            return write(connection)

    # Parts of transactions -------------------------------------------------------------------------------------------

    def _ensure_owner(self, connection: sqlite3.Connection, owner: Owner, lease_expires_at: int | None) -> None:
        known = self._known_owners.get(owner.owner_id, 0)
        if known is None or (lease_expires_at is not None and lease_expires_at - known < _LEASE_TOLERANCE_MS):
            return
        connection.execute(
            "INSERT INTO owners (owner_id, host, pid, process_started, lease_expires_at) VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT (owner_id) DO UPDATE SET lease_expires_at = excluded.lease_expires_at",
            (owner.owner_id, owner.host, owner.pid, owner.process_started, lease_expires_at),
        )
        self._known_owners[owner.owner_id] = lease_expires_at

    def _check(self, connection: sqlite3.Connection, lease: Lease) -> None:
        if connection.execute(_FENCE, (lease.execution_id, lease.fencing_token)).fetchone() is None:
            raise lease.lost()

    def _change(self, connection: sqlite3.Connection, lease: Lease, statement: str, values: tuple[object, ...]) -> None:
        if connection.execute(statement, values).rowcount != 1:
            raise lease.lost()

    def _update_execution(
        self,
        connection: sqlite3.Connection,
        lease: Lease,
        now: str,
        assignments: str,
        values: tuple[object, ...],
        condition: str = "TRUE",
    ) -> None:
        cursor = connection.execute(
            f"UPDATE executions SET {assignments}, revision = revision + 1, updated_at = ?"
            f" WHERE id = ? AND fencing_token = ? AND {condition}",
            (*values, now, lease.execution_id, lease.fencing_token),
        )
        if cursor.rowcount != 1:
            if parts.select_execution_row(connection, lease.execution_id) is None:
                raise ExecutionNotFoundError(f'No execution "{lease.execution_id}" in {self.location()}')
            raise lease.lost()

    def _set_status(
        self, connection: sqlite3.Connection, lease: Lease, status: ExecutionStatus | None, now: str
    ) -> None:
        if status is not None:
            self._update_execution(connection, lease, now, "status = ?", (status,))
