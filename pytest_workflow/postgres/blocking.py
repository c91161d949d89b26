"""A store on PostgreSQL whose statements are answered before anything else runs.

The engine's own store waits for the server in the event loop, and other tasks go on meanwhile: in which order, the
network decides. A test must do the same each time it runs. So here the event loop stands still while a statement is on
its way, as it does with SQLite: virtual time cannot pass over an answer, tasks take turns at the same places whatever
the server's speed is, and what reads outside of an event loop can read at once. The statements, the tables and what
errors of the server mean are those of `PostgresStore`.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any, TypeVar, cast

import psycopg

from pytest_workflow.at_once import at_once
from pytest_workflow.postgres.dialect import Rows, in_psycopg, returned, teach
from workflow_core.database.postgres.address import Address
from workflow_core.database.postgres.connections import ADAPTERS
from workflow_core.database.postgres.diagnosis import storage_error
from workflow_core.database.postgres.migrations import migrate
from workflow_core.database.postgres.store import PostgresStore
from workflow_core.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

    from workflow_core.database.postgres.connections import Connection

__all__ = ["BlockingPostgresStore", "SchemaConnection"]

_T = TypeVar("_T")
_left_to_parent: list[object] = []


class SchemaConnection:
    """The one connection to a schema, which all simulated processes of a test share, and the test itself.

    It is made when it is needed, and made again if it was lost, or belongs to the parent of a forked process.

    Args:
        url: The database.
        schema: The schema, which is made with its first connection if it is not there.
    """

    def __init__(self, url: str, schema: str) -> None:
        self.url, self.schema = url, schema
        self._address = Address(url, schema)
        self._connection: psycopg.Connection[tuple[Any, ...]] | None = None
        self._pid = os.getpid()

    @property
    def location(self) -> str:
        """Where it leads, without any secret."""
        return str(self._address)

    @property
    def is_open(self) -> bool:
        """Whether there is a connection that nothing is known to be wrong with."""
        return self._connection is not None and not self._connection.closed and self._pid == os.getpid()

    def get(self) -> psycopg.Connection[tuple[Any, ...]]:
        """Return the connection.

        Raises:
            StorageError: None can be made.
        """
        if self._connection is None or not self.is_open:
            if self._pid != os.getpid():
                _left_to_parent.append(self._connection)
                self._pid = os.getpid()
            self._connection = self._connect()
        return self._connection

    def _connect(self) -> psycopg.Connection[tuple[Any, ...]]:
        try:
            connection: psycopg.Connection[tuple[Any, ...]] = psycopg.Connection.connect(
                self._address.conninfo, autocommit=True, context=ADAPTERS
            )
        except psycopg.Error as error:
            failure = storage_error(error, self.location, connecting=True)
        else:
            connection.execute(
                f"SET search_path = {self._address.schema}; SET synchronous_commit = off;"
                " SET client_min_messages = warning",
                prepare=False,
            )
            return connection
        raise failure  # without its cause, which keeps what libpq was given, the password too

    def make_tables(self) -> None:
        """Make the tables, if they are not there, with the order of executions that SQLite keeps as ``rowid``."""
        at_once(migrate(self.as_asynchronous(), self._address))
        self.get().execute(
            f"ALTER TABLE {self._address.schema}.executions"
            " ADD COLUMN IF NOT EXISTS rowid bigint GENERATED ALWAYS AS IDENTITY"
        )

    def as_asynchronous(self) -> Connection:
        """Return what looks like a connection of asyncio's and never waits in it."""
        return cast("Connection", _Asynchronous(self.get()))  # the store uses nothing that it lacks

    def execute(self, sql: str, parameters: Sequence[object] = (), /) -> Rows:
        """Run a statement as on a connection of `sqlite3`: ``?`` for parameters, moments as text."""
        cursor = psycopg.Cursor(self.get())
        teach(cursor.adapters)
        values = {f"p{number}": value for number, value in enumerate(parameters, 1)}
        cursor.execute(in_psycopg(sql).encode(), values)
        if cursor.description is None:
            return Rows()
        return returned(sql, [column.name for column in cursor.description], cursor.fetchall())

    def close(self) -> None:
        """End the connection; it is made again if it is needed."""
        if self._connection is not None and self._pid == os.getpid():
            self._connection.close()


class _Cursor:
    """A cursor whose rows are there already."""

    def __init__(self, cursor: psycopg.Cursor[tuple[Any, ...]]) -> None:
        self._cursor = cursor

    @property
    def description(self) -> list[psycopg.Column] | None:
        """The columns of the rows; ``None`` if there are none, as after a statement that returns nothing."""
        return self._cursor.description

    async def fetchone(self) -> tuple[Any, ...] | None:
        return self._cursor.fetchone()

    async def fetchall(self) -> list[tuple[Any, ...]]:
        return self._cursor.fetchall()


class _Asynchronous:
    """As much of `psycopg.AsyncConnection` as the store uses."""

    def __init__(self, connection: psycopg.Connection[tuple[Any, ...]]) -> None:
        self._connection = connection

    async def execute(self, sql: bytes | str, values: Mapping[str, object] | Sequence[object] | None = None) -> _Cursor:
        return _Cursor(self._connection.execute(sql.encode() if isinstance(sql, str) else sql, values))

    @contextlib.asynccontextmanager
    async def pipeline(self) -> AsyncIterator[None]:
        yield

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        with self._connection.transaction():
            yield


class BlockingPostgresStore(PostgresStore):
    """The store of one simulated process, which ends without the connection that it shares.

    Args:
        connection: To a schema that has its tables.
    """

    def __init__(self, connection: SchemaConnection) -> None:
        super().__init__(connection.url, schema=connection.schema)
        self._shared = connection

    def for_reading(self) -> PostgresStore:
        """Return another store of this schema."""
        return BlockingPostgresStore(self._shared)

    async def together(self, work: Callable[[Connection], Awaitable[_T]]) -> _T:
        """Do something on the connection, as `PostgresDatabase.together`."""
        where = self.location()
        while True:
            if self._closed:
                raise StorageError(f"{where}: the store is closed; make a new engine", where, "closed")
            was_used = self._shared.is_open
            try:
                return await work(self._shared.as_asynchronous())
            except psycopg.errors.UniqueViolation:
                raise
            except psycopg.Error as error:
                failure = storage_error(error, where)
                if failure.reason in {"unavailable", "read_only"}:
                    self._shared.close()
                    if was_used:
                        continue
                raise failure from error
