"""One PostgreSQL database: statements are run on its connections, and their errors say what they mean.

What is sent is awaited to its end, whatever becomes of the task that asked for it: a durable point has happened or has
not, and its caller knows which, as with a database that is called directly. A cancellation that comes meanwhile is
delivered after it.
"""

from __future__ import annotations

import asyncio
import functools
import threading
from typing import TYPE_CHECKING, Any, Final, TypeVar

import psycopg

from workflow_core import outside
from workflow_core.database.cancellation import deliver_later
from workflow_core.database.diagnosis import closed_error
from workflow_core.database.postgres.address import Address
from workflow_core.database.postgres.connections import Connections
from workflow_core.database.postgres.diagnosis import Session, storage_error
from workflow_core.database.postgres.migrations import migrate
from workflow_core.forking import after_fork

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Mapping

    from workflow_core.database.postgres.connections import Connection
    from workflow_core.errors import StorageError

__all__ = ["PostgresDatabase", "to_its_end"]

ResultT = TypeVar("ResultT")

_GRACE_SECONDS: Final = 10.0
"""How long a task that is cancelled waits for a statement under way."""


class PostgresDatabase:
    """The tables of a store, made or brought up to date at the first use.

    Args:
        url: A URL as libpq reads it, ``postgresql://user:password@host:port/database``.
        schema: The schema of the tables.
        max_connections: How many connections there are at most in each event loop.
        prepares: Whether statements are prepared that are used often.

    Attributes:
        concurrency: How many calls at the same time are faster than one after another.

    Raises:
        ValidationError: The URL or the schema's name is not acceptable.
    """

    def __init__(self, url: str, *, schema: str = "workflow", max_connections: int = 10, prepares: bool = True) -> None:
        self.concurrency = max_connections
        self._address = Address(url, schema)
        self._connections = Connections(self._address, max_connections, prepares=prepares)
        self._is_prepared = False
        self._closed = False
        self._lock = threading.Lock()
        self.sql = functools.cache(self._in_schema)
        after_fork(self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} in {self._address}>"

    def forked(self) -> None:
        """Begin again in a child process, which may not use a connection of its parent's."""
        self._connections.forked()

    def connection_string(self) -> tuple[str, str]:
        """Return what libpq is given, which may hold a password, and the name of the schema, quoted for SQL."""
        return self._address.conninfo, self._address.schema

    @property
    def schema(self) -> str:
        """The name of the schema, quoted for SQL."""
        return self._address.schema

    def location(self, workflow_name: str | None = None) -> str:
        """Tell where the data lies, without any secret."""
        del workflow_name
        return str(self._address)

    def failure(self, error: psycopg.Error, what: str = "") -> StorageError:
        """Return what an error of a connection means, and what to do about it.

        Args:
            error: The error.
            what: What cannot go on, if it is not the call that met it.
        """
        return storage_error(error, self.location(), session=Session(self._address.role, self.schema), what=what)

    def wait_for_locks(self, location: str, *, wait: bool) -> None:
        """Nothing to do: whoever waits for a lock in the server holds nobody up here."""

    def close(self) -> None:
        """Let go of the database."""
        self._closed = True
        self._connections.close()

    async def open(self) -> None:
        """Connect now, and make the tables if need be.

        Raises:
            SchemaVersionError: The tables are those of a newer version of this library, or of another program.
            StorageError: The database cannot be used.
        """
        await self.together(_nothing)

    async def fetch(self, sql: str, values: Mapping[str, object] | None = None) -> list[tuple[Any, ...]]:
        """Run one statement, which is a transaction of its own, and return its rows.

        Args:
            sql: The statement, with ``{s}`` for the schema.
            values: Its parameters, by name.

        Raises:
            StorageError: The database cannot be used.
            psycopg.errors.UniqueViolation: A row is there already; nothing was written.
        """

        async def rows(connection: Connection) -> list[tuple[Any, ...]]:
            return await (await connection.execute(self.sql(sql), values)).fetchall()

        return await self.together(rows)

    async def together(self, work: Callable[[Connection], Awaitable[ResultT]]) -> ResultT:
        """Do something on one connection.

        Args:
            work: What to do. It may be begun again from the start, if the connection turns out to be broken.

        Raises:
            StorageError: The database cannot be used.
        """
        with outside.going_on():
            return await to_its_end(self._on_connection(work))

    async def _on_connection(self, work: Callable[[Connection], Awaitable[ResultT]]) -> ResultT:
        while True:
            connection, was_used = await self._connections.take()
            try:
                if not self._is_prepared:
                    await migrate(connection, self._address)
                    self._is_prepared = True
                return await work(connection)
            except psycopg.errors.UniqueViolation:
                raise
            except psycopg.Error as error:
                failure = self.failure(error)
                if self._closed:
                    failure = closed_error(self.location())
                elif failure.reason in {"unavailable", "read_only"}:  # another server may be the one to write to now
                    connection.pgconn.finish()
                    self._connections.drop_idle()
                    if was_used:
                        continue
                raise failure from error
            finally:
                self._connections.give_back(connection)

    def _in_schema(self, sql: str) -> bytes:
        return sql.replace("{s}", self._address.schema).encode()


async def _nothing(connection: Connection) -> None:
    """Do nothing on a connection."""


async def to_its_end(
    work: Coroutine[Any, Any, ResultT] | asyncio.Future[ResultT], interruption: asyncio.CancelledError | None = None
) -> ResultT:
    """Await something to its end, and deliver a cancellation of this task that comes meanwhile at its next wait.

    What has not come to its end some seconds after the cancellation is cut off.

    Args:
        work: What is awaited.
        interruption: A cancellation that has come already.
    """
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    cut_off = None if interruption is None else loop.call_later(_GRACE_SECONDS, task.cancel)
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            interruption = error
            cut_off = cut_off or loop.call_later(_GRACE_SECONDS, task.cancel)
    if cut_off is not None:
        cut_off.cancel()
    if interruption is not None and not task.cancelled():
        deliver_later(interruption)
    return task.result()
