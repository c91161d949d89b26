"""What can be read of a database of executions."""

from __future__ import annotations

import functools
import itertools
from datetime import datetime
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

from workflow_core.circuit_breaker import CircuitState
from workflow_core.crash_loops import Recoveries
from workflow_core.database import listing
from workflow_core.database.changes import ChangeMarker
from workflow_core.database.connection import Database
from workflow_core.database.parts import EXECUTION_COLUMNS, execution_record, history_end, step_records
from workflow_core.database.rows import events
from workflow_core.database.store import (
    ErrorRecord,
    ExecutionRecord,
    HistoryEnd,
    StepRecord,
    WholeExecution,
    WorkflowRecord,
)
from workflow_core.ownership import Owner

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Hashable, Mapping, Sequence

    from workflow_core.database.rows import UnfinishedExecution
    from workflow_core.events import Event
    from workflow_core.models import ExecutionStatus
    from workflow_core.summaries import ExecutionSummary, Position

P = ParamSpec("P")
T = TypeVar("T")

__all__ = ["ReadableDatabase"]


class ReadableDatabase(Database):
    """A database of executions, as far as it is read; takes the arguments of `Database`."""

    _names: tuple[Hashable, list[str]] | None = None

    @functools.cached_property
    def _changes(self) -> ChangeMarker | None:
        return None if self._path is None or self._borrowed else ChangeMarker(self._path)

    async def load_execution(self, execution_id: str) -> ExecutionRecord | None:
        """Read an execution."""
        rows = self.select(f"SELECT {EXECUTION_COLUMNS} FROM executions e WHERE e.id = ?", (execution_id,))
        return execution_record(rows[0]) if rows else None

    async def find_execution_ids(self, prefix: str, limit: int) -> list[str]:
        """Read the ids that begin with a prefix, sorted."""
        rows = self.select(
            "SELECT id FROM executions WHERE id >= ? AND id < ? || '~' ORDER BY id LIMIT ?", (prefix, prefix, limit)
        )
        return [row[0] for row in rows]

    async def list_workflows(self) -> list[WorkflowRecord]:
        """Read the workflows that have executions, sorted by name."""
        rows = self.select(
            "SELECT workflow_name, 'active', min(started_at), max(started_at), count(*) FROM executions GROUP BY 1"
            " ORDER BY 1"
        )
        return [WorkflowRecord.of_row(row) for row in rows]

    async def load_steps(self, workflow_name: str, execution_id: str) -> tuple[dict[str, StepRecord], HistoryEnd]:
        """Read the steps of an execution, and the end of its history."""
        del workflow_name
        with self.reading() as connection:  # before the steps, so what another process writes meanwhile is noticed
            end = history_end(connection, execution_id)
        rows = self.select(
            "SELECT step_id, kind, status, attempt, started_at, completed_at, result_data, error_message, handled_by,"
            " next_attempt_at, wake_time, duration_ms, started_seq, completed_seq FROM steps WHERE execution_id = ?"
            " ORDER BY created_at, coalesce(started_seq, completed_seq)",
            (execution_id,),
        )
        return step_records(rows, datetime.fromisoformat), end

    async def load_errors(
        self, workflow_name: str, execution_id: str, step_id: str | None = None
    ) -> list[tuple[str, ErrorRecord]]:
        """Read the errors of an execution, or of one of its steps, oldest first, each with its step id."""
        del workflow_name
        rows = self.select(
            "SELECT step_id, error_type, error_message, error_stack, error_data, attempt, timestamp FROM step_errors"
            " WHERE execution_id = ? AND step_id = coalesce(?, step_id) ORDER BY id",
            (execution_id, step_id),
        )
        return [(row[0], ErrorRecord(*row[1:])) for row in rows]

    async def load_events(self, workflow_name: str, execution_id: str, after: int = 0) -> list[Event]:
        """Read the history of an execution, behind a position."""
        rows = self.select(
            "SELECT seq, type, step_id, attempt, at, data FROM step_events WHERE execution_id = ? AND seq > ?"
            " ORDER BY seq",
            (execution_id, after),
        )
        return events(rows, workflow_name, execution_id, datetime.fromisoformat)

    async def load_circuits(self, workflow_name: str | None = None) -> dict[tuple[str, str], CircuitState]:
        """Read the circuits by workflow name and step id."""
        rows = self.select(
            "SELECT workflow_name, step_id, status, failures, last_failure_time, reset_time, probe_execution_id,"
            " probe_expires_at FROM circuit_breaker_state WHERE workflow_name = coalesce(?, workflow_name)"
            " ORDER BY workflow_name, step_id",
            (workflow_name,),
        )
        return {(row[0], row[1]): CircuitState(*row[2:]) for row in rows}

    def read(self, function: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function with the connection, and turn SQLite's errors into `StorageError`."""
        with self.reading() as connection:
            return function(connection, *args, **kwargs)

    async def unfinished_executions(
        self, after: Position | None = None, limit: int = 500, hindered: set[str] | None = None
    ) -> list[UnfinishedExecution]:
        """Read executions that are not at rest, the earliest started first, with their owners."""
        del hindered  # it is a single database
        return self.read(listing.unfinished_executions, after, limit)

    async def load_definition(self, revision: str) -> str | None:
        """Read the document of a declarative workflow, as executions of it were started with."""
        rows = self.select("SELECT document FROM definitions WHERE revision = ?", (revision,))
        return str(rows[0][0]) if rows else None

    async def load_recoveries(self, workflow_name: str, execution_id: str) -> Recoveries:
        """Read how often an execution was recovered since anything else has happened in it."""
        del workflow_name
        rows = self.select(
            "SELECT at, data IS NOT NULL FROM event_log WHERE execution_id = ? AND type = 'ExecutionRecovered'"
            " AND seq > (SELECT coalesce(max(seq), 0) FROM event_log"
            " WHERE execution_id = ? AND type <> 'ExecutionRecovered')"
            " AND seq > (SELECT coalesce(max(max(coalesce(started_seq, 0), coalesce(completed_seq, 0))), 0) FROM steps"
            " WHERE execution_id = ?) ORDER BY seq DESC",
            (execution_id, execution_id, execution_id),
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

    async def load_whole(self, workflow_name: str, execution_id: str) -> WholeExecution | None:
        """Read all that is needed to go on with an execution."""
        recoveries = await self.load_recoveries(workflow_name, execution_id)
        steps, end = await self.load_steps(workflow_name, execution_id)
        errors = await self.load_errors(workflow_name, execution_id)
        record = await self.load_execution(execution_id)
        return None if record is None else WholeExecution(record, steps, end, errors, recoveries)

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

    async def search_executions(
        self,
        text: str,
        workflow_name: str | None = None,
        status: Sequence[ExecutionStatus] | None = None,
        limit: int = 100,
        looked_at: int = 5_000,
        *,
        started_after: datetime | None = None,
        started_before: datetime | None = None,
        before: Position | None = None,
    ) -> tuple[list[ExecutionSummary], Position | None]:
        """Read executions whose id or error holds a text, the latest started first."""
        return self.read(
            listing.search_executions,
            text,
            workflow_name,
            status,
            started_after,
            started_before,
            before,
            limit,
            looked_at,
        )

    async def count_executions(self, workflow_name: str | None = None) -> dict[str, dict[ExecutionStatus, int]]:
        """Count the executions by workflow and status."""
        return self.read(listing.count_executions, workflow_name)

    async def workflows_with_executions(self, workflow_name: str | None = None) -> list[str]:
        """Return the names of the workflows that have executions here, or of those the one that is named."""
        names = self.read(listing.stored_names)
        return names if workflow_name is None else [name for name in names if name == workflow_name]

    # Seeing what others write ----------------------------------------------------------------------------------------

    def marker(self) -> Hashable:
        """Return a value that is another one after every commit."""
        if self._changes is not None:
            return self._changes.read()
        with self.reading() as connection:
            return connection.total_changes, connection.execute("PRAGMA data_version").fetchone()[0]

    async def change_markers(self) -> Mapping[str, Hashable]:
        """Return, for each workflow, a value that is another one after every commit: they share one database."""
        marker = self.marker()
        if self._names is None or self._names[0] != marker:
            self._names = marker, self.read(listing.stored_names)
        return dict.fromkeys(self._names[1], marker)

    def close(self) -> None:
        """Let go of the database."""
        if self._changes is not None:
            self._changes.close()
        super().close()
