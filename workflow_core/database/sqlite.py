"""One SQLite database of executions, in a file or in memory, by the same SQL."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pydantic_core

from workflow_core.database import removal
from workflow_core.database.execution_points import ExecutionPoints
from workflow_core.database.step_points import StepPoints

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    from workflow_core.database.removal import Candidate, Expiry, Space
    from workflow_core.database.store import Lease
    from workflow_core.ownership import Owner
    from workflow_core.summaries import Position

__all__ = ["SQLiteStore"]


class SQLiteStore(ExecutionPoints, StepPoints):
    """A store in one SQLite database, which may hold any number of workflows; takes the arguments of `Database`."""

    concurrency = 1

    def for_reading(self) -> SQLiteStore | None:
        """Return another store of this file, for a thread that only reads; ``None`` of a database in memory."""
        if self._path is None or self._borrowed:
            return None
        return SQLiteStore(self._path, synchronous=self._synchronous, busy_timeout_ms=self._busy_timeout_ms)

    def workflow(self, workflow_name: str) -> SQLiteStore:
        """Return this store: one database holds every workflow."""
        del workflow_name
        return self

    async def workflow_defined(self, workflow_name: str, definition: Mapping[str, object], at: datetime) -> None:
        """Nothing to do: one database holds every workflow."""

    # Leases ----------------------------------------------------------------------------------------------------------

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

    # Removing --------------------------------------------------------------------------------------------------------

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
