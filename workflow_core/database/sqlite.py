"""One SQLite database of executions, in a file or in memory, by the same SQL."""

from __future__ import annotations

import itertools
import sqlite3
from datetime import datetime
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec, TypeVar

import pydantic_core

from workflow_core.circuit_breaker import CircuitState
from workflow_core.crash_loops import Recoveries
from workflow_core.database import listing, removal
from workflow_core.database.connection import Database
from workflow_core.database.diagnosis import storage_error
from workflow_core.database.store import ABANDONED, ErrorRecord, ExecutionRecord, Lease, StepRecord, WorkflowRecord
from workflow_core.errors import ExecutionNotFoundError, LeaseLostError
from workflow_core.events import event_from_row
from workflow_core.ownership import Owner

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from workflow_core.database.listing import UnfinishedExecution
    from workflow_core.database.removal import Candidate, Expiry, Space
    from workflow_core.database.store import CircuitChange, NewExecution
    from workflow_core.events import Event
    from workflow_core.models import ExecutionStatus
    from workflow_core.summaries import ExecutionSummary, Position

P = ParamSpec("P")
T = TypeVar("T")

__all__ = ["SQLiteStore"]

_FENCE: Final = "SELECT 1 FROM executions WHERE id = ? AND fencing_token = ?"

_EXECUTION_COLUMNS: Final = (
    "e.id, e.workflow_name, e.status, e.started_at, e.completed_at, e.restart_attempt, e.error_data, e.input_data, "
    "e.output_data, e.retry_config, e.panic_config, e.deadline_at, e.restart_at, e.owner_id, e.fencing_token, "
    "e.definition_revision"
)

_SKIPPED_UNTRIED: Final = "status = 'skipped' AND attempt = 0"
"""Steps that were skipped because of others, not by an open circuit: a restart decides anew about them."""

_BEGINS_AGAIN: Final = f"(status NOT IN ('completed', 'skipped', 'sleeping') OR {_SKIPPED_UNTRIED})"
"""Steps that a restart begins again."""

_LEASE_TOLERANCE_MS: Final = 1_000
"""A lease that starting an execution would prolong by less than this is left as it is."""

_NOBODY: Final = ""
"""The owner of an execution that broke out of its process: nobody, and not in an orderly way."""

_CIRCUIT_EVENTS: Final = {"open": "CircuitOpened", "half_open": "CircuitHalfOpened", "closed": "CircuitClosed"}


def _text(at: datetime) -> str:
    return at.isoformat(timespec="microseconds")


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def _json(**data: object) -> str:
    return pydantic_core.to_json(data).decode()


class SQLiteStore(Database):
    """A store in one SQLite database, which may hold any number of workflows.

    Args:
        path: The database file; ``None`` keeps it in memory.
        synchronous: ``NORMAL``, or ``FULL`` to survive power cuts.
        busy_timeout_ms: How long a write waits for another process's lock, in milliseconds.
        connection: An open connection to use instead of opening one; it is not closed with the store.
        before_opening: Called before the file is opened, which happens at the first use then, instead of at once.
    """

    def __init__(
        self,
        path: Path | None = None,
        *,
        synchronous: str = "NORMAL",
        busy_timeout_ms: int = 5_000,
        connection: sqlite3.Connection | None = None,
        before_opening: Callable[[], None] | None = None,
    ) -> None:
        self._known_owners: dict[str, int | None] = {}
        super().__init__(
            path,
            synchronous=synchronous,
            busy_timeout_ms=busy_timeout_ms,
            connection=connection,
            before_opening=before_opening,
        )

    def forked(self) -> None:
        """Begin again in a child process, which may not use a connection of its parent's."""
        super().forked()
        self._known_owners = {}

    def roll_back(self) -> None:
        """End a transaction that failed, which may have been the one that recorded an owner."""
        super().roll_back()
        self._known_owners = {}

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
        now = _text(at)
        with self.transaction() as connection:
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
            return self._select_execution(connection, execution.execution_id)

    async def execution_recovered(
        self, lease: Lease, owner: Owner, lease_expires_at: int | None, status: ExecutionStatus, seq: int, at: datetime
    ) -> Lease:
        """Take an execution over; return the new lease."""
        now = _text(at)
        with self.transaction() as connection:
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
            seq = max(seq, self._last_seq(connection, lease.execution_id) + 1)
            data = _json(released=True) if released else None
            self._log(connection, lease.execution_id, seq, "ExecutionRecovered", now, data=data)
        return Lease(lease.workflow_name, lease.execution_id, lease.fencing_token + 1)

    async def execution_completed(
        self, lease: Lease, output_data: str | None, abandoned_steps: bool, seq: int, at: datetime
    ) -> None:
        """Record that the handler returned."""
        now = _text(at)
        with self.transaction() as connection:
            self._update_execution(
                connection,
                lease,
                now,
                "status = 'completed', completed_at = ?, output_data = ?, error_message = NULL, error_data = NULL,"
                " owner_id = NULL, completed_seq = ?",
                (now, output_data, seq),
            )
            if abandoned_steps:
                self._abandon_steps(connection, lease.execution_id, now)

    async def execution_failed(self, lease: Lease, error_data: str, message: str, seq: int, at: datetime) -> None:
        """Record that the execution failed for good."""
        now = _text(at)
        with self.transaction() as connection:
            self._update_execution(
                connection,
                lease,
                now,
                "status = 'failed', completed_at = ?, error_data = ?, error_message = ?, owner_id = NULL,"
                " restart_at = NULL",
                (now, error_data, message),
            )
            self._abandon_steps(connection, lease.execution_id, now)
            error = pydantic_core.from_json(error_data)
            data = _json(error=error["type"], message=error["message"])
            self._log(connection, lease.execution_id, seq, "ExecutionFailed", now, data=data)

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
        now = _text(at)
        with self.transaction() as connection:
            self._update_execution(
                connection,
                lease,
                now,
                "status = 'panicked', error_data = ?, error_message = ?, restart_at = ?,"
                " owner_id = CASE WHEN ? IS NULL THEN NULL ELSE owner_id END",
                (error_data, message, restart_at, restart_at),
            )
            self._log(connection, lease.execution_id, seq, "ExecutionPanicked", now, data=event_data)

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
        now = _text(at)
        with self.transaction() as connection:
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
            self._keep_start_events(connection, lease.execution_id, _BEGINS_AGAIN)
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
            data = _json(restart_attempt=restart_attempt)
            seq = max(seq, self._last_seq(connection, lease.execution_id) + 1)
            self._log(connection, lease.execution_id, seq, "ExecutionRestarted", now, data=data)
        return Lease(lease.workflow_name, lease.execution_id, lease.fencing_token + 1)

    async def execution_cancelled(self, lease: Lease, seq: int, at: datetime) -> None:
        """Record a cancellation and end the lease."""
        now = _text(at)
        with self.transaction() as connection:
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
            seq = max(seq, self._last_seq(connection, lease.execution_id) + 1)
            self._log(connection, lease.execution_id, seq, "ExecutionCancelled", now)

    async def execution_released(self, lease: Lease, give_back: bool, at: datetime, seq: int) -> None:
        """Give an unfinished execution back; with ``give_back`` an attempt in flight as well, else it is used up."""
        now = _text(at)
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
            seq = self._last_seq(connection, lease.execution_id) + 1
            in_flight = "status = 'running' AND kind = 'step' AND error_message IS NULL"
            self._keep_start_events(connection, lease.execution_id, in_flight)
            connection.execute(
                "UPDATE steps SET status = 'pending', attempt = attempt - 1, started_seq = NULL,"
                f" revision = revision + 1, updated_at = ? WHERE execution_id = ? AND {in_flight}",
                (now, lease.execution_id),
            )
            for offset, (step_id, attempt) in enumerate(running):
                self._log(connection, lease.execution_id, seq + offset, "StepInterrupted", now, step_id, attempt)

    async def executions_released(self, leases: Sequence[Lease], at: datetime) -> None:
        """Give executions back of which nothing is under way."""
        now = _text(at)
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
        now = _text(at)
        if step.stored or status is not None:
            with self.transaction() as connection:
                self._check(connection, lease)
                self._set_status(connection, lease, status, now)
                if step.status == "running" and step.started_seq is not None:
                    interrupted = self._interrupted(connection, lease, step, seq, now)
                    seq += interrupted
                if step.stored:
                    connection.execute(
                        "UPDATE steps SET status = 'running', attempt = ?, started_at = ?, started_seq = ?,"
                        " next_attempt_at = NULL, error_message = NULL, revision = revision + 1, updated_at = ?"
                        " WHERE execution_id = ? AND step_id = ?",
                        (attempt, now, seq, now, lease.execution_id, step.step_id),
                    )
                else:
                    self._insert_started(connection, lease, step, attempt, seq, now)
            return
        with self._lock:
            try:
                self._insert_started(self.connection, lease, step, attempt, seq, now)
            except sqlite3.Error as error:
                raise storage_error(error, self.location()) from error

    def _insert_started(
        self, connection: sqlite3.Connection, lease: Lease, step: StepRecord, attempt: int, seq: int, now: str
    ) -> None:
        cursor = connection.execute(
            "INSERT INTO steps (execution_id, step_id, status, started_at, attempt, started_seq, created_at,"
            " updated_at) SELECT id, ?2, 'running', ?3, ?4, ?5, ?3, ?3 FROM executions"
            " WHERE id = ?1 AND fencing_token = ?6",
            (lease.execution_id, step.step_id, now, attempt, seq, lease.fencing_token),
        )
        if cursor.rowcount != 1:
            raise self._lease_lost(lease)

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
        now = _text(at)
        values = (
            lease.execution_id,
            step.step_id,
            now,
            result_data,
            handled_by,
            seq,
            lease.fencing_token,
        )
        statement = (
            "UPDATE steps SET status = 'completed', completed_at = ?3, result_data = ?4, handled_by = ?5,"
            " completed_seq = ?6, error_message = NULL, revision = revision + 1, updated_at = ?3"
            " WHERE execution_id = ?1 AND step_id = ?2"
            " AND EXISTS (SELECT 1 FROM executions WHERE id = ?1 AND fencing_token = ?7)"
        )
        if circuit is None and status is None:
            with self._lock:
                try:
                    changed = self.connection.execute(statement, values).rowcount
                except sqlite3.Error as error:
                    raise storage_error(error, self.location()) from error
            if changed != 1:
                raise self._lease_lost(lease)
            return None
        with self.transaction() as connection:
            if connection.execute(statement, values).rowcount != 1:
                raise self._lease_lost(lease)
            self._set_status(connection, lease, status, now)
            return self._change_circuit(connection, lease, step.step_id, circuit, now)

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
        now = _text(at)
        with self.transaction() as connection:
            self._check(connection, lease)
            self._set_status(connection, lease, status, now)
            self._keep_start_events(connection, lease.execution_id, "step_id = ?", (step.step_id,))
            connection.execute(
                "UPDATE steps SET status = 'running', attempt = ?, started_seq = NULL, error_message = ?,"
                " revision = revision + 1, updated_at = ? WHERE execution_id = ? AND step_id = ?",
                (error.attempt, error.error_message, now, lease.execution_id, step.step_id),
            )
            self._insert_error(connection, lease, step, error)
            data = _json(error=error.error_type, message=error.error_message)
            self._log(connection, lease.execution_id, seq, "StepFailed", now, step.step_id, error.attempt, data)
            return self._change_circuit(connection, lease, step.step_id, circuit, now)

    async def step_retrying(
        self, lease: Lease, step: StepRecord, next_attempt_at: int, backoff_ms: int, seq: int, at: datetime
    ) -> None:
        """Record when the next attempt is due."""
        now = _text(at)
        with self.transaction() as connection:
            self._check(connection, lease)
            connection.execute(
                "UPDATE steps SET status = 'retrying', next_attempt_at = ?, revision = revision + 1, updated_at = ?"
                " WHERE execution_id = ? AND step_id = ?",
                (next_attempt_at, now, lease.execution_id, step.step_id),
            )
            data = _json(backoff_ms=backoff_ms)
            self._log(connection, lease.execution_id, seq, "StepRetrying", now, step.step_id, step.attempt, data)

    async def step_failed(self, lease: Lease, step: StepRecord, error: ErrorRecord, is_new: bool, at: datetime) -> None:
        """Record that a step failed for good."""
        now = _text(at)
        with self.transaction() as connection:
            self._check(connection, lease)
            connection.execute(
                "UPDATE steps SET status = 'failed', completed_at = ?, error_message = ?, next_attempt_at = NULL,"
                " revision = revision + 1, updated_at = ? WHERE execution_id = ? AND step_id = ?",
                (now, error.error_message, now, lease.execution_id, step.step_id),
            )
            if is_new:
                self._insert_error(connection, lease, step, error)

    async def step_refused(self, lease: Lease, step: StepRecord, attempt: int, at: datetime) -> None:
        """Record that a step's circuit is open and its ``on_open`` handler begins."""
        now = _text(at)
        with self.transaction() as connection:
            self._check(connection, lease)
            connection.execute(
                "INSERT INTO steps (execution_id, step_id, status, attempt, error_message, created_at, updated_at)"
                " VALUES (?1, ?2, 'pending', ?3, ?4, ?5, ?5) ON CONFLICT (execution_id, step_id) DO UPDATE SET"
                " status = 'pending', attempt = ?3, error_message = ?4, next_attempt_at = NULL,"
                " revision = revision + 1, updated_at = ?5",
                (lease.execution_id, step.step_id, attempt, "the circuit is open", now),
            )

    async def step_skipped(
        self, lease: Lease, step: StepRecord, result_data: str | None, seq: int, at: datetime
    ) -> None:
        """Record that a step is skipped, with the value that ``on_open`` or the workflow supplied."""
        now = _text(at)
        with self.transaction() as connection:
            self._check(connection, lease)
            connection.execute(
                "INSERT INTO steps (execution_id, step_id, status, attempt, completed_at, result_data, completed_seq,"
                " created_at, updated_at) VALUES (?1, ?2, 'skipped', ?3, ?4, ?5, ?6, ?4, ?4)"
                " ON CONFLICT (execution_id, step_id) DO UPDATE SET status = 'skipped', completed_at = ?4,"
                " result_data = ?5, error_message = NULL, completed_seq = ?6, revision = revision + 1, updated_at = ?4",
                (lease.execution_id, step.step_id, step.attempt, now, result_data, seq),
            )

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
        now = _text(at)
        with self.transaction() as connection:
            self._check(connection, lease)
            self._set_status(connection, lease, status, now)
            connection.execute(
                "INSERT INTO steps (execution_id, step_id, kind, status, started_at, wake_time, duration_ms,"
                " started_seq, created_at, updated_at) VALUES (?1, ?2, 'sleep', 'sleeping', ?3, ?4, ?5, ?6, ?3, ?3)",
                (lease.execution_id, step.step_id, now, wake_time, duration_ms, seq),
            )

    async def sleep_completed(
        self, lease: Lease, step: StepRecord, seq: int, at: datetime, status: ExecutionStatus | None
    ) -> None:
        """Record that a durable sleep is over."""
        now = _text(at)
        with self.transaction() as connection:
            self._check(connection, lease)
            self._set_status(connection, lease, status, now)
            connection.execute(
                "UPDATE steps SET status = 'completed', completed_at = ?, completed_seq = ?, revision = revision + 1,"
                " updated_at = ? WHERE execution_id = ? AND step_id = ?",
                (now, seq, now, lease.execution_id, step.step_id),
            )

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
            before = self._select_circuit(connection, lease.workflow_name, step_id)
            allowed, after = admit(before)
            if after is before:
                return allowed, before, after
        with self.transaction() as connection:
            self._check(connection, lease)
            before = self._select_circuit(connection, lease.workflow_name, step_id)
            allowed, after = admit(before)
            self._store_circuit(connection, lease, step_id, before, after, seq, _text(at))
        return allowed, before, after

    async def circuit_forced(
        self, workflow_name: str, step_id: str, transition: Callable[[CircuitState], CircuitState]
    ) -> CircuitState:
        """Set a circuit by hand; return its new state."""
        with self.transaction() as connection:
            after = transition(self._select_circuit(connection, workflow_name, step_id))
            self._upsert_circuit(connection, workflow_name, step_id, after)
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

    # Reading ---------------------------------------------------------------------------------------------------------

    async def load_execution(self, execution_id: str) -> ExecutionRecord | None:
        """Read an execution."""
        rows = self.select(f"SELECT {_EXECUTION_COLUMNS} FROM executions e WHERE e.id = ?", (execution_id,))
        return _execution_record(rows[0]) if rows else None

    async def find_execution_ids(self, prefix: str, limit: int) -> list[str]:
        """Read the ids that begin with a prefix, sorted."""
        rows = self.select(
            "SELECT id FROM executions WHERE id >= ?1 AND id < ?1 || '~' ORDER BY id LIMIT ?2", (prefix, limit)
        )
        return [row[0] for row in rows]

    async def list_workflows(self) -> list[WorkflowRecord]:
        """Read the workflows that have executions, sorted by name."""
        rows = self.select(
            "SELECT workflow_name, 'active', min(started_at), max(started_at), count(*) FROM executions GROUP BY 1"
            " ORDER BY 1"
        )
        return [WorkflowRecord.of_row(row) for row in rows]

    async def load_steps(self, workflow_name: str, execution_id: str) -> tuple[dict[str, StepRecord], int]:
        """Read the steps of an execution, and the highest position in its history."""
        del workflow_name
        rows = self.select(
            "SELECT step_id, kind, status, attempt, started_at, completed_at, result_data, error_message, handled_by,"
            " next_attempt_at, wake_time, duration_ms, started_seq, completed_seq FROM steps WHERE execution_id = ?"
            " ORDER BY created_at, coalesce(started_seq, completed_seq)",
            (execution_id,),
        )
        steps = {row[0]: _step_record(row) for row in rows}
        with self.reading() as connection:
            return steps, self._last_seq(connection, execution_id)

    async def load_errors(
        self, workflow_name: str, execution_id: str, step_id: str | None = None
    ) -> list[tuple[str, ErrorRecord]]:
        """Read the errors of an execution, or of one of its steps, oldest first, each with its step id."""
        del workflow_name
        rows = self.select(
            "SELECT step_id, error_type, error_message, error_stack, error_data, attempt, timestamp FROM step_errors"
            " WHERE execution_id = ?1 AND (?2 IS NULL OR step_id = ?2) ORDER BY id",
            (execution_id, step_id),
        )
        return [(row[0], ErrorRecord(*row[1:])) for row in rows]

    async def load_events(self, workflow_name: str, execution_id: str) -> list[Event]:
        """Read the history of an execution."""
        rows = self.select(
            "SELECT seq, type, step_id, attempt, at, data FROM step_events WHERE execution_id = ? ORDER BY seq",
            (execution_id,),
        )
        return [
            event_from_row(
                kind,
                seq=seq,
                at=datetime.fromisoformat(at),
                execution_id=execution_id,
                workflow_name=workflow_name,
                step_id=step_id,
                attempt=attempt,
                data=pydantic_core.from_json(data) if data else {},
            )
            for seq, kind, step_id, attempt, at, data in rows
        ]

    async def load_circuits(self, workflow_name: str | None = None) -> dict[tuple[str, str], CircuitState]:
        """Read the circuits by workflow name and step id."""
        rows = self.select(
            "SELECT workflow_name, step_id, status, failures, last_failure_time, reset_time, probe_execution_id,"
            " probe_expires_at FROM circuit_breaker_state WHERE ?1 IS NULL OR workflow_name = ?1 ORDER BY 1, 2",
            (workflow_name,),
        )
        return {(row[0], row[1]): CircuitState(*row[2:]) for row in rows}

    def read(self, function: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function with the connection, and turn SQLite's errors into `StorageError`."""
        with self.reading() as connection:
            return function(connection, *args, **kwargs)

    async def unfinished_executions(self, after: Position | None = None, limit: int = 500) -> list[UnfinishedExecution]:
        """Read executions that are not at rest, the earliest started first, with their owners."""
        return self.read(listing.unfinished_executions, after, limit)

    async def load_definition(self, revision: str) -> str | None:
        """Read the document of a declarative workflow, as executions of it were started with."""
        rows = self.select("SELECT document FROM definitions WHERE revision = ?", (revision,))
        return str(rows[0][0]) if rows else None

    async def load_recoveries(self, workflow_name: str, execution_id: str) -> Recoveries:
        """Read how often an execution was recovered since anything else has happened in it."""
        del workflow_name
        rows = self.select(
            "SELECT at, data IS NOT NULL FROM event_log WHERE execution_id = ?1 AND type = 'ExecutionRecovered'"
            " AND seq > (SELECT coalesce(max(seq), 0) FROM event_log"
            " WHERE execution_id = ?1 AND type <> 'ExecutionRecovered')"
            " AND seq > (SELECT coalesce(max(max(coalesce(started_seq, 0), coalesce(completed_seq, 0))), 0) FROM steps"
            " WHERE execution_id = ?1) ORDER BY seq DESC",
            (execution_id,),
        )
        deaths = list(itertools.takewhile(lambda row: not row[1], rows))
        if not deaths:
            return Recoveries((), 0)
        waited = self.select(
            "SELECT coalesce(max(max(coalesce(wake_time, 0), coalesce(next_attempt_at, 0))), 0) FROM steps"
            " WHERE execution_id = ? AND status IN ('sleeping', 'retrying')",
            (execution_id,),
        )
        return Recoveries([datetime.fromisoformat(at) for at, _ in reversed(deaths)], waited[0][0])

    async def load_owner(self, owner_id: str) -> tuple[Owner, int | None] | None:
        """Read an owner, and when its lease expires."""
        rows = self.select(
            "SELECT host, pid, process_started, owner_id, lease_expires_at FROM owners WHERE owner_id = ?", (owner_id,)
        )
        return (Owner(*rows[0][:4]), rows[0][4]) if rows else None

    async def list_executions(
        self,
        workflow_name: str | None = None,
        status: Sequence[ExecutionStatus] | None = None,
        limit: int = 100,
        *,
        started_after: datetime | None = None,
        started_before: datetime | None = None,
        before: Position | None = None,
    ) -> list[ExecutionSummary]:
        """Read executions in short, the latest started first."""
        return self.read(listing.list_executions, workflow_name, status, started_after, started_before, before, limit)

    async def count_executions(self, workflow_name: str | None = None) -> dict[str, dict[ExecutionStatus, int]]:
        """Count the executions by workflow and status."""
        return self.read(listing.count_executions, workflow_name)

    # Removing --------------------------------------------------------------------------------------------------------

    async def workflows_with_executions(self, workflow_name: str | None = None) -> list[str]:
        """Return the names of the workflows that have executions here, or of those the one that is named."""
        names = self.read(listing.stored_names)
        return names if workflow_name is None else [name for name in names if name == workflow_name]

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
            raise self._lease_lost(lease)

    def _lease_lost(self, lease: Lease) -> LeaseLostError:
        return LeaseLostError(
            f'Execution "{lease.execution_id}" of workflow "{lease.workflow_name}" was taken over, ended or cancelled '
            "elsewhere; this process no longer writes it",
            lease.execution_id,
        )

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
            if self._select_execution_row(connection, lease.execution_id) is None:
                raise ExecutionNotFoundError(f'No execution "{lease.execution_id}" in {self.location()}')
            raise self._lease_lost(lease)

    def _set_status(
        self, connection: sqlite3.Connection, lease: Lease, status: ExecutionStatus | None, now: str
    ) -> None:
        if status is not None:
            self._update_execution(connection, lease, now, "status = ?", (status,))

    def _keep_start_events(
        self, connection: sqlite3.Connection, execution_id: str, condition: str, values: tuple[object, ...] = ()
    ) -> None:
        """Copy the start of attempts into the log before their rows take up the next attempt."""
        connection.execute(
            "INSERT INTO event_log (execution_id, seq, type, step_id, attempt, at)"
            " SELECT execution_id, started_seq, 'StepStarted', step_id, attempt, started_at FROM steps"
            f" WHERE execution_id = ? AND started_seq IS NOT NULL AND kind = 'step' AND {condition}",
            (execution_id, *values),
        )

    def _insert_error(self, connection: sqlite3.Connection, lease: Lease, step: StepRecord, error: ErrorRecord) -> None:
        connection.execute(
            "INSERT INTO step_errors (execution_id, step_id, error_type, error_message, error_stack, error_data,"
            " attempt, timestamp) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                lease.execution_id,
                step.step_id,
                error.error_type,
                error.error_message,
                error.error_stack,
                error.error_data,
                error.attempt,
                error.timestamp,
            ),
        )

    def _abandon_steps(self, connection: sqlite3.Connection, execution_id: str, now: str) -> None:
        connection.execute(
            "UPDATE steps SET status = 'failed', error_message = coalesce(error_message, ?), next_attempt_at = NULL,"
            " revision = revision + 1, updated_at = ?"
            " WHERE execution_id = ? AND status IN ('pending', 'running', 'retrying', 'sleeping')",
            (ABANDONED, now, execution_id),
        )

    def _interrupted(self, connection: sqlite3.Connection, lease: Lease, step: StepRecord, seq: int, now: str) -> int:
        """Record that the attempt in a step's row was cut off by the end of its process; return how many events."""
        self._keep_start_events(connection, lease.execution_id, "step_id = ?", (step.step_id,))
        self._log(connection, lease.execution_id, seq, "StepInterrupted", now, step.step_id, step.attempt)
        return 1

    def _log(
        self,
        connection: sqlite3.Connection,
        execution_id: str,
        seq: int,
        kind: str,
        now: str,
        step_id: str | None = None,
        attempt: int | None = None,
        data: str | None = None,
    ) -> None:
        connection.execute(
            "INSERT INTO event_log (execution_id, seq, type, step_id, attempt, at, data) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (execution_id, seq, kind, step_id, attempt, now, data),
        )

    def _last_seq(self, connection: sqlite3.Connection, execution_id: str) -> int:
        row = connection.execute(
            "SELECT max(coalesce((SELECT max(seq) FROM event_log WHERE execution_id = ?1), 1),"
            " coalesce((SELECT max(max(coalesce(started_seq, 0), coalesce(completed_seq, 0))) FROM steps"
            " WHERE execution_id = ?1), 0))",
            (execution_id,),
        ).fetchone()
        return int(row[0])

    def _select_execution_row(self, connection: sqlite3.Connection, execution_id: str) -> tuple[Any, ...] | None:
        row: tuple[Any, ...] | None = connection.execute(
            f"SELECT {_EXECUTION_COLUMNS} FROM executions e WHERE e.id = ?", (execution_id,)
        ).fetchone()
        return row

    def _select_execution(self, connection: sqlite3.Connection, execution_id: str) -> ExecutionRecord | None:
        row = self._select_execution_row(connection, execution_id)
        return None if row is None else _execution_record(row)

    def _select_circuit(self, connection: sqlite3.Connection, workflow_name: str, step_id: str) -> CircuitState:
        row = connection.execute(
            "SELECT status, failures, last_failure_time, reset_time, probe_execution_id, probe_expires_at"
            " FROM circuit_breaker_state WHERE workflow_name = ? AND step_id = ?",
            (workflow_name, step_id),
        ).fetchone()
        return CircuitState() if row is None else CircuitState(*row)

    def _change_circuit(
        self, connection: sqlite3.Connection, lease: Lease, step_id: str, change: CircuitChange | None, now: str
    ) -> tuple[CircuitState, CircuitState] | None:
        if change is None:
            return None
        before = self._select_circuit(connection, lease.workflow_name, step_id)
        after = change.transition(before)
        self._store_circuit(connection, lease, step_id, before, after, change.seq, now)
        return before, after

    def _store_circuit(
        self,
        connection: sqlite3.Connection,
        lease: Lease,
        step_id: str,
        before: CircuitState,
        after: CircuitState,
        seq: int,
        now: str,
    ) -> None:
        if after == before:
            return
        self._upsert_circuit(connection, lease.workflow_name, step_id, after)
        if after.status != before.status:
            data = _json(failures=after.failures) if after.status == "open" else None
            kind = _CIRCUIT_EVENTS[after.status]
            self._log(connection, lease.execution_id, seq, kind, now, step_id, None, data)

    def _upsert_circuit(
        self, connection: sqlite3.Connection, workflow_name: str, step_id: str, state: CircuitState
    ) -> None:
        connection.execute(
            "INSERT INTO circuit_breaker_state (workflow_name, step_id, status, failures, last_failure_time,"
            " reset_time, probe_execution_id, probe_expires_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)"
            " ON CONFLICT (workflow_name, step_id) DO UPDATE SET status = ?3, failures = ?4, last_failure_time = ?5,"
            " reset_time = ?6, probe_execution_id = ?7, probe_expires_at = ?8",
            (
                workflow_name,
                step_id,
                state.status,
                state.failures,
                state.last_failure_time,
                state.reset_time,
                state.probe_execution_id,
                state.probe_expires_at,
            ),
        )


def _execution_record(row: tuple[Any, ...]) -> ExecutionRecord:
    return ExecutionRecord(row[0], row[1], row[2], datetime.fromisoformat(row[3]), _moment(row[4]), *row[5:])


def _step_record(row: tuple[Any, ...]) -> StepRecord:
    return StepRecord(
        step_id=row[0],
        kind=row[1],
        status=row[2],
        attempt=row[3],
        started_at=_moment(row[4]),
        completed_at=_moment(row[5]),
        result_data=row[6],
        error_message=row[7],
        handled_by=row[8],
        next_attempt_at=row[9],
        wake_time=row[10],
        duration_ms=row[11],
        started_seq=row[12],
        completed_seq=row[13],
        stored=True,
    )
