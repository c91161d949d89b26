"""Removing executions that are at rest from one database, and giving the space back to the file system.

An execution goes with its steps, errors and events, in one transaction. What is known of it elsewhere goes after it:
`removed_executions` names those executions until that is done, so a crash in between loses nothing and leaves nothing.
"""

from __future__ import annotations

import heapq
import itertools
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final

import pydantic_core

from workflow_core.database.listing import stored_names
from workflow_core.database.moments import stored_text
from workflow_core.database.opening import changed_setting

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Sequence

    from workflow_core.models import ExecutionStatus
    from workflow_core.summaries import Position

__all__ = ["Candidate", "Expiry", "Space", "candidates", "forget_removed", "names_removed", "remove", "shrink", "space"]

_EXPIRED: Final = "status = ? AND coalesce(completed_at, updated_at) < ? AND restart_at IS NULL"


@dataclass(frozen=True, slots=True)
class Expiry:
    """Which executions are removed.

    Attributes:
        before: Those that came to rest earlier than this.
        statuses: Those that rest in one of these statuses.
    """

    before: datetime
    statuses: Sequence[ExecutionStatus]

    @property
    def text(self) -> str:
        """The moment as it is stored."""
        return stored_text(self.before)


@dataclass(frozen=True, slots=True)
class Candidate:
    """An execution that can be removed, unless somebody begins it again first."""

    execution_id: str
    workflow_name: str
    status: ExecutionStatus
    started_at: datetime

    @property
    def position(self) -> Position:
        """Its place in the list of candidates."""
        return self.started_at, self.execution_id


@dataclass(frozen=True, slots=True)
class Space:
    """How much room a database takes, in bytes.

    Attributes:
        size: The whole file.
        free: The part of it that nothing uses; new rows take it first.
    """

    size: int
    free: int


def candidates(
    connection: sqlite3.Connection, workflow_name: str | None, expiry: Expiry, after: Position | None, limit: int
) -> list[Candidate]:
    """Read which executions can be removed, the earliest started first.

    An execution rests no earlier than it started, so the walk along the index ends at ``expiry.before``.
    """
    place = ("", "") if after is None else (stored_text(after[0]), after[1])
    query = (
        "SELECT id, workflow_name, status, started_at FROM executions WHERE workflow_name = ? AND started_at < ?"
        f" AND {_EXPIRED} AND (started_at, id) > (?, ?) ORDER BY started_at, id LIMIT ?"
    )
    names = stored_names(connection) if workflow_name is None else [workflow_name]
    found = [
        connection.execute(query, (name, expiry.text, status, expiry.text, *place, limit)).fetchall()
        for name in names
        for status in expiry.statuses
    ]
    rows = itertools.islice(heapq.merge(*found, key=lambda row: (row[3], row[0])), limit)
    return [Candidate(row[0], row[1], row[2], datetime.fromisoformat(row[3])) for row in rows]


def remove(
    connection: sqlite3.Connection,
    found: Sequence[Candidate],
    expiry: Expiry,
    enough: Callable[[], bool],
    *,
    known_elsewhere: bool,
) -> tuple[list[Candidate], Position]:
    """Remove candidates, in the transaction that the connection is in; those that were begun again stay.

    Args:
        connection: The database, in a transaction.
        found: The candidates, at least one.
        expiry: What made them candidates.
        enough: Asked after each execution; at ``True`` the rest is left for the next transaction.
        known_elsewhere: Note them in `removed_executions`.

    Returns:
        Those that were removed, and the place in the list up to which candidates were looked at.
    """
    removed, place = [], found[0].position
    for candidate in found:
        changed = connection.execute(
            f"DELETE FROM executions WHERE id = ? AND {_EXPIRED}",
            (candidate.execution_id, candidate.status, expiry.text),
        ).rowcount
        place = candidate.position
        if changed:
            removed.append(candidate)
        if enough():
            break
    ids = pydantic_core.to_json([candidate.execution_id for candidate in removed]).decode()
    # An execution that gets the id again must not find itself to be the probe of a circuit.
    connection.execute(
        "UPDATE circuit_breaker_state SET probe_execution_id = NULL, probe_expires_at = NULL"
        " WHERE probe_execution_id IN (SELECT value FROM json_each(?))",
        (ids,),
    )
    if known_elsewhere:
        connection.execute("INSERT OR IGNORE INTO removed_executions SELECT value FROM json_each(?)", (ids,))
    return removed, place


def names_removed(connection: sqlite3.Connection, limit: int) -> list[tuple[str, bool]]:
    """Read ids that were removed here and may be known elsewhere, each with whether it is in use again."""
    rows = connection.execute(
        "SELECT r.execution_id, EXISTS (SELECT 1 FROM executions e WHERE e.id = r.execution_id)"
        " FROM (SELECT execution_id FROM removed_executions ORDER BY execution_id LIMIT ?) r",
        (limit,),
    )
    return [(execution_id, bool(in_use)) for execution_id, in_use in rows]


def forget_removed(connection: sqlite3.Connection, execution_ids: Sequence[str]) -> None:
    """Note that nothing is known any more of removed executions."""
    connection.executemany("DELETE FROM removed_executions WHERE execution_id = ?", [(name,) for name in execution_ids])


def space(connection: sqlite3.Connection) -> Space:
    """Tell how much room the database takes."""
    (pages,), (free,), (size,) = (
        connection.execute(f"PRAGMA {name}").fetchone() for name in ("page_count", "freelist_count", "page_size")
    )
    return Space(pages * size, free * size)


def shrink(connection: sqlite3.Connection, pages: int) -> bool:
    """Give up to ``pages`` free pages back to the file system; return whether there may be more to give back.

    A file that was made without ``auto_vacuum`` keeps its free pages, for rows to come.
    """
    if connection.execute("PRAGMA auto_vacuum").fetchone() != (2,):
        return False
    connection.execute(f"PRAGMA incremental_vacuum({int(pages)})").fetchall()
    if connection.execute("PRAGMA freelist_count").fetchone()[0]:
        return True
    # The file is cut when the log of writes is copied into it; whoever uses the log at the moment is not waited for.
    with changed_setting(connection, "busy_timeout", 0):
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    return False
