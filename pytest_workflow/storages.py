"""Where the state of a run lies: a database that outlives the simulated processes which use it."""

from __future__ import annotations

import atexit
import sqlite3
from typing import TYPE_CHECKING, Any, Protocol, cast

from workflow_core.database.opening import open_database
from workflow_core.database.schema import WORKFLOW_SCHEMA, WORKFLOW_SCHEMA_VERSION
from workflow_core.database.sqlite import SQLiteStore

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from workflow_core.database.store import Store, WorkflowStore
    from workflow_core.settings import Settings

__tracebackhide__ = True  # pytest leaves the frames of this module out
__all__ = ["FileStorage", "MemoryStorage", "SQLConnection", "SQLCursor", "Storage", "copied", "memory_database"]

_template: sqlite3.Connection | None = None


class SQLCursor(Protocol):
    """What a statement returned, as `sqlite3` tells it."""

    @property
    def description(self) -> Sequence[Sequence[Any]] | None:
        """The columns, each of which begins with its name; ``None`` for a statement that returns no rows."""

    def fetchone(self) -> Sequence[Any] | None:
        """Return the next row."""

    def fetchall(self) -> Sequence[Sequence[Any]]:
        """Return the rows that are left."""


class SQLConnection(Protocol):
    """As much of `sqlite3.Connection` as tests and the harness use, whatever database is behind it."""

    def execute(self, sql: str, parameters: Sequence[object] = ..., /) -> SQLCursor:
        """Run a statement, with ``?`` for parameters; it is committed at once."""


class Storage(Protocol):
    """The database of one run.

    Attributes:
        path: Where it lies: ``":memory:"``, a file, or the address of a server without any secret.
        errors: What its connection raises.
    """

    path: str
    errors: tuple[type[Exception], ...]

    def open_store(self, settings: Settings) -> Store:
        """Return a store of its own for a process."""

    def reading_store(self) -> WorkflowStore:
        """Return a store to read with at once, whose methods never wait, even if the processes have ended."""

    def connection(self) -> SQLConnection:
        """Return the connection that tests and the harness look with; always the same one."""

    def another(self) -> Storage:
        """Return an empty one for a run inside of this one."""

    def empty(self) -> None:
        """Remove all rows."""

    def image(self) -> bytes:
        """Return all rows as they are now."""

    def fill(self, image: bytes) -> None:
        """Put the rows of an image in the place of all rows."""

    def copied(self) -> sqlite3.Connection:
        """Return a copy in a database of SQLite's in memory, which is the caller's to close."""

    def problems(self) -> list[str]:
        """Return what is damaged."""

    def close(self) -> None:
        """Let go of it."""


def memory_database() -> sqlite3.Connection:
    """Return a new database in memory: a copy of an empty one, which is cheaper than making the tables again."""
    global _template  # noqa: PLW0603 - one template for the process
    if _template is None:
        _template = open_database(None, WORKFLOW_SCHEMA, WORKFLOW_SCHEMA_VERSION, "NORMAL", 0)
        atexit.register(_template.close)
    connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False, cached_statements=256)
    _template.backup(connection)
    connection.execute("PRAGMA foreign_keys = ON")
    return connection


def copied(database: sqlite3.Connection) -> sqlite3.Connection:
    """Return a copy, in memory, of a database."""
    copy = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    database.backup(copy)
    return copy


class _SQLiteStorage:
    """What storages on SQLite have in common.

    Args:
        connection: What tests look with.
        path: Where it lies.
    """

    errors: tuple[type[Exception], ...] = (sqlite3.Error,)

    def __init__(self, connection: sqlite3.Connection, path: str) -> None:
        self._connection = connection
        self.path = path

    def connection(self) -> SQLConnection:
        """Return the connection."""
        return cast("SQLConnection", self._connection)  # its stub allows more kinds of parameters

    def reading_store(self) -> WorkflowStore:
        """Return a store on that connection."""
        return SQLiteStore(connection=self._connection)

    def another(self) -> Storage:
        """Return a database in memory."""
        return MemoryStorage()

    def empty(self) -> None:
        """Remove all rows; the prepared statements stay, which is why a database is used again."""
        database = self._connection
        if database.in_transaction:
            database.rollback()
        tables = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        for (table_name,) in reversed(tables):  # what refers to a table was made after it
            database.execute(f'DELETE FROM "{table_name}"')  # noqa: S608 - a name from the schema

    def image(self) -> bytes:
        """Return the database."""
        return self._connection.serialize()

    def fill(self, image: bytes) -> None:
        """Put a database in the place of this one."""
        self._connection.deserialize(image)

    def copied(self) -> sqlite3.Connection:
        """Return a copy in memory."""
        return copied(self._connection)

    def problems(self) -> list[str]:
        """Look for rows that refer to nothing."""
        return [f"foreign key: {row}" for row in self._connection.execute("PRAGMA foreign_key_check").fetchall()]

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


class MemoryStorage(_SQLiteStorage):
    """A database in memory.

    Args:
        connection: An empty one that is there already.
    """

    def __init__(self, connection: sqlite3.Connection | None = None) -> None:
        super().__init__(memory_database() if connection is None else connection, ":memory:")

    def open_store(self, settings: Settings) -> Store:
        """Return a store on the one connection that there can be."""
        return SQLiteStore(
            None,
            connection=self._connection,
            synchronous=settings.synchronous,
            busy_timeout_ms=settings.busy_timeout_ms,
        )


class FileStorage(_SQLiteStorage):
    """A database file.

    Args:
        file: The file, which is made if it is not there.
    """

    def __init__(self, file: Path) -> None:
        super().__init__(sqlite3.connect(str(file), isolation_level=None, check_same_thread=False), str(file))
        self._file = file

    def open_store(self, settings: Settings) -> Store:
        """Return a store with a connection of its own."""
        return SQLiteStore(self._file, synchronous=settings.synchronous, busy_timeout_ms=settings.busy_timeout_ms)

    def problems(self) -> list[str]:
        """Look for pages that were torn on their way to the disk, too."""
        checked = [str(row[0]) for row in self._connection.execute("PRAGMA integrity_check").fetchall()]
        return super().problems() + [row for row in checked if row != "ok"]
