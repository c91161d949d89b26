"""Reading many executions of one database: pages of lists, counts, and what waits to be recovered.

Each list is one statement, which walks along one index, or along `idx_executions_status` once for each workflow and
status (``LATERAL``), and takes no more than a page from each. A page begins behind a place, as on SQLite: see
`workflow_core.database.listing`.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from workflow_core.database.postgres.points import Points, utc
from workflow_core.database.rows import search, summary, unfinished
from workflow_core.summaries import EXECUTION_STATUSES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workflow_core.database.rows import UnfinishedExecution
    from workflow_core.models import ExecutionStatus
    from workflow_core.summaries import ExecutionSummary, Position

__all__ = ["FIRST", "NAMES", "ListingStore"]

NAMES: Final = """
names (name) AS (
    (SELECT workflow_name FROM {s}.executions ORDER BY workflow_name LIMIT 1)
    UNION ALL
    SELECT (SELECT workflow_name FROM {s}.executions WHERE workflow_name > name ORDER BY workflow_name LIMIT 1)
    FROM names WHERE name IS NOT NULL
)
"""
"""The names of the workflows, by one step along the index for each (a loose index scan)."""

_SUMMARY: Final = "id, workflow_name, status, started_at, completed_at, restart_attempt, error_message, queue"
_LATEST: Final = (
    "started_at >= %(since)s AND (started_at, id) < (%(until)s, %(until_id)s)"
    " ORDER BY started_at DESC, id DESC LIMIT %(limit)s"
)
_LIST_ALL: Final = f"SELECT {_SUMMARY} FROM {{s}}.executions WHERE restart_attempt >= 0 AND {_LATEST}"
_LIST: Final = (
    "WITH RECURSIVE {names} SELECT found.* FROM names CROSS JOIN unnest(%(statuses)s::text[]) AS wanted (status)"
    f" CROSS JOIN LATERAL (SELECT {_SUMMARY} FROM {{s}}.executions e"
    f" WHERE e.workflow_name = names.name AND e.status = wanted.status AND {_LATEST}) found"
    " WHERE names.name IS NOT NULL ORDER BY found.started_at DESC, found.id DESC LIMIT %(limit)s"
)
_NAMED: Final = "names (name) AS (SELECT %(name)s::text)"

_UNFINISHED: Final = (
    "e.id, e.workflow_name, e.status, e.started_at, e.fencing_token, e.owner_id, e.deadline_at,"
    " e.definition_revision IS NOT NULL AS is_declarative FROM {s}.executions e"
)
_EARLIEST: Final = (
    "e.queue IS NULL AND (e.started_at, e.id) > (%(after)s, %(after_id)s) ORDER BY e.started_at, e.id LIMIT %(limit)s"
)
"""What workers run, workers take over."""

_LIST_UNFINISHED: Final = (
    f"WITH page AS ((SELECT {_UNFINISHED} WHERE e.status IN ('running', 'sleeping', 'restarting') AND {_EARLIEST})"
    f" UNION ALL (SELECT {_UNFINISHED} WHERE e.restart_at IS NOT NULL AND e.status = 'panicked' AND {_EARLIEST}))"
    " SELECT p.id, p.workflow_name, p.status, p.started_at, p.fencing_token, o.host, o.pid, o.process_started,"
    " o.owner_id, o.lease_expires_at, CASE p.status WHEN 'sleeping' THEN (SELECT min(s.wake_time) FROM {s}.steps s"
    " WHERE s.execution_id = p.id AND s.status IN ('sleeping', 'retrying')) END, p.deadline_at, p.is_declarative"
    " FROM page p LEFT JOIN {s}.owners o ON o.owner_id = p.owner_id"
    " ORDER BY p.started_at, p.id LIMIT %(limit)s"
)

FIRST: Final = datetime(1, 1, 1, tzinfo=UTC)
_LAST: Final = datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)
_LAST_ID: Final = "\U0010ffff"
"""What sorts before and after every moment, and after every id."""


class ListingStore(Points):
    """A database of executions, as far as many of them are read at once."""

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
        rows = await self._latest(workflow_name, status, limit, started_after, started_before, before)
        return [summary(row, utc) for row in rows]

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
        rows = await self._latest(workflow_name, status, looked_at, started_after, started_before, before)
        return search(rows, text, limit, looked_at, utc)

    async def _latest(
        self,
        workflow_name: str | None,
        status: Sequence[ExecutionStatus] | None,
        limit: int,
        started_after: datetime | None,
        started_before: datetime | None,
        before: Position | None,
    ) -> list[tuple[Any, ...]]:
        place = (_LAST, _LAST_ID) if before is None else before
        if started_before is not None:
            place = min(place, (started_before, ""))
        values = {
            "since": FIRST if started_after is None else started_after,
            "until": place[0],
            "until_id": place[1],
            "limit": limit,
            "name": workflow_name,
            "statuses": list(EXECUTION_STATUSES if status is None else status),
        }
        if workflow_name is None and status is None:
            sql = _LIST_ALL
        else:
            sql = _LIST.replace("{names}", NAMES if workflow_name is None else _NAMED)
        return await self.fetch(sql, values)

    async def count_executions(self, workflow_name: str | None = None) -> dict[str, dict[ExecutionStatus, int]]:
        """Count the executions by workflow and status; this reads the index once over."""
        of_one = "" if workflow_name is None else " WHERE workflow_name = %(name)s"
        rows = await self.fetch(
            f"SELECT workflow_name, status, count(*) FROM {{s}}.executions{of_one} GROUP BY 1, 2",
            {"name": workflow_name},
        )
        counts: dict[str, dict[ExecutionStatus, int]] = {}
        for name, status, count in rows:
            counts.setdefault(name, {})[status] = count
        return counts

    async def unfinished_executions(
        self, after: Position | None = None, limit: int = 500, hindered: set[str] | None = None
    ) -> list[UnfinishedExecution]:
        """Read executions that are not at rest, the earliest started first, with their owners."""
        del hindered  # it is a single database
        place = (FIRST, "") if after is None else after
        values = {"after": place[0], "after_id": place[1], "limit": limit}
        return [unfinished(row, utc) for row in await self.fetch(_LIST_UNFINISHED, values)]

    async def workflows_with_executions(self, workflow_name: str | None = None) -> list[str]:
        """Return the names of the workflows that have executions, or of those the one that is named."""
        rows = await self.fetch(f"WITH RECURSIVE {NAMES} SELECT name FROM names WHERE name IS NOT NULL ORDER BY name")
        return [name for (name,) in rows if workflow_name is None or name == workflow_name]
