"""Parts of transactions: each reads or writes rows on the connection of whoever has begun the transaction."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import pydantic_core

from workflow_core.circuit_breaker import CircuitState
from workflow_core.clock import EPOCH
from workflow_core.database.store import ABANDONED, ErrorRecord, ExecutionRecord, HistoryEnd, Lease, StepRecord

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from workflow_core.database.store import CircuitChange
    from workflow_core.models import CircuitStatus

__all__ = [
    "BEGINS_AGAIN",
    "CIRCUIT_EVENTS",
    "EXECUTION_COLUMNS",
    "SKIPPED_UNTRIED",
    "abandon_steps",
    "change_circuit",
    "execution_record",
    "history_end",
    "insert_error",
    "interrupt_step",
    "keep_start_events",
    "log_event",
    "select_circuit",
    "select_execution",
    "select_execution_row",
    "step_records",
    "store_circuit",
    "stored_json",
    "upsert_circuit",
]

EXECUTION_COLUMNS: Final = (
    "e.id, e.workflow_name, e.status, e.started_at, e.completed_at, e.restart_attempt, e.error_data, e.input_data, "
    "e.output_data, e.retry_config, e.panic_config, e.deadline_at, e.restart_at, e.owner_id, e.fencing_token, "
    "e.definition_revision"
)

SKIPPED_UNTRIED: Final = "status = 'skipped' AND attempt = 0"
"""Steps that were skipped because of others, not by an open circuit: a restart decides anew about them."""

BEGINS_AGAIN: Final = f"(status NOT IN ('completed', 'skipped', 'sleeping') OR ({SKIPPED_UNTRIED}))"
"""Steps that a restart begins again."""

CIRCUIT_EVENTS: Final[Mapping[CircuitStatus, str]] = {
    "open": "CircuitOpened",
    "half_open": "CircuitHalfOpened",
    "closed": "CircuitClosed",
}


def stored_json(**data: object) -> str:
    """Return the data of an event as it is stored."""
    return pydantic_core.to_json(data).decode()


def execution_record(row: tuple[Any, ...]) -> ExecutionRecord:
    """Return an execution from the columns `EXECUTION_COLUMNS`."""
    return ExecutionRecord(row[0], row[1], row[2], datetime.fromisoformat(row[3]), _moment(row[4]), *row[5:])


def step_records(rows: Iterable[Sequence[Any]], moment: Callable[[Any], datetime]) -> dict[str, StepRecord]:
    """Return steps by their ids, from the columns that `load_steps` reads of a database.

    Args:
        rows: The rows.
        moment: Makes a moment, in UTC, of what the database holds.
    """
    return {
        step_id: StepRecord(
            step_id,
            kind,
            status,
            attempt,
            None if started_at is None else moment(started_at),
            None if completed_at is None else moment(completed_at),
            result_data,
            error_message,
            handled_by,
            next_attempt_at,
            wake_time,
            duration_ms,
            started_seq,
            completed_seq,
            stored=True,
        )
        for (  # by names rather than by a slice of the row: a resumed execution can have ten thousands of them
            step_id,
            kind,
            status,
            attempt,
            started_at,
            completed_at,
            result_data,
            error_message,
            handled_by,
            next_attempt_at,
            wake_time,
            duration_ms,
            started_seq,
            completed_seq,
        ) in rows
    }


def keep_start_events(
    connection: sqlite3.Connection, execution_id: str, condition: str, values: tuple[object, ...] = ()
) -> None:
    """Copy the start of attempts into the log before their rows take up the next attempt."""
    connection.execute(
        "INSERT INTO event_log (execution_id, seq, type, step_id, attempt, at)"
        " SELECT execution_id, started_seq, 'StepStarted', step_id, attempt, started_at FROM steps"
        f" WHERE execution_id = ? AND started_seq IS NOT NULL AND kind = 'step' AND {condition}",
        (execution_id, *values),
    )


def insert_error(connection: sqlite3.Connection, lease: Lease, step: StepRecord, error: ErrorRecord) -> None:
    """Record why an attempt failed."""
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


def abandon_steps(connection: sqlite3.Connection, execution_id: str, now: str) -> None:
    """Record that steps which are not finished will never be."""
    connection.execute(
        "UPDATE steps SET status = 'failed', error_message = coalesce(error_message, ?), next_attempt_at = NULL,"
        " revision = revision + 1, updated_at = ?"
        " WHERE execution_id = ? AND status IN ('pending', 'running', 'retrying', 'sleeping')",
        (ABANDONED, now, execution_id),
    )


def interrupt_step(connection: sqlite3.Connection, lease: Lease, step: StepRecord, seq: int, now: str) -> None:
    """Record that the attempt in a step's row was cut off by the end of its process."""
    keep_start_events(connection, lease.execution_id, "step_id = ?", (step.step_id,))
    log_event(connection, lease.execution_id, seq, "StepInterrupted", now, step.step_id, step.attempt)


def log_event(
    connection: sqlite3.Connection,
    execution_id: str,
    seq: int,
    kind: str,
    now: str,
    step_id: str | None = None,
    attempt: int | None = None,
    data: str | None = None,
) -> None:
    """Record an event that no row holds."""
    connection.execute(
        "INSERT INTO event_log (execution_id, seq, type, step_id, attempt, at, data) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (execution_id, seq, kind, step_id, attempt, now, data),
    )


def history_end(connection: sqlite3.Connection, execution_id: str) -> HistoryEnd:
    """Return where the history of an execution ends so far."""
    rows = connection.execute(
        "SELECT 1, NULL, started_at, NULL, 0 FROM executions WHERE id = ?"
        " UNION ALL SELECT max(seq), NULL, max(at), NULL, 0 FROM event_log WHERE execution_id = ?"
        " UNION ALL SELECT max(started_seq), max(completed_seq), max(started_at), max(completed_at),"
        " count(*) + coalesce(sum(revision), 0) FROM steps WHERE execution_id = ?",
        (execution_id, execution_id, execution_id),
    ).fetchall()
    at = max((at for row in rows for at in row[2:4] if at), default=None)
    return HistoryEnd(
        max(seq or 1 for row in rows for seq in row[:2]),
        EPOCH if at is None else datetime.fromisoformat(at),
        rows[-1][4],
    )


def select_execution_row(connection: sqlite3.Connection, execution_id: str) -> tuple[Any, ...] | None:
    """Return an execution's row."""
    row: tuple[Any, ...] | None = connection.execute(
        f"SELECT {EXECUTION_COLUMNS} FROM executions e WHERE e.id = ?", (execution_id,)
    ).fetchone()
    return row


def select_execution(connection: sqlite3.Connection, execution_id: str) -> ExecutionRecord | None:
    """Return an execution."""
    row = select_execution_row(connection, execution_id)
    return None if row is None else execution_record(row)


def select_circuit(connection: sqlite3.Connection, workflow_name: str, step_id: str) -> CircuitState:
    """Return the circuit of a step, closed if there is none yet."""
    row = connection.execute(
        "SELECT status, failures, last_failure_time, reset_time, probe_execution_id, probe_expires_at"
        " FROM circuit_breaker_state WHERE workflow_name = ? AND step_id = ?",
        (workflow_name, step_id),
    ).fetchone()
    return CircuitState() if row is None else CircuitState(*row)


def change_circuit(
    connection: sqlite3.Connection, lease: Lease, step_id: str, change: CircuitChange | None, now: str
) -> tuple[CircuitState, CircuitState] | None:
    """Let an attempt count on the circuit of its step; return what it was and what it is, if there is one."""
    if change is None:
        return None
    before = select_circuit(connection, lease.workflow_name, step_id)
    after = change.transition(before)
    store_circuit(connection, lease, step_id, before, after, change.seq, now)
    return before, after


def store_circuit(
    connection: sqlite3.Connection,
    lease: Lease,
    step_id: str,
    before: CircuitState,
    after: CircuitState,
    seq: int,
    now: str,
) -> None:
    """Record what a circuit has become, and the event if its status is another."""
    if after == before:
        return
    upsert_circuit(connection, lease.workflow_name, step_id, after)
    if after.status != before.status:
        data = stored_json(failures=after.failures) if after.status == "open" else None
        kind = CIRCUIT_EVENTS[after.status]
        log_event(connection, lease.execution_id, seq, kind, now, step_id, None, data)


def upsert_circuit(connection: sqlite3.Connection, workflow_name: str, step_id: str, state: CircuitState) -> None:
    """Write the row of a circuit."""
    connection.execute(
        "INSERT INTO circuit_breaker_state (workflow_name, step_id, status, failures, last_failure_time,"
        " reset_time, probe_execution_id, probe_expires_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (workflow_name, step_id) DO UPDATE SET status = excluded.status, failures = excluded.failures,"
        " last_failure_time = excluded.last_failure_time, reset_time = excluded.reset_time,"
        " probe_execution_id = excluded.probe_execution_id, probe_expires_at = excluded.probe_expires_at",
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


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
