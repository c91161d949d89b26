"""The connections of a store: a few for each event loop, made when they are needed and used again.

`psycopg_pool` is not used, because an engine asks for what that does not do: it is used from several event loops, it is
closed at once from outside of them, it is forked, and it is told at once why a server cannot be reached, since
`workflow_core.patience` waits for that and not the pool. A pool here has no task and no timer.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
import weakref
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import psycopg
from psycopg.adapt import AdaptersMap
from psycopg.types.numeric import Int8, Int8Dumper
from psycopg.types.string import StrDumper

from workflow_core.database.diagnosis import closed_error
from workflow_core.database.postgres.diagnosis import storage_error
from workflow_core.errors import StorageError

if TYPE_CHECKING:
    from workflow_core.database.postgres.address import Address

__all__ = ["ADAPTERS", "Connection", "Connections"]

Connection: TypeAlias = psycopg.AsyncConnection[tuple[Any, ...]]


class _Integer(Int8Dumper):
    """Sends every integer as a ``bigint``, so that a statement is prepared once and not for each size of number."""

    def dump(self, obj: int) -> bytes:
        return str(int(obj)).encode()


ADAPTERS: Final = AdaptersMap(psycopg.adapters)
ADAPTERS.register_dumper(int, _Integer)
ADAPTERS.register_dumper(Int8, _Integer)
ADAPTERS.register_dumper(str, StrDumper)

_PREPARE_THRESHOLD: Final = 5
"""After how many uses on a connection a statement is prepared there."""

_NEEDED: Final = {"default_transaction_isolation": "read committed", "datestyle": "ISO"}
"""How a session must be: who waits for a lock sees what its last holder wrote, and moments are read as they are."""

_left_to_parent: list[object] = []


class _OfLoop:
    """The connections of one event loop."""

    __slots__ = ("busy", "idle", "slots")

    def __init__(self, limit: int) -> None:
        self.slots = asyncio.Semaphore(limit)
        self.idle: list[Connection] = []
        self.busy: set[Connection] = set()


class Connections:
    """The connections of one store.

    Args:
        address: Where to.
        limit: How many at most in each event loop.
        prepares: Whether statements are prepared that are used often.
    """

    def __init__(self, address: Address, limit: int, *, prepares: bool) -> None:
        self._address = address
        self._limit = limit
        self._prepare_threshold = _PREPARE_THRESHOLD if prepares else None
        self._lock = threading.Lock()
        self._loops: dict[asyncio.AbstractEventLoop, _OfLoop] = {}
        self._closed = False
        weakref.finalize(self, _end_all, self._loops, os.getpid())

    def forked(self) -> None:
        """Begin again in a child process, which may not use, nor end, a connection of its parent's."""
        _left_to_parent.append(self._loops)
        self._lock = threading.Lock()
        self._loops = {}
        weakref.finalize(self, _end_all, self._loops, os.getpid())

    def _here(self) -> _OfLoop:
        loop = asyncio.get_running_loop()
        found = self._loops.get(loop)
        if found is None:
            with self._lock:
                for other in [other for other in self._loops if other.is_closed()]:
                    _end(self._loops.pop(other), at_once=True)
                found = self._loops[loop] = _OfLoop(self._limit)
        return found

    async def take(self) -> tuple[Connection, bool]:
        """Return a connection, and whether it was used before; wait for one if all are in use.

        Raises:
            StorageError: No connection can be made, or the store was closed.
        """
        here = self._here()
        await here.slots.acquire()
        try:
            self._check_open()
            if here.idle:
                connection, was_used = here.idle.pop(), True
            else:
                connection, was_used = await self._connect(), False
                if self._closed:
                    connection.pgconn.finish()
                    self._check_open()
            here.busy.add(connection)
        except BaseException:
            here.slots.release()
            raise
        return connection, was_used

    def give_back(self, connection: Connection) -> None:
        """Let a connection be used again, unless it is broken, or in the middle of something."""
        here = self._here()
        here.busy.discard(connection)
        here.slots.release()
        if self._closed or connection.info.transaction_status is not psycopg.pq.TransactionStatus.IDLE:
            connection.pgconn.finish()
        else:
            here.idle.append(connection)

    def drop_idle(self) -> None:
        """End the connections that nobody uses in this event loop: their server is gone, or another one."""
        here = self._here()
        for connection in here.idle:
            connection.pgconn.finish()
        here.idle.clear()

    def leave(self) -> None:
        """End the connections of this event loop, which nobody uses and which will not be used again."""
        self.drop_idle()
        with self._lock:
            self._loops.pop(asyncio.get_running_loop(), None)

    def close(self) -> None:
        """End all connections at once; what is under way on them fails where it waits, as when the process dies."""
        self._closed = True
        with self._lock:
            for loop, here in self._loops.items():
                _end(here, at_once=loop.is_closed())

    def _check_open(self) -> None:
        if self._closed:
            raise closed_error(str(self._address))

    async def _connect(self) -> Connection:
        where = str(self._address)
        connection: Connection | None = None
        try:
            connection = await psycopg.AsyncConnection.connect(
                self._address.conninfo,
                autocommit=True,
                prepare_threshold=self._prepare_threshold,
                context=ADAPTERS,
            )
            rows = await (await connection.execute("SELECT current_setting('transaction_isolation')")).fetchall()
        except psycopg.Error as error:
            if connection is not None:
                connection.pgconn.finish()
            failure = storage_error(error, where, connecting=True)
        except BaseException:
            if connection is not None:
                connection.pgconn.finish()
            raise
        else:
            why_not = self._unsuitable(connection, rows[0][0])
            if why_not is None:
                return connection
            connection.pgconn.finish()
            failure = StorageError(f"{where}: {why_not}", where)
        raise failure  # without its cause, which keeps what libpq was given, the password too

    def _unsuitable(self, connection: Connection, isolation: str) -> str | None:
        """Return why a session cannot be used, and what to do about it; ``None`` if it can.

        What we ask for in ``options`` a pooler may not pass on. It is not set here: a pooler that lends a session for
        each transaction would lend it to others with our settings, and another one, without them, to us.
        """
        encoding = connection.info.parameter_status("server_encoding")
        if encoding != "UTF8":
            return (
                f"the database has the encoding {encoding}, which cannot hold every text; make one with "
                "CREATE DATABASE name ENCODING 'UTF8' TEMPLATE template0"
            )
        role = self._address.role.replace('"', '""')
        found = {"default_transaction_isolation": isolation, "datestyle": connection.info.parameter_status("DateStyle")}
        for name, needed in _NEEDED.items():
            if not (found[name] or "").startswith(needed):
                return (
                    f"sessions have {name} = '{found[name]}' there and need '{needed}', which a pooler has not passed "
                    f"on, or the URL changes: ALTER ROLE \"{role}\" SET {name} = '{needed}'"
                )
        return None


def _end_all(loops: dict[asyncio.AbstractEventLoop, _OfLoop], pid: int) -> None:
    """Say goodbye to the server when a store is forgotten, or its process ends, without having been closed."""
    if os.getpid() == pid:
        for here in loops.values():
            _end(here, at_once=True)


def _end(here: _OfLoop, *, at_once: bool) -> None:
    """End the connections of an event loop.

    Args:
        here: The connections.
        at_once: Whether nobody waits for those in use any more. Else they are cut off, and whoever waits ends them.
    """
    for connection in here.idle:
        connection.pgconn.finish()
    here.idle.clear()
    for connection in list(here.busy):  # its event loop may run in another thread, and give some back meanwhile
        if at_once:
            connection.pgconn.finish()
        else:
            with contextlib.suppress(OSError, psycopg.Error):
                _cut(connection.pgconn.socket)


def _cut(descriptor: int) -> None:
    """Shut a socket down without closing its descriptor, which an event loop looks at."""
    with socket.socket(fileno=os.dup(descriptor)) as copy:
        copy.shutdown(socket.SHUT_RDWR)
