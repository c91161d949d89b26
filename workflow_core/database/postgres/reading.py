"""What can be read of one execution, and of the workflows and their circuits."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, Final

from workflow_core.circuit_breaker import CircuitState
from workflow_core.clock import EPOCH
from workflow_core.crash_loops import Recoveries
from workflow_core.database import parts
from workflow_core.database.postgres.listing import ListingStore
from workflow_core.database.postgres.points import CHANGES, LAST_AT, LAST_SEQ, utc
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
    from collections.abc import Sequence
    from datetime import datetime

    from workflow_core.database.postgres.connections import Connection
    from workflow_core.events import Event

__all__ = ["EXECUTION_COLUMNS", "ReadableStore", "execution_record"]

EXECUTION_COLUMNS: Final = f"{parts.EXECUTION_COLUMNS}, e.queue"

_STEPS: Final = (
    "SELECT step_id, kind, status, attempt, started_at, completed_at, result_data, error_message, handled_by,"
    " next_attempt_at, wake_time, duration_ms, started_seq, completed_seq FROM {s}.steps WHERE execution_id = %(id)s"
    " ORDER BY created_at, coalesce(started_seq, completed_seq)"
)
_END: Final = f"SELECT {LAST_SEQ}, {LAST_AT}, {CHANGES}"
_EXECUTION: Final = f"SELECT {EXECUTION_COLUMNS} FROM {{s}}.executions e WHERE e.id = %(id)s"
_ERRORS: Final = (
    "SELECT step_id, error_type, error_message, error_stack, error_data, attempt, timestamp FROM {s}.step_errors"
    " WHERE execution_id = %(id)s"
)
_WORKFLOWS: Final = """
SELECT coalesce(w.name, e.name), 'active', coalesce(w.created_at, e.first), greatest(e.last, w.removed_last_start),
       coalesce(e.count, 0) + coalesce(w.removed_count, 0)
FROM {s}.workflows w FULL JOIN (
    SELECT workflow_name AS name, min(started_at) AS first, max(started_at) AS last, count(*) AS count
    FROM {s}.executions GROUP BY 1
) e ON e.name = w.name
ORDER BY 1
"""
_RECOVERED: Final = (
    "SELECT at, data IS NOT NULL, (SELECT coalesce(max(greatest(wake_time, next_attempt_at)), 0) FROM {s}.steps"
    " WHERE execution_id = %(id)s AND status IN ('sleeping', 'retrying'))"
    " FROM {s}.event_log WHERE execution_id = %(id)s AND type = 'ExecutionRecovered'"
    " AND seq > (SELECT coalesce(max(seq), 0) FROM {s}.event_log"
    " WHERE execution_id = %(id)s AND type <> 'ExecutionRecovered')"
    " AND seq > (SELECT coalesce(max(greatest(started_seq, completed_seq)), 0) FROM {s}.steps"
    " WHERE execution_id = %(id)s) ORDER BY seq DESC"
)


class ReadableStore(ListingStore):
    """A database of executions, as far as it is read."""

    async def load_execution(self, execution_id: str) -> ExecutionRecord | None:
        """Read an execution."""
        rows = await self.fetch(_EXECUTION, {"id": execution_id})
        return execution_record(rows[0]) if rows else None

    async def find_execution_ids(self, prefix: str, limit: int) -> list[str]:
        """Read the ids that begin with a prefix, sorted."""
        rows = await self.fetch(
            "SELECT id FROM {s}.executions WHERE id >= %(first)s AND id < %(last)s ORDER BY id LIMIT %(limit)s",
            {"first": prefix, "last": f"{prefix}~", "limit": limit},
        )
        return [row[0] for row in rows]

    async def list_workflows(self) -> list[WorkflowRecord]:
        """Read the workflows, sorted by name."""
        return [
            WorkflowRecord(name, status, utc(created_at), _utc(last), count)
            for name, status, created_at, last, count in await self.fetch(_WORKFLOWS)
        ]

    async def load_steps(self, workflow_name: str, execution_id: str) -> tuple[dict[str, StepRecord], HistoryEnd]:
        """Read the steps of an execution, and the end of its history."""
        del workflow_name
        (end,), steps = await self._fetch_all(execution_id, _END, _STEPS)
        return parts.step_records(steps, utc), _history_end(end)

    async def load_errors(
        self, workflow_name: str, execution_id: str, step_id: str | None = None
    ) -> list[tuple[str, ErrorRecord]]:
        """Read the errors of an execution, or of one of its steps, oldest first, each with its step id."""
        del workflow_name
        of_one = "" if step_id is None else " AND step_id = %(step)s"
        rows = await self.fetch(f"{_ERRORS}{of_one} ORDER BY id", {"id": execution_id, "step": step_id})
        return _error_records(rows)

    async def load_events(self, workflow_name: str, execution_id: str, after: int = 0) -> list[Event]:
        """Read the history of an execution, behind a position."""
        rows = await self.fetch(
            "SELECT seq, type, step_id, attempt, at, data FROM {s}.step_events"
            " WHERE execution_id = %(id)s AND seq > %(after)s ORDER BY seq",
            {"id": execution_id, "after": after},
        )
        return events(rows, workflow_name, execution_id, utc)

    async def load_circuits(self, workflow_name: str | None = None) -> dict[tuple[str, str], CircuitState]:
        """Read the circuits by workflow name and step id."""
        of_one = "" if workflow_name is None else " WHERE workflow_name = %(name)s"
        rows = await self.fetch(
            "SELECT workflow_name, step_id, status, failures, last_failure_time, reset_time, probe_execution_id,"
            f" probe_expires_at FROM {{s}}.circuit_breaker_state{of_one} ORDER BY 1, 2",
            {"name": workflow_name},
        )
        return {(row[0], row[1]): CircuitState(*row[2:]) for row in rows}

    async def load_definition(self, revision: str) -> str | None:
        """Read the document of a declarative workflow, as executions of it were started with."""
        rows = await self.fetch("SELECT document FROM {s}.definitions WHERE revision = %(name)s", {"name": revision})
        return str(rows[0][0]) if rows else None

    async def load_recoveries(self, workflow_name: str, execution_id: str) -> Recoveries:
        """Read how often an execution was recovered since anything else has happened in it."""
        del workflow_name
        return _recoveries(await self.fetch(_RECOVERED, {"id": execution_id}))

    async def load_whole(self, workflow_name: str, execution_id: str) -> WholeExecution | None:
        """Read all that is needed to go on with an execution, by one round trip."""
        del workflow_name
        found = await self._fetch_all(execution_id, _RECOVERED, _END, _STEPS, f"{_ERRORS} ORDER BY id", _EXECUTION)
        recoveries, (end,), steps, errors, executions = found
        if not executions:
            return None
        return WholeExecution(
            execution_record(executions[0]),
            parts.step_records(steps, utc),
            _history_end(end),
            _error_records(errors),
            _recoveries(recoveries),
        )

    async def _fetch_all(self, execution_id: str, *statements: str) -> list[list[tuple[Any, ...]]]:
        """Run statements about an execution, sent together, and return the rows of each."""

        async def fetch(connection: Connection) -> list[list[tuple[Any, ...]]]:
            async with connection.pipeline():
                cursors = [await connection.execute(self.sql(sql), {"id": execution_id}) for sql in statements]
            return [await cursor.fetchall() for cursor in cursors]

        return await self.together(fetch)

    async def load_owner(self, owner_id: str) -> tuple[Owner, int | None] | None:
        """Read an owner, and when its lease expires."""
        rows = await self.fetch(
            "SELECT host, pid, process_started, owner_id, lease_expires_at FROM {s}.owners WHERE owner_id = %(owner)s",
            {"owner": owner_id},
        )
        return (Owner(*rows[0][:4]), rows[0][4]) if rows else None


def execution_record(row: Sequence[Any]) -> ExecutionRecord:
    """Return an execution from the columns `EXECUTION_COLUMNS`."""
    return ExecutionRecord(row[0], row[1], row[2], utc(row[3]), _utc(row[4]), *row[5:])


def _history_end(row: Sequence[Any]) -> HistoryEnd:
    return HistoryEnd(row[0], EPOCH if row[1] is None else utc(row[1]), row[2])


def _error_records(rows: Sequence[Sequence[Any]]) -> list[tuple[str, ErrorRecord]]:
    return [(row[0], ErrorRecord(*row[1:])) for row in rows]


def _recoveries(rows: Sequence[Sequence[Any]]) -> Recoveries:
    """Return the recoveries, the latest first, that followed deaths."""
    deaths = list(itertools.takewhile(lambda row: not row[1], rows))
    if not deaths:
        return Recoveries((), 0)
    return Recoveries([utc(row[0]) for row in reversed(deaths)], deaths[0][2])


def _utc(at: datetime | None) -> datetime | None:
    return None if at is None else utc(at)
