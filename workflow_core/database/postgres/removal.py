"""Removing executions that are at rest: with their steps, errors and events, one statement for a batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from workflow_core.database.postgres.executions import ExecutionPoints
from workflow_core.database.postgres.listing import FIRST
from workflow_core.database.postgres.points import utc
from workflow_core.database.removal import Candidate, Space

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from workflow_core.database.removal import Expiry
    from workflow_core.summaries import Position

__all__ = ["RemovalPoints"]

_EXPIRED: Final = (
    "coalesce(e.completed_at, e.updated_at) < %(before)s AND e.restart_at IS NULL"
    # A rate limit counts those that began within its period.
    " AND NOT EXISTS (SELECT 1 FROM {s}.dispatches d JOIN {s}.limits l ON l.workflow_name = d.workflow_name"
    " WHERE d.execution_id = e.id AND d.is_limited AND coalesce(l.starts, l.starts_per_key) IS NOT NULL"
    " AND d.first_start_at > clock_timestamp() - l.period)"
)
_CANDIDATES: Final = (
    "SELECT found.* FROM unnest(%(statuses)s::text[]) AS wanted (status)"
    " CROSS JOIN LATERAL (SELECT e.id, e.workflow_name, e.status, e.started_at FROM {s}.executions e"
    " WHERE e.workflow_name = %(name)s AND e.status = wanted.status AND e.started_at < %(before)s"
    f" AND {_EXPIRED} AND (e.started_at, e.id) > (%(after)s, %(after_id)s) ORDER BY e.started_at, e.id"
    " LIMIT %(limit)s) found ORDER BY found.started_at, found.id LIMIT %(limit)s"
)
# An execution that gets the id again must not find itself to be the probe of a circuit.
_REMOVED: Final = (
    "WITH gone AS (DELETE FROM {s}.executions e USING unnest(%(ids)s::text[], %(found)s::text[]) AS found (id, status)"
    f" WHERE e.id = found.id AND e.status = found.status AND {_EXPIRED} RETURNING e.id, e.started_at),"
    " freed AS (UPDATE {s}.circuit_breaker_state SET probe_execution_id = NULL, probe_expires_at = NULL"
    " WHERE probe_execution_id IN (SELECT id FROM gone)),"
    " counted AS (UPDATE {s}.workflows SET removed_count = removed_count + (SELECT count(*) FROM gone),"
    " removed_last_start = greatest(removed_last_start, (SELECT max(started_at) FROM gone))"
    " WHERE name = %(name)s AND EXISTS (SELECT 1 FROM gone)) SELECT id FROM gone"
)
_SPACE: Final = (
    "SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint FROM pg_class c"
    " WHERE c.relnamespace = to_regnamespace(%(schema)s) AND c.relkind = 'r'"
)


class RemovalPoints(ExecutionPoints):
    """The removal of executions; see `workflow_core.database.store.Store`."""

    async def executions_to_remove(
        self, workflow_name: str, expiry: Expiry, after: Position | None, limit: int
    ) -> list[Candidate]:
        """Read which executions of a workflow have expired, the earliest started first."""
        place = (FIRST, "") if after is None else after
        values = {
            "name": workflow_name,
            "statuses": list(expiry.statuses),
            "before": expiry.before,
            "after": place[0],
            "after_id": place[1],
            "limit": limit,
        }
        return [Candidate(row[0], row[1], row[2], utc(row[3])) for row in await self.fetch(_CANDIDATES, values)]

    async def executions_removed(
        self, workflow_name: str, expiry: Expiry, after: Position | None, limit: int, enough: Callable[[], bool]
    ) -> tuple[list[Candidate], Position | None]:
        """Remove expired executions in one statement, which holds nobody up, so ``enough`` is not asked."""
        del enough
        found = await self.executions_to_remove(workflow_name, expiry, after, limit)
        if not found:
            return [], None
        values: dict[str, Any] = {
            "ids": [candidate.execution_id for candidate in found],
            "found": [candidate.status for candidate in found],
            "before": expiry.before,
            "name": workflow_name,
        }
        gone = {execution_id for (execution_id,) in await self.fetch(_REMOVED, values)}
        return [candidate for candidate in found if candidate.execution_id in gone], found[-1].position

    async def removal_finished(self, workflow_name: str) -> None:
        """Nothing to do: nothing is known of an execution outside this database."""

    async def logs_removed(self, workflow_name: str, before: datetime, dry_run: bool) -> int:
        """Nothing to do: a database on a server has no logs beside it."""
        del workflow_name, before, dry_run
        return 0

    async def space(self, workflow_name: str) -> Space:
        """Tell how much room the schema takes, indexes included; what is free in it only the server knows."""
        del workflow_name
        ((size,),) = await self.fetch(_SPACE, {"schema": self.schema})
        return Space(size, 0)

    async def shrunk(self, workflow_name: str, pages: int) -> bool:
        """Nothing to do: the server's autovacuum makes room for rows to come."""
        del workflow_name, pages
        return False
