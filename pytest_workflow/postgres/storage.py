"""One schema of a PostgreSQL database as the place of a run's state."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

import psycopg

from pytest_workflow.postgres.blocking import BlockingPostgresStore, SchemaConnection
from pytest_workflow.storages import memory_database
from workflow_core.errors import StorageError

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable

    from pytest_workflow.storages import SQLConnection, Storage
    from workflow_core.database.store import Store, WorkflowStore
    from workflow_core.settings import Settings

__tracebackhide__ = True  # pytest leaves the frames of this module out
__all__ = ["PostgresStorage"]

_TABLES: Final = (
    *("workflows", "owners", "definitions", "circuit_breaker_state"),
    *("limits", "workers"),
    *("executions", "steps", "step_errors", "event_log", "dispatches"),
)
"""What refers to a table comes after it."""

_IDENTITIES: Final = ("executions_rowid_seq", "step_errors_id_seq", "dispatches_position_seq")

_EMPTIED: Final = "; ".join(
    [
        *(f"DELETE FROM {table}" for table in reversed(_TABLES)),  # noqa: S608 - names from here
        *(f"SELECT setval('{sequence}', 1, false)" for sequence in _IDENTITIES),
    ]
)
_TRUNCATED: Final = f"TRUNCATE {', '.join(_TABLES)} RESTART IDENTITY"

_VACUUM_AFTER: Final = 100
"""How often rows are deleted before the tables are made anew, which costs more and leaves no dead rows."""

_SHAPE: Final = """
SELECT (SELECT array_agg(relname::text || relkind::text ORDER BY 1) FROM pg_class WHERE relnamespace = n.oid),
       (SELECT count(*) FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid WHERE c.relnamespace = n.oid
        AND NOT a.attisdropped),
       (SELECT array_agg(tgname::text || tgenabled::text ORDER BY 1) FROM pg_trigger t JOIN pg_class c
        ON c.oid = t.tgrelid WHERE c.relnamespace = n.oid AND NOT tgisinternal)
FROM pg_namespace n WHERE n.nspname = %s
"""
"""What is in the schema: a test may make tables of its own there, or drop some."""


class PostgresStorage:
    """A schema, which is used for one run after another.

    Args:
        url: The database.
        schema: The schema's name.
        another: Gives a further one.
        give_back: Takes this one back when a run has ended.
    """

    errors: tuple[type[Exception], ...] = (psycopg.Error,)

    def __init__(
        self,
        url: str,
        schema: str,
        another: Callable[[], PostgresStorage],
        give_back: Callable[[PostgresStorage], object],
    ) -> None:
        self._shared = SchemaConnection(url, schema)
        self._another, self._give_back = another, give_back
        self._shape: object = None
        self._columns: dict[str, str] = {}
        self._emptied = 0
        self.path = self._shared.location

    def open_store(self, settings: Settings) -> Store:
        """Return a store of its own for a process."""
        del settings  # they are about SQLite's files
        return BlockingPostgresStore(self._shared)

    def reading_store(self) -> WorkflowStore:
        """Return a store to read with."""
        return BlockingPostgresStore(self._shared)

    def connection(self) -> SQLConnection:
        """Return the connection, which takes and returns what SQLite does."""
        return self._shared

    def another(self) -> Storage:
        """Return a further schema."""
        return self._another()

    def empty(self) -> None:
        """Remove all rows, and whatever a test has done to the tables.

        Raises:
            StorageError: The server cannot be used.
        """
        for is_last in (False, True):
            try:
                if self._shape is None or self._shape != self._look():
                    self._make()
                else:
                    self._emptied += 1
                    is_due = self._emptied % _VACUUM_AFTER == 0
                    self._shared.get().execute(_TRUNCATED if is_due else _EMPTIED, prepare=False)
            except psycopg.OperationalError as error:
                self._shared.close()
                if is_last:
                    raise StorageError(f"{self.path}: {error}", self.path, "unavailable") from error
            else:
                return

    def _look(self) -> object:
        return self._shared.get().execute(_SHAPE, (self._shared.schema,)).fetchone()

    def _make(self) -> None:
        self.drop()
        self._shared.make_tables()
        self._shape = self._look()
        self._columns = {
            table: ", ".join(f'"{row[0]}"' for row in self._shared.execute(
                "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(?) AND attnum > 0 AND NOT attisdropped"
                " AND attgenerated = '' ORDER BY attnum",
                (f"{self._shared.schema}.{table}",),
            ).fetchall())
            for table in _TABLES
        }  # fmt: skip

    def image(self) -> bytes:
        """Return all rows as they are now."""
        cursor = self._shared.get().cursor()
        rows: dict[str, str] = {}
        for table, columns in self._columns.items():
            with cursor.copy(f"COPY {table} ({columns}) TO STDOUT".encode()) as copy:
                rows[table] = b"".join(bytes(part) for part in copy).decode()
        return json.dumps(rows).encode()

    def fill(self, image: bytes) -> None:
        """Put the rows of an image in the place of all rows."""
        self.empty()
        cursor = self._shared.get().cursor()
        for table, rows in json.loads(image).items():
            with cursor.copy(f"COPY {table} ({self._columns[table]}) FROM STDIN".encode()) as copy:
                copy.write(rows)
        for sequence in _IDENTITIES:
            table, column, _ = sequence.rsplit("_", 2)
            self._shared.execute(
                f"SELECT setval('{sequence}', coalesce(max({column}), 0) + 1, false) FROM {table}"  # noqa: S608 - names from here
            )

    def copied(self) -> sqlite3.Connection:
        """Return a copy in a database of SQLite's in memory."""
        copy = memory_database()
        for table in _TABLES:
            columns = [row[1] for row in copy.execute(f"PRAGMA table_info({table})")]
            if columns:
                names, marks = ", ".join(columns), ", ".join("?" * len(columns))
                order = " ORDER BY rowid" if table == "executions" else " ORDER BY id" if table == "step_errors" else ""
                rows = self._shared.execute(f"SELECT {names} FROM {table}{order}").fetchall()  # noqa: S608 - names from the schema
                copy.executemany(f"INSERT INTO {table} ({names}) VALUES ({marks})", rows)  # noqa: S608 - names from the schema
        return copy

    def problems(self) -> list[str]:
        """Return nothing: the server checks what refers to what, and its own pages."""
        return []

    def close(self) -> None:
        """Let another run have the schema."""
        self._give_back(self)

    def drop(self) -> None:
        """Remove the schema from the server."""
        self._shared.get().execute(f'DROP SCHEMA IF EXISTS "{self._shared.schema}" CASCADE'.encode())

    def disconnect(self) -> None:
        """End the connection."""
        self._shared.close()
