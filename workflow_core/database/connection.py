"""A connection to one SQLite database: opening it, its transactions, and what its errors mean.

Calls are made directly in the event loop's thread: a commit in WAL mode costs less than handing it to a thread. The
lock only matters when engines in several threads share one store.
"""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
import threading
import time
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from workflow_core.database.diagnosis import storage_error
from workflow_core.database.group_commit import GroupCommit
from workflow_core.database.migrations import migrate, statements
from workflow_core.database.schema import WORKFLOW_SCHEMA, WORKFLOW_SCHEMA_VERSION
from workflow_core.errors import SchemaVersionError, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

__all__ = ["Database", "after_fork", "closed_error", "leave_to_parent", "open_database", "prepare", "roll_back"]

_PAGE_BYTES: Final = 2_048
"""Of a new file. Each durable point writes whole pages to the write-ahead log, of which it changes little."""

_LOG_BYTES: Final = 2_000 * 2_048
"""The log is checkpointed when it has so many bytes of pages: as many as by SQLite's defaults, 1 000 of 4 096."""

_WAL_TRIES: Final = 100
_TABLE: Final = re.compile(r"^CREATE TABLE (\w+)", re.MULTILINE)
_SHOWN_TABLES: Final = 5


def open_database(
    path: Path | None, schema: str, version: int, synchronous: str, busy_timeout_ms: int
) -> sqlite3.Connection:
    """Open a database, making its tables if it is new.

    Args:
        path: The file; ``None`` for a database in memory.
        schema: The statements that make the tables.
        version: The schema's version, stored as ``PRAGMA user_version``.
        synchronous: ``NORMAL`` or ``FULL``.
        busy_timeout_ms: How long to wait for another process's lock.

    Raises:
        SchemaVersionError: The file was written by a newer version of this library, or by another program.
        StorageError: The file cannot be opened, or is not a database.
    """
    where = str(path) if path is not None else ":memory:"
    if path is not None:
        with contextlib.suppress(OSError):  # it is there already, or SQLite will say what is wrong
            path.touch(mode=0o600, exist_ok=False)
    connection = None
    try:
        if path is not None:
            _look_at_log(path, schema, version, busy_timeout_ms)
        connection = sqlite3.connect(
            where, timeout=busy_timeout_ms / 1_000, isolation_level=None, check_same_thread=False, cached_statements=256
        )
        if path is not None:
            _refuse_foreign(connection, schema, version, where)
            if connection.execute("PRAGMA page_count").fetchone()[0] == 0:  # later it has no effect, and writes
                connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")  # the first: the other one fixes it
                connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            _switch_to_wal(connection, busy_timeout_ms)
            page_bytes = connection.execute("PRAGMA page_size").fetchone()[0]
            connection.execute(f"PRAGMA wal_autocheckpoint = {_LOG_BYTES // page_bytes}")
        prepare(connection, schema, version, synchronous)
    except BaseException as error:
        if connection is not None:
            connection.close()
        if isinstance(error, sqlite3.Error):
            raise storage_error(error, where) from error
        raise
    return connection


def _look_at_log(path: Path, schema: str, version: int, busy_timeout_ms: int) -> None:
    """Refuse a database with the write-ahead log of another: to close it would write that into the file.

    Raises:
        SchemaVersionError: What the two hold together is not ours.
        StorageError: The same, of tables that are missing.
    """
    try:
        if not path.with_name(f"{path.name}-wal").stat().st_size:
            return
    except OSError:
        return
    where, timeout = f"{path.absolute().as_uri()}?mode=ro", busy_timeout_ms / 1_000
    with contextlib.closing(sqlite3.connect(where, uri=True, timeout=timeout)) as connection:
        _refuse_foreign(connection, schema, version, str(path))


def _refuse_foreign(connection: sqlite3.Connection, schema: str, version: int, where: str) -> None:
    """Refuse a database that is not ours, before anything in it is changed.

    Raises:
        SchemaVersionError: It belongs to a newer version of this library, or to another program.
        StorageError: Tables of it are missing.
    """
    connection.execute("BEGIN")  # both reads see one state, while another process may be making the tables
    try:
        found = _version(connection)
        tables = {str(row[0]) for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    finally:
        roll_back(connection)
    expected = set(_TABLE.findall(schema))
    if found > version and tables & expected:
        raise SchemaVersionError(
            f"{where} has schema version {found}, and this version of pytest-workflow-core knows up to {version}: "
            "install the version that wrote it, or a newer one",
            where,
        )
    if (found or tables) and (found == 0 or not tables & expected):
        shown = ", ".join(sorted(tables)[:_SHOWN_TABLES]) or "no tables"
        raise SchemaVersionError(
            f"{where} is the database of another program (it holds {shown}); move it away, or choose another place",
            where,
        )
    if found == version and expected - tables:
        missing = ", ".join(sorted(expected - tables))
        raise StorageError(
            f"{where}: these tables are missing: {missing}; the file is damaged: restore it from a backup, or move it "
            "away",
            where,
            "damaged",
        )


def prepare(connection: sqlite3.Connection, schema: str, version: int, synchronous: str) -> None:
    """Set a new connection up, and make the tables, or bring those of an older version to this one.

    Args:
        connection: The connection, outside a transaction.
        schema: The statements that make the tables.
        version: The schema's version.
        synchronous: ``NORMAL`` or ``FULL``.
    """
    connection.execute(f"PRAGMA synchronous = {synchronous}")
    connection.execute("PRAGMA foreign_keys = ON")
    if (found := _version(connection)) != 0:
        migrate(connection, schema, found, version)
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        if _version(connection) == 0:  # nobody was faster
            for statement in statements(schema):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {version}")
        connection.execute("COMMIT")
    except BaseException:
        roll_back(connection)
        raise


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def roll_back(connection: sqlite3.Connection) -> bool:
    """End a transaction that failed, if SQLite has not done so; tell whether none is open now."""
    if connection.in_transaction:
        with contextlib.suppress(sqlite3.Error):  # what made the transaction fail was said, and is what matters
            connection.execute("ROLLBACK")
    return not connection.in_transaction


def _switch_to_wal(connection: sqlite3.Connection, busy_timeout_ms: int) -> None:
    """Switch to write-ahead logging, waiting for a process that does so at the same time.

    SQLite does not wait for that by itself: its busy time-out covers transactions, not this change.
    """
    for tries_left in range(_WAL_TRIES, -1, -1):
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if not tries_left or error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                raise
            time.sleep(busy_timeout_ms / 1_000 / _WAL_TRIES)
        else:
            return


class _Forked(Protocol):
    def forked(self) -> None:
        """Begin again in a child process."""


_stores: weakref.WeakSet[_Forked] = weakref.WeakSet()
_left_to_parent: list[sqlite3.Connection] = []


def after_fork(store: _Forked) -> None:
    """Let a store begin again in each child that this process is forked into."""
    _stores.add(store)


def leave_to_parent(connection: sqlite3.Connection) -> None:
    """Keep a parent's connection for ever: closing it in the child would drop the parent's locks.

    See https://www.sqlite.org/howtocorrupt.html, section 2.6.
    """
    _left_to_parent.append(connection)


def _begin_again_in_child() -> None:
    for store in list(_stores):
        store.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_again_in_child)


def closed_error(where: str) -> StorageError:
    """Return the error of a store that was closed."""
    return StorageError(f"{where}: the store is closed; make a new engine", where, "closed")


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
            self._database.lock.release()
            if isinstance(error, sqlite3.Error):
                raise storage_error(error, self._database.location()) from error
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
        except sqlite3.Error as failure:
            database.roll_back()
            raise storage_error(failure, database.location()) from failure
        finally:
            database.lock.release()
        if isinstance(error, sqlite3.Error):
            raise storage_error(error, database.location()) from error


class Database:
    """One database of executions, opened, shared by threads, and begun anew in a forked child.

    Args:
        path: The database file; ``None`` keeps it in memory.
        synchronous: ``NORMAL``, or ``FULL`` to survive power cuts.
        busy_timeout_ms: How long a write waits for another process's lock, in milliseconds.
        connection: An open connection to use instead of opening one; it is not closed with the store.
        before_opening: Called before the file is opened, which happens at the first use then, instead of at once.
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
        self._path = None if path is None else Path(path)
        self._synchronous = synchronous
        self._busy_timeout_ms = busy_timeout_ms
        self._before_opening = before_opening
        self.lock = threading.RLock()
        self._borrowed = connection is not None
        self._closed = False
        self._connection = connection
        self.groups = GroupCommit(self, is_on=path is not None)
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
