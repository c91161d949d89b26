"""Recorded executions as plain data: read from a database, saved as JSON, written into a database again.

The JSON format is described in docs/replay.md. Its version changes when a reader of the version before could not read
it correctly any more.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pydantic_core

from workflow_core.errors import ValidationError, shown
from workflow_core.models import ExecutionStatus, Model, StepStatus
from workflow_core.whole_files import write_whole

if TYPE_CHECKING:
    import os
    import sqlite3
    from collections.abc import Iterable

    from pytest_workflow.storages import SQLConnection

__tracebackhide__ = True  # pytest leaves the frames of this module out
__all__ = [
    "HISTORY_FORMAT",
    "HISTORY_VERSION",
    "RecordedError",
    "RecordedEvent",
    "RecordedExecution",
    "RecordedHistory",
    "RecordedStep",
    "load_history",
    "read_executions",
    "write_executions",
    "write_history",
]

HISTORY_FORMAT = "pytest-workflow-core history"
HISTORY_VERSION = 1


class RecordedStep(Model):
    """A step or sleep: one row of ``steps``. Moments are ISO text, or milliseconds since 1970 if named ``_ms``."""

    step_id: str
    kind: Literal["step", "sleep"]
    status: StepStatus
    attempt: int
    started_at: str | None
    completed_at: str | None
    result: Any
    error_message: str | None
    handled_by: str | None
    next_attempt_at_ms: int | None
    wake_time_ms: int | None
    duration_ms: int | None
    started_seq: int | None
    completed_seq: int | None
    created_at: str


class RecordedEvent(Model):
    """One event of an execution: a row of the view ``step_events``."""

    seq: int
    type: str
    step_id: str | None
    attempt: int | None
    at: str
    data: Any


class RecordedError(Model):
    """One error of a step: a row of ``step_errors``; the timestamp is milliseconds since 1970."""

    step_id: str
    error_type: str
    error_message: str
    error_data: Any
    attempt: int
    timestamp_ms: int


class RecordedExecution(Model):
    """An execution with all that is known of it."""

    execution_id: str
    workflow_name: str
    status: ExecutionStatus
    started_at: str
    completed_at: str | None
    restart_attempt: int
    input: Any
    output: Any
    error: Any
    retry_config: Any
    panic_config: Any
    completed_seq: int | None
    steps: tuple[RecordedStep, ...]
    events: tuple[RecordedEvent, ...]
    errors: tuple[RecordedError, ...]

    @property
    def title(self) -> str:
        """Its workflow and its id, for messages."""
        return f'workflow "{self.workflow_name}", execution "{self.execution_id}"'


class RecordedHistory(Model):
    """A saved file of executions."""

    format: Literal["pytest-workflow-core history"] = "pytest-workflow-core history"
    version: Literal[1] = 1
    executions: tuple[RecordedExecution, ...]


# Databases -----------------------------------------------------------------------------------------------------------


def read_executions(
    database: SQLConnection | sqlite3.Connection, workflow: str | None = None, execution_id: str | None = None
) -> list[RecordedExecution]:
    """Read executions from a workflow database, the first started first.

    Args:
        database: An open connection.
        workflow: Read those of this workflow alone.
        execution_id: Read this one alone.
    """
    asked = {"workflow_name": workflow, "id": execution_id}
    given = {column: value for column, value in asked.items() if value is not None}
    conditions = " AND ".join(f"{column} = ?" for column in given)
    rows = _select(
        database,
        "SELECT id AS execution_id, workflow_name, status, started_at, completed_at, restart_attempt, completed_seq,"  # noqa: S608 - names of columns
        " input_data AS input, output_data AS output, error_data AS error, retry_config, panic_config FROM executions"
        f"{' WHERE ' * bool(given)}{conditions} ORDER BY started_at, rowid",
        *given.values(),
    )
    return [_read_one(database, row) for row in rows]


def _read_one(database: SQLConnection | sqlite3.Connection, row: dict[str, Any]) -> RecordedExecution:
    try:
        execution = RecordedExecution(
            **_parsed(row, "input", "output", "error", "retry_config", "panic_config"),
            steps=tuple(_read_steps(database, row["execution_id"])),
            events=tuple(_read_events(database, row["execution_id"])),
            errors=tuple(_read_errors(database, row["execution_id"])),
        )
        for moment in (execution.started_at, *(event.at for event in execution.events)):
            datetime.fromisoformat(moment)
    except ValueError as error:
        name = shown(row["execution_id"])
        raise ValueError(f"what is stored of execution {name} cannot be read: {_first_mistake(error)}") from None
    return execution


def _first_mistake(error: ValueError) -> str:
    """Return what is wrong and where, without the rest of what pydantic says; a model within tells more of itself."""
    location: list[str] = []
    while isinstance(error, ValidationError) and error.errors:
        mistake = error.errors[0]
        location.extend(map(str, mistake["loc"]))
        inner = mistake.get("ctx", {}).get("error")
        if not isinstance(inner, ValidationError):
            return f"{'.'.join(location)}: {mistake['msg']}"
        error = inner
    return str(error)


def _read_steps(database: SQLConnection | sqlite3.Connection, execution_id: str) -> Iterable[RecordedStep]:
    rows = _select(
        database,
        "SELECT step_id, kind, status, attempt, started_at, completed_at, result_data AS result, error_message,"
        " handled_by, next_attempt_at AS next_attempt_at_ms, wake_time AS wake_time_ms, duration_ms, started_seq,"
        " completed_seq, created_at FROM steps WHERE execution_id = ?"
        " ORDER BY created_at, coalesce(started_seq, completed_seq)",
        execution_id,
    )
    return (RecordedStep(**_parsed(row, "result")) for row in rows)


def _read_events(database: SQLConnection | sqlite3.Connection, execution_id: str) -> Iterable[RecordedEvent]:
    rows = _select(
        database,
        "SELECT seq, type, step_id, attempt, at, data FROM step_events WHERE execution_id = ? ORDER BY seq",
        execution_id,
    )
    return (RecordedEvent(**_parsed(row, "data")) for row in rows)


def _read_errors(database: SQLConnection | sqlite3.Connection, execution_id: str) -> Iterable[RecordedError]:
    rows = _select(
        database,
        "SELECT step_id, error_type, error_message, error_data, attempt, timestamp AS timestamp_ms FROM step_errors"
        " WHERE execution_id = ? ORDER BY id",
        execution_id,
    )
    return (RecordedError(**_parsed(row, "error_data")) for row in rows)


def _select(database: SQLConnection | sqlite3.Connection, sql: str, *parameters: str) -> list[dict[str, Any]]:
    cursor = database.execute(sql, parameters)
    names = [column[0] for column in cursor.description or ()]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def _parsed(row: dict[str, Any], *columns: str) -> dict[str, Any]:
    """Return a row with the JSON text of some columns read."""
    return {**row, **{name: None if row[name] is None else pydantic_core.from_json(row[name]) for name in columns}}


def _text(value: object) -> str | None:
    return None if value is None else pydantic_core.to_json(value).decode()


def write_executions(database: sqlite3.Connection, executions: Iterable[RecordedExecution]) -> None:
    """Write executions into a workflow database that does not have them."""
    for execution in executions:
        derived = {execution.completed_seq, 1}
        database.execute(
            "INSERT INTO executions (id, workflow_name, status, started_at, completed_at, restart_attempt, input_data,"
            " output_data, error_data, retry_config, panic_config, completed_seq, created_at, updated_at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                execution.execution_id,
                execution.workflow_name,
                execution.status,
                execution.started_at,
                execution.completed_at,
                execution.restart_attempt,
                *map(_text, (execution.input, execution.output, execution.error)),
                *map(_text, (execution.retry_config, execution.panic_config)),
                execution.completed_seq,
                execution.started_at,
                execution.started_at,
            ),
        )
        for step in execution.steps:
            derived |= {step.started_seq, step.completed_seq}
            database.execute(
                "INSERT INTO steps (execution_id, step_id, kind, status, started_at, completed_at, result_data,"
                " error_message, attempt, handled_by, next_attempt_at, wake_time, duration_ms, started_seq,"
                " completed_seq, created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    execution.execution_id,
                    step.step_id,
                    step.kind,
                    step.status,
                    step.started_at,
                    step.completed_at,
                    _text(step.result),
                    step.error_message,
                    step.attempt,
                    step.handled_by,
                    step.next_attempt_at_ms,
                    step.wake_time_ms,
                    step.duration_ms,
                    step.started_seq,
                    step.completed_seq,
                    step.created_at,
                    step.created_at,
                ),
            )
        _write_log(database, execution, derived)


def _write_log(database: sqlite3.Connection, execution: RecordedExecution, derived: set[int | None]) -> None:
    database.executemany(
        "INSERT INTO event_log (execution_id, seq, type, step_id, attempt, at, data) VALUES (?, ?, ?, ?, ?, ?, ?)",
        [
            (execution.execution_id, event.seq, event.type, event.step_id, event.attempt, event.at, _text(event.data))
            for event in execution.events
            if event.seq not in derived
        ],
    )
    database.executemany(
        "INSERT INTO step_errors (execution_id, step_id, error_type, error_message, error_data, attempt, timestamp)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        [
            (
                execution.execution_id,
                error.step_id,
                error.error_type,
                error.error_message,
                _text(error.error_data),
                error.attempt,
                error.timestamp_ms,
            )
            for error in execution.errors
        ],
    )


# Files ---------------------------------------------------------------------------------------------------------------


def write_history(path: str | os.PathLike[str], executions: Iterable[RecordedExecution]) -> None:
    """Save executions as JSON; an existing file is replaced at once, never in part.

    Raises:
        OSError: The file cannot be written.
    """
    history = RecordedHistory(executions=tuple(executions))
    write_whole(Path(path), history.model_dump_json(indent=2).encode() + b"\n", private=False)


def load_history(path: str | os.PathLike[str]) -> tuple[RecordedExecution, ...]:
    """Read a file that `write_history` has written.

    Raises:
        ValueError: It is no such file, or of a newer version.
        OSError: It cannot be read.
    """
    text = Path(path).read_bytes()
    try:
        found = pydantic_core.from_json(text)
    except ValueError as error:
        raise ValueError(f"{path} is neither a workflow database nor JSON: {error}") from None
    if not isinstance(found, dict) or found.get("format") != HISTORY_FORMAT:
        raise ValueError(f'{path} is not a saved history: its "format" is not "{HISTORY_FORMAT}"; see save_history()')
    if found.get("version") != HISTORY_VERSION:
        raise ValueError(
            f"{path} is a saved history of version {found.get('version')!r}, and this version of pytest-workflow-core "
            f"reads version {HISTORY_VERSION}; save it again, or install the version that wrote it"
        )
    try:
        return RecordedHistory(**found).executions
    except ValidationError as error:
        raise ValueError(f"{path} is a damaged history: {_first_mistake(error)}") from None
