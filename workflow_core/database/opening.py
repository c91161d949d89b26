"""Opening a database of SQLite: its settings, its tables, and refusing what is not ours."""

from __future__ import annotations

import contextlib
import re
import sqlite3
import sys
import time
from typing import TYPE_CHECKING, Final

from workflow_core.database.diagnosis import storage_error
from workflow_core.database.migrations import migrate, statements
from workflow_core.errors import SchemaVersionError, StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["changed_setting", "leave_to_parent", "open_database", "prepare", "roll_back"]

_PAGE_BYTES: Final = 2_048
"""Of a new file. Each durable point writes whole pages to the write-ahead log, of which it changes little."""

_LOG_BYTES: Final = 2_000 * 2_048
"""The log is checkpointed when it has so many bytes of pages: as many as by SQLite's defaults, 1 000 of 4 096."""

_WAL_TRIES: Final = 100
_TABLE: Final = re.compile(r"^CREATE TABLE (\w+)", re.MULTILINE)
_SHOWN_TABLES: Final = 5

_left_to_parent: list[sqlite3.Connection] = []


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
    if sys.platform == "darwin":  # where a flush reaches the disk's own memory, unless it is asked to go further
        connection.execute(f"PRAGMA fullfsync = {synchronous == 'FULL'}")
        connection.execute("PRAGMA checkpoint_fullfsync = ON")
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


@contextlib.contextmanager
def changed_setting(connection: sqlite3.Connection, name: str, value: int) -> Iterator[None]:
    """Let a setting of a connection have another value, in a ``with`` block.

    Args:
        connection: The connection.
        name: Of a pragma that is a number, such as ``busy_timeout``.
        value: The value.
    """
    before = connection.execute(f"PRAGMA {name}").fetchone()[0]
    try:
        connection.execute(f"PRAGMA {name} = {value}").fetchall()
        yield
    finally:
        connection.execute(f"PRAGMA {name} = {before}").fetchall()


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


def leave_to_parent(connection: sqlite3.Connection) -> None:
    """Keep a parent's connection for ever: closing it in the child would drop the parent's locks.

    See https://www.sqlite.org/howtocorrupt.html, section 2.6.
    """
    _left_to_parent.append(connection)
