"""A connection to one SQLite database: its transactions, and what its errors mean.

Calls are made directly in the event loop's thread: a commit in WAL mode costs less than handing it to a thread. The
lock only matters when engines in several threads share one store.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workflow_core.database.diagnosis import closed_error, storage_error
from workflow_core.database.group_commit import GroupCommit
from workflow_core.database.log_length import lengthen_log
from workflow_core.database.opening import leave_to_parent, open_database, roll_back
from workflow_core.database.schema import WORKFLOW_SCHEMA, WORKFLOW_SCHEMA_VERSION
from workflow_core.errors import ValidationError, shown
from workflow_core.forking import after_fork

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

__all__ = ["Database"]


class _Transaction:
    """``with`` begins a write transaction, and ends it by a commit, or by a rollback on any error."""

    __slots__ = ("_database",)

    def __init__(self, database: Database) -> None:
        self._database = database

    def __enter__(self) -> sqlite3.Connection:
        self._database.lock.acquire()
        try:
            self._database.groups.commit_waiting()
            connection = self._database.connection
            connection.execute("BEGIN IMMEDIATE")
        except BaseException as error:
            try:
                if isinstance(error, sqlite3.Error):
                    raise storage_error(error, self._database.location()) from error
                self._database.roll_back()  # an interrupt is raised when what it came in has ended: it has begun
            finally:
                self._database.lock.release()
            raise
        return connection

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        database = self._database
        connection = database._connection
        try:
            if connection is None:
                return
            if error is None:
                connection.execute("COMMIT")
                return
            database.roll_back()
        except BaseException as failure:
            database.roll_back()
            if isinstance(failure, sqlite3.Error):
                raise storage_error(failure, database.location()) from failure
            raise
        finally:
            database.lock.release()
        if isinstance(error, sqlite3.Error):
            raise storage_error(error, database.location()) from error


_SYNCHRONOUS = ("NORMAL", "FULL")

_LOOK_AFTER = 16
"""After so many durable points it is seen whether the log is worth lengthening, which takes half as long as one."""


class Database:
    """One database of executions, opened, shared by threads, and begun anew in a forked child.

    Args:
        path: The database file; ``None``, or SQLite's ``":memory:"``, keeps it in memory.
        synchronous: ``NORMAL``, or ``FULL`` to survive power cuts.
        busy_timeout_ms: How long a write waits for another process's lock, in milliseconds.
        connection: An open connection to use instead of opening one; it is not closed with the store.
        before_opening: Called before the file is opened, which happens at the first use then, instead of at once.

    Raises:
        ValidationError: An argument is not acceptable.
    """

    def __init__(
        self,
        path: Path | str | None = None,
        *,
        synchronous: str = "NORMAL",
        busy_timeout_ms: int = 5_000,
        connection: sqlite3.Connection | None = None,
        before_opening: Callable[[], None] | None = None,
    ) -> None:
        if path is not None and (not isinstance(path, (str, Path)) or str(path) in {"", "."}):
            raise ValidationError(f"A database is a file, or None for one in memory, not {shown(path)}")
        if synchronous not in _SYNCHRONOUS:
            raise ValidationError(f"synchronous is {' or '.join(_SYNCHRONOUS)}, not {shown(synchronous)}")
        self._path = None if path is None or str(path) == ":memory:" else Path(path)
        self._synchronous = synchronous
        self._busy_timeout_ms = busy_timeout_ms
        self._before_opening = before_opening
        self.lock = threading.RLock()
        self._borrowed = connection is not None
        self._closed = False
        self._connection = connection
        self.groups = GroupCommit(self, is_on=self._path is not None)
        self._log_grows = synchronous == "FULL" and self._path is not None and connection is None
        self._points = 0
        if connection is None and before_opening is None:
            self._connection = self._open()
        after_fork(self)

    def _open(self) -> sqlite3.Connection:
        if self._before_opening is not None:
            self._before_opening()
        return open_database(
            self._path, WORKFLOW_SCHEMA, WORKFLOW_SCHEMA_VERSION, self._synchronous, self._busy_timeout_ms
        )

    def forked(self) -> None:
        """Begin again in a child process, which may not use a connection of its parent's."""
        self.lock = threading.RLock()
        self.groups.forked()
        if self._connection is not None and self._path is not None and not self._borrowed:
            leave_to_parent(self._connection)
            self._connection = None

    @property
    def connection(self) -> sqlite3.Connection:
        """The open connection.

        Raises:
            StorageError: The store was closed.
        """
        connection = self._connection
        if connection is None:
            if self._closed:
                raise closed_error(self.location())
            with self.lock:
                connection = self._connection = self._connection or self._open()
        return connection

    def location(self, workflow_name: str | None = None) -> str:
        """Tell where the data lies."""
        del workflow_name
        return str(self._path) if self._path is not None else ":memory:"

    def close(self) -> None:
        """Let go of the database; a borrowed connection stays open."""
        with self.lock:
            self.groups.commit_waiting()
            self._closed = True
            connection, self._connection = self._connection, None
            if connection is not None and not self._borrowed:
                connection.close()

    def roll_back(self) -> None:
        """End a transaction that failed; a connection that cannot even do that is replaced at its next use."""
        self.undone()
        connection = self._connection
        if connection is None or roll_back(connection) or self._borrowed or self._path is None:
            return
        self._connection = None
        with contextlib.suppress(sqlite3.Error):
            connection.close()

    def undone(self) -> None:
        """Forget what was remembered of writes that were taken back."""

    def committed(self, points: int = 1) -> None:
        """Note that durable points were committed; called by whoever holds the lock.

        Args:
            points: How many.
        """
        connection = self._connection
        self._points += points
        if self._log_grows and connection is not None and self._points >= _LOOK_AFTER:
            self._points = 0
            try:
                self._log_grows = not lengthen_log(connection)
            finally:
                if connection.in_transaction:
                    self.roll_back()

    def open(self) -> None:
        """Open the database now, if it was not used yet."""
        _ = self.connection

    def wait_for_locks(self, location: str, *, wait: bool) -> None:
        """Tell whether a write waits for another process's lock, or reports it at once.

        Args:
            location: The database that is meant; nothing happens if it is not this one.
            wait: ``False`` while whoever calls tries again by itself, and lets others run in between.
        """
        if location != self.location():
            return
        with self.lock, contextlib.suppress(sqlite3.Error):
            if self._connection is not None:
                self._connection.execute(f"PRAGMA busy_timeout = {self._busy_timeout_ms if wait else 0}")

    def transaction(self) -> _Transaction:
        """Return a write transaction, for a ``with`` statement."""
        return _Transaction(self)

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Give the connection for reading, in a ``with`` block.

        Raises:
            StorageError: The database could not be read.
        """
        with self.lock:
            try:
                yield self.connection
            except sqlite3.Error as error:
                raise storage_error(error, self.location()) from error

    def select(self, sql: str, parameters: tuple[object, ...] = ()) -> list[tuple[Any, ...]]:
        """Run a query and return its rows.

        Raises:
            StorageError: The database could not be read.
        """
        with self.reading() as connection:
            return connection.execute(sql, parameters).fetchall()
