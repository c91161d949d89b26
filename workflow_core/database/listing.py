"""Reading many executions of one database: pages of lists, counts, and what waits to be recovered.

Each list is read from `idx_executions_status` once for each workflow and status, and merged: every read is a short walk
along an index, however many executions there are. A page begins behind a place (keyset paging), not after a number of
rows, so the last page costs what the first one does, and nothing is seen twice or missed when others start meanwhile.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from workflow_core.database.moments import stored_text
from workflow_core.database.rows import search, summary, unfinished
from workflow_core.summaries import EXECUTION_STATUSES, ExecutionSummary

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Sequence

    from workflow_core.database.rows import UnfinishedExecution
    from workflow_core.models import ExecutionStatus
    from workflow_core.summaries import Position

__all__ = [
    "count_executions",
    "list_executions",
    "search_executions",
    "stored_names",
    "unfinished_executions",
]

_SUMMARY: Final = "id, workflow_name, status, started_at, completed_at, restart_attempt, error_message, NULL"

_NAMES: Final = """
WITH RECURSIVE found (name) AS (
    SELECT min(workflow_name) FROM executions
    UNION ALL
    SELECT (SELECT min(workflow_name) FROM executions WHERE workflow_name > name) FROM found WHERE name IS NOT NULL
)
SELECT name FROM found WHERE name IS NOT NULL
"""
"""The names of the workflows, by one step along the index for each (a loose index scan)."""

_FIRST: Final = ""
_LAST: Final = "\U0010ffff"
"""Texts that sort before and after every moment and every id."""


def stored_names(connection: sqlite3.Connection) -> list[str]:
    """Return the names of the workflows that have executions here."""
    return [row[0] for row in connection.execute(_NAMES)]


def list_executions(
    connection: sqlite3.Connection,
    workflow_name: str | None,
    statuses: Sequence[ExecutionStatus] | None,
    started_after: datetime | None,
    started_before: datetime | None,
    before: Position | None,
    limit: int,
) -> list[ExecutionSummary]:
    """Read executions, the latest started first.

    Args:
        connection: The database.
        workflow_name: Of one workflow alone.
        statuses: In one of these statuses alone.
        started_after: Started then or later.
        started_before: Started earlier than that.
        before: Those that stand behind this place in the list.
        limit: How many at most.
    """
    with (
        _one_moment(connection),
        _latest_first(connection, workflow_name, statuses, started_after, started_before, before, limit) as rows,
    ):
        return [summary(row, datetime.fromisoformat) for row in itertools.islice(rows, limit)]


def search_executions(
    connection: sqlite3.Connection,
    text: str,
    workflow_name: str | None,
    statuses: Sequence[ExecutionStatus] | None,
    started_after: datetime | None,
    started_before: datetime | None,
    before: Position | None,
    limit: int,
    looked_at: int,
) -> tuple[list[ExecutionSummary], Position | None]:
    """Read executions whose id or error message holds a text, whatever its case, the latest started first.

    Args:
        connection: The database.
        text: The text.
        workflow_name: Of one workflow alone.
        statuses: In one of these statuses alone.
        started_after: Started then or later.
        started_before: Started earlier than that.
        before: Those that stand behind this place in the list.
        limit: How many at most.
        looked_at: How many executions are looked at, at most.

    Returns:
        What was found, and the place behind which to go on; ``None`` at the end of the list.
    """
    with (
        _one_moment(connection),
        _latest_first(connection, workflow_name, statuses, started_after, started_before, before, looked_at) as rows,
    ):
        return search(rows, text, limit, looked_at, datetime.fromisoformat)


@contextlib.contextmanager
def _latest_first(
    connection: sqlite3.Connection,
    workflow_name: str | None,
    statuses: Sequence[ExecutionStatus] | None,
    started_after: datetime | None,
    started_before: datetime | None,
    before: Position | None,
    limit: int,
) -> Iterator[Iterator[tuple[Any, ...]]]:
    """Give rows of executions, the latest started first, each read when it is asked for.

    Args:
        connection: The database.
        workflow_name: Of one workflow alone.
        statuses: In one of these statuses alone.
        started_after: Started then or later.
        started_before: Started earlier than that.
        before: Those that stand behind this place in the list.
        limit: How many are asked for at most.
    """
    from_time = _FIRST if started_after is None else stored_text(started_after)
    place = (_LAST, _LAST) if before is None else (stored_text(before[0]), before[1])
    if started_before is not None:
        place = min(place, (stored_text(started_before), _FIRST))
    bounds = (from_time, *place, limit)
    condition = "started_at >= ? AND (started_at, id) < (?, ?) ORDER BY started_at DESC, id DESC LIMIT ?"
    if workflow_name is None and statuses is None:
        found = [connection.execute(f"SELECT {_SUMMARY} FROM executions WHERE {condition}", bounds)]
    else:
        names = stored_names(connection) if workflow_name is None else [workflow_name]
        query = f"SELECT {_SUMMARY} FROM executions WHERE workflow_name = ? AND status = ? AND {condition}"
        found = [
            connection.execute(query, (name, status, *bounds))
            for name in names
            for status in (EXECUTION_STATUSES if statuses is None else statuses)
        ]
    try:
        yield heapq.merge(*found, key=_place, reverse=True)
    finally:
        for cursor in found:
            cursor.close()


def count_executions(
    connection: sqlite3.Connection, workflow_name: str | None
) -> dict[str, dict[ExecutionStatus, int]]:
    """Count the executions by workflow and status; this reads the index once over, and no row."""
    counts: dict[str, dict[ExecutionStatus, int]] = {}
    if workflow_name is None:
        rows = connection.execute("SELECT workflow_name, status, count(*) FROM executions GROUP BY 1, 2")
    else:
        rows = connection.execute(
            "SELECT workflow_name, status, count(*) FROM executions WHERE workflow_name = ? GROUP BY 1, 2",
            (workflow_name,),
        )
    for name, status, count in rows:
        counts.setdefault(name, {})[status] = count
    return counts


def unfinished_executions(
    connection: sqlite3.Connection, after: Position | None, limit: int
) -> list[UnfinishedExecution]:
    """Read executions that are not at rest, the earliest started first.

    Args:
        connection: The database.
        after: Those that stand behind this place in the list.
        limit: How many at most.
    """
    place = (_FIRST, _FIRST) if after is None else (stored_text(after[0]), after[1])
    columns = (
        "e.id, e.workflow_name, e.status, e.started_at, e.fencing_token, o.host, o.pid, o.process_started, o.owner_id,"
        " o.lease_expires_at, CASE e.status WHEN 'sleeping' THEN (SELECT min(s.wake_time) FROM steps s"
        " WHERE s.execution_id = e.id AND s.status IN ('sleeping', 'retrying')) END, e.deadline_at,"
        " e.definition_revision IS NOT NULL"
        " FROM executions e LEFT JOIN owners o ON o.owner_id = e.owner_id"
    )
    order = "(e.started_at, e.id) > (?, ?) ORDER BY e.started_at, e.id LIMIT ?"
    by_status = f"SELECT {columns} WHERE e.workflow_name = ? AND e.status = ? AND {order}"
    panicked = f"SELECT {columns} WHERE e.restart_at IS NOT NULL AND e.status = 'panicked' AND {order}"
    with _one_moment(connection):
        found = [
            connection.execute(by_status, (name, status, *place, limit)).fetchall()
            for name in stored_names(connection)
            for status in ("running", "sleeping", "restarting")
        ]
        found.append(connection.execute(panicked, (*place, limit)).fetchall())
    return [unfinished(row, datetime.fromisoformat) for row in itertools.islice(heapq.merge(*found, key=_place), limit)]


@contextlib.contextmanager
def _one_moment(connection: sqlite3.Connection) -> Iterator[None]:
    """Let the reads of a ``with`` block see the database as of one moment."""
    if connection.in_transaction:
        yield
        return
    connection.execute("BEGIN")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")


def _place(row: tuple[Any, ...]) -> tuple[str, str]:
    return row[3], row[0]
