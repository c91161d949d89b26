"""What all durable points have in common here: how each is one statement, and how one in doubt is told from a refusal.

A connection may break after a statement was sent and before its answer came. Then nobody knows whether the durable
point was committed, and the server may even be about to do so. So every statement can be sent again:

- It checks the fencing token, and holds the execution's row until it commits (``FOR SHARE``), so that whoever takes the
  execution over waits for it and sees what it wrote.
- It says which state it changes, or inserts a row that has a key, so the second of two copies changes nothing.
- When a statement changed nothing, a second one looks whether the point is there already, as it was to be written; then
  that is the success. Else the lease is lost.

In PostgreSQL the parts of a statement (common table expressions) see the rows as they were before it, and are
written together or not at all. What must see what others wrote until the row was locked is a second statement.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from psycopg import errors

from workflow_core.database.postgres.database import PostgresDatabase
from workflow_core.database.postgres.groups import Groups
from workflow_core.errors import ExecutionNotFoundError, StorageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from workflow_core.database.store import Lease

__all__ = ["CHANGES", "FENCE", "LAST_AT", "LAST_SEQ", "Points", "fence", "plain", "utc"]

FENCE: Final = "fence AS (SELECT id FROM {s}.executions WHERE id = %(id)s AND fencing_token = %(token)s FOR SHARE)"
"""The execution's row, held until the end of the transaction, if the lease is good."""

_FENCE_TO_CHANGE: Final = FENCE.replace("FOR SHARE", "FOR NO KEY UPDATE")

_STATUS: Final = (
    ", changed AS (UPDATE {s}.executions e SET status = %(status)s, revision = revision + 1, updated_at = %(at)s"
    " FROM written WHERE e.id = %(id)s)"
)

LAST_SEQ: Final = (
    "greatest(1, (SELECT max(seq) FROM {s}.event_log WHERE execution_id = %(id)s),"
    " (SELECT max(greatest(started_seq, completed_seq)) FROM {s}.steps WHERE execution_id = %(id)s))"
)
"""The highest position in the history of an execution; ``greatest`` passes over what is null."""

LAST_AT: Final = (
    "greatest((SELECT started_at FROM {s}.executions WHERE id = %(id)s),"
    " (SELECT max(at) FROM {s}.event_log WHERE execution_id = %(id)s),"
    " (SELECT max(greatest(started_at, completed_at)) FROM {s}.steps WHERE execution_id = %(id)s))"
)
"""The latest moment in the history of an execution."""

CHANGES: Final = "(SELECT count(*) + coalesce(sum(revision), 0)::bigint FROM {s}.steps WHERE execution_id = %(id)s)"
"""How often the steps of an execution were changed."""


def fence(rest: str, status: object = None) -> str:
    """Return the statement of a durable point.

    Args:
        rest: Common table expressions, of which ``written`` has a row if the point was written.
        status: Whether the execution's status is changed with it, unless this is ``None``.
    """
    first, last = (FENCE, "") if status is None else (_FENCE_TO_CHANGE, _STATUS)
    return f"WITH {first}, {rest}{last} SELECT (SELECT count(*) FROM fence), (SELECT count(*) FROM written)"


def plain(text: str) -> str:
    """Return a text without null characters, which PostgreSQL does not store, as they are written in Python."""
    return text.replace("\0", "\\x00")


def utc(at: datetime) -> datetime:
    """Return a moment that PostgreSQL told in its session's time zone."""
    return at.astimezone(UTC)


class Points(PostgresDatabase):
    """A database of executions, as far as durable points need it."""

    def __init__(self, url: str, *, schema: str = "workflow", max_connections: int = 10, prepares: bool = True) -> None:
        super().__init__(url, schema=schema, max_connections=max_connections, prepares=prepares)
        self._groups = Groups(self.fetch)

    def forked(self) -> None:
        """Begin again in a child process: what waits in its parent is the parent's."""
        super().forked()
        self._groups = Groups(self.fetch)

    async def _write(
        self, lease: Lease, sql: str, values: Mapping[str, object], done: str, *, changes_execution: bool = False
    ) -> None:
        """Write a durable point.

        Args:
            lease: The right to do so.
            sql: What `fence` returned.
            values: The parameters; the execution's id and the fencing token are added.
            done: A condition on the tables by which a point is recognised that was written already.
            changes_execution: Whether the execution itself is what changes, which then may not be there.

        Raises:
            LeaseLostError: The lease is not good.
            ExecutionNotFoundError: There is no such execution.
            StorageError: The database cannot be written, or holds something else than this process wrote.
        """

        async def write() -> None:
            await self._write_now(lease, sql, values, done, changes_execution=changes_execution)

        await self._groups.in_order(lease.execution_id, write)

    async def _write_now(
        self, lease: Lease, sql: str, values: Mapping[str, object], done: str, *, changes_execution: bool = False
    ) -> None:
        """Write a durable point whose turn has come; see `_write`."""
        every = {**values, "id": lease.execution_id, "token": lease.fencing_token}
        fenced = 1
        try:
            ((fenced, written),) = await self.fetch(sql, every)
            if written:
                return
        except errors.UniqueViolation:
            pass
        await self._look_for(lease, every, done, held=bool(fenced), changes_execution=changes_execution)

    async def _look_for(
        self, lease: Lease, every: Mapping[str, object], done: str, *, held: bool, changes_execution: bool = False
    ) -> tuple[Any, ...]:
        """Return the row that says that a point was written already; see `_write`."""
        rows = await self.fetch(done, every)
        if rows:
            return rows[0]
        if held and await self.fetch(f"WITH {FENCE} SELECT 1 FROM fence", every):
            raise StorageError(
                f'{self.location()}: a row of execution "{lease.execution_id}" is not as this process has left it, so '
                "it was not changed; another program has written there",
                self.location(),
            )
        known = "SELECT 1 FROM {s}.executions WHERE id = %(id)s"
        if changes_execution and not await self.fetch(known, {"id": lease.execution_id}):
            raise ExecutionNotFoundError(f'No execution "{lease.execution_id}" in {self.location()}')
        raise lease.lost()
