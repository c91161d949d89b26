"""What the durable points of one SQLite database have in common: transactions, the fence, owners."""

from __future__ import annotations

import functools
import sqlite3
from typing import TYPE_CHECKING, Final, TypeVar

from workflow_core.database import parts
from workflow_core.database.diagnosis import storage_error
from workflow_core.database.group_commit import Change, Work
from workflow_core.database.reading import ReadableDatabase
from workflow_core.errors import ExecutionNotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from workflow_core.database.store import Lease
    from workflow_core.models import ExecutionStatus
    from workflow_core.ownership import Owner

__all__ = ["WritableDatabase"]

T = TypeVar("T")

_FENCE: Final = "SELECT 1 FROM executions WHERE id = ? AND fencing_token = ?"

_LEASE_TOLERANCE_MS: Final = 1_000
"""A lease that starting an execution would prolong by less than this is left as it is."""


class WritableDatabase(ReadableDatabase):
    """A database whose executions are written by who has their lease; takes the arguments of `Database`."""

    @functools.cached_property
    def _known_owners(self) -> dict[str, int | None]:
        return {}

    def forked(self) -> None:
        """Begin again in a child process, which may not use a connection of its parent's."""
        super().forked()
        self._known_owners = {}

    def undone(self) -> None:
        """Forget which owners are known: the write that was taken back may have been the one that recorded one."""
        self._known_owners = {}

    # Transactions ----------------------------------------------------------------------------------------------------

    async def _commit(self, write: Callable[[sqlite3.Connection], T], *, is_single: bool = False) -> T:
        """Write in a transaction, shared with the durable points that other tasks make in this turn of the loop.

        Args:
            write: Writes on the connection it is given, and returns the durable point's result.
            is_single: It runs one statement that writes, and raises an error only if that has changed nothing: so the
                statement needs no transaction around it.
        """
        if self.groups.is_alone():
            return self._write_one(write) if is_single else self._commit_at_once(write)
        result: T = await self.groups.commit(Work(write, is_single=is_single))
        return result

    def _write_one(self, write: Callable[[sqlite3.Connection], T]) -> T:
        """Write by one statement, which is its own transaction."""
        with self.lock:
            try:
                return write(self._connection or self.connection)
            except sqlite3.Error as error:
                raise storage_error(error, self.location()) from error

    def _change_one(self, lease: Lease, statement: str, values: tuple[object, ...]) -> None:
        """Change one row by one statement: as `_write_one`, and without a function for it."""
        with self.lock:
            try:
                changed = (self._connection or self.connection).execute(statement, values).rowcount
            except sqlite3.Error as error:
                raise storage_error(error, self.location()) from error
            if self._log_grows:
                self.committed()
        if changed != 1:
            raise lease.lost()

    def _change_in_group(
        self, lease: Lease, statement: str, values: tuple[object, ...]
    ) -> Coroutine[None, None, object]:
        """Do the same in a transaction that is shared."""
        return self.groups.commit(Change(statement, values, lease.lost))

    def _commit_at_once(self, write: Callable[[sqlite3.Connection], T]) -> T:
        """Write in a transaction of its own, after what waits for one.

        What counts on a circuit may give its position in the history back, so nobody may take the next one meanwhile.
        """
        with self.transaction() as connection:
            return write(connection)

    # Parts of transactions -------------------------------------------------------------------------------------------

    def _is_recorded(self, owner: Owner, lease_expires_at: int | None) -> bool:
        """Tell whether an owner is in the database already, with a lease that is as good."""
        known = self._known_owners.get(owner.owner_id, 0)
        return known is None or (lease_expires_at is not None and lease_expires_at - known < _LEASE_TOLERANCE_MS)

    def _ensure_owner(self, connection: sqlite3.Connection, owner: Owner, lease_expires_at: int | None) -> None:
        if self._is_recorded(owner, lease_expires_at):
            return
        connection.execute(
            "INSERT INTO owners (owner_id, host, pid, process_started, lease_expires_at) VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT (owner_id) DO UPDATE SET lease_expires_at = excluded.lease_expires_at",
            (owner.owner_id, owner.host, owner.pid, owner.process_started, lease_expires_at),
        )
        self._known_owners[owner.owner_id] = lease_expires_at

    def _check(self, connection: sqlite3.Connection, lease: Lease) -> None:
        if connection.execute(_FENCE, (lease.execution_id, lease.fencing_token)).fetchone() is None:
            raise lease.lost()

    def _change(self, connection: sqlite3.Connection, lease: Lease, statement: str, values: tuple[object, ...]) -> None:
        if connection.execute(statement, values).rowcount != 1:
            raise lease.lost()

    def _update_execution(
        self,
        connection: sqlite3.Connection,
        lease: Lease,
        now: str,
        assignments: str,
        values: tuple[object, ...],
        condition: str = "TRUE",
    ) -> None:
        cursor = connection.execute(
            f"UPDATE executions SET {assignments}, revision = revision + 1, updated_at = ?"
            f" WHERE id = ? AND fencing_token = ? AND {condition}",
            (*values, now, lease.execution_id, lease.fencing_token),
        )
        if cursor.rowcount != 1:
            if parts.select_execution_row(connection, lease.execution_id) is None:
                raise ExecutionNotFoundError(f'No execution "{lease.execution_id}" in {self.location()}')
            raise lease.lost()

    def _set_status(
        self, connection: sqlite3.Connection, lease: Lease, status: ExecutionStatus | None, now: str
    ) -> None:
        if status is not None:
            self._update_execution(connection, lease, now, "status = ?", (status,))
