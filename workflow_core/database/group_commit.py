"""Group commit: durable points of several tasks that fall into one turn of the event loop share one transaction.

What waits for a commit is kept in memory, and nothing of it is written before its transaction begins. So no
transaction is ever open while other code runs: nobody can read what is not committed, no lock is held by a loop that
stands still, and a thread or a forked child finds the connection between two transactions.

The technique is old, see D. J. DeWitt et al., "Implementation Techniques for Main Memory Database Systems" (SIGMOD
1984), and P. Helland et al., "Group Commit Timers and High Volume Transaction Systems" (HPTS 1987). There a timer ends
the wait; here it is the end of the event loop's turn.
"""

from __future__ import annotations

import asyncio
import sqlite3
import weakref
from typing import TYPE_CHECKING, Any, Final, Protocol

from workflow_core.database.cancellation import deliver_later
from workflow_core.database.diagnosis import storage_error
from workflow_core.errors import StorageError

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

__all__ = ["Change", "GroupCommit", "Groupable", "Work"]

_MOST_MEMBERS: Final = 500
"""A group that is so large is committed before its turn is over: a loop should not stand still for longer."""

_LONELY_TURNS: Final = 8
"""After so many groups of one member in a row nobody waits any more. The first of many that come then is committed by
itself, so it should not happen as soon as one of them is out of step."""

_OF_THE_TRANSACTION: Final = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_INTERRUPT,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_NOTADB,
    }
)
"""Primary result codes after which SQLite may have ended the transaction, and should be told to, see
https://www.sqlite.org/lang_transaction.html, "Response To Errors Within A Transaction"."""


class Groupable(Protocol):
    """What a group commit needs of a database."""

    lock: threading.RLock

    @property
    def connection(self) -> sqlite3.Connection:
        """The open connection."""

    def location(self, workflow_name: str | None = None) -> str:
        """Tell where the data lies."""

    def roll_back(self) -> None:
        """End a transaction that failed."""

    def undone(self) -> None:
        """Forget what was remembered of writes that were taken back."""

    def committed(self, points: int) -> None:
        """Note that so many durable points were committed."""


class _Member:
    """One durable point that waits for its commit."""

    __slots__ = ("error", "result", "settled")

    settled: asyncio.Future[None]

    def __init__(self) -> None:
        self.result: Any = None
        self.error: BaseException | None = None


class Change(_Member):
    """A durable point that changes one row by one statement, which those of other executions have in common with it.

    Args:
        statement: Changes one row, or none.
        values: Its values.
        lost: Makes the error of a statement that has changed nothing.
    """

    __slots__ = ("lost", "statement", "values")

    def __init__(self, statement: str, values: tuple[object, ...], lost: Callable[[], Exception]) -> None:
        super().__init__()
        self.statement = statement
        self.values = values
        self.lost = lost


class Work(_Member):
    """A durable point of which only its own function knows what it writes.

    Args:
        write: Writes on the connection it is given, and returns the durable point's result. After a failed commit it
            may be called again.
        is_single: It runs one statement that writes, and raises an error only if that has changed nothing.
    """

    __slots__ = ("is_single", "write")

    def __init__(self, write: Callable[[sqlite3.Connection], Any], *, is_single: bool) -> None:
        super().__init__()
        self.write = write
        self.is_single = is_single


class _Group:
    """The durable points that one event loop's turn brought together."""

    __slots__ = ("is_over", "is_written", "loop", "members")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.members: list[Change | Work] = []
        self.is_written = False
        self.is_over = False


class GroupCommit:
    """Decides which durable points wait for one another, and commits them.

    One task alone is never kept waiting: its durable points are committed where they are made. When a second task makes
    one in the same turn, they begin to wait for the end of the turn, until some groups in a row had one member.

    Args:
        database: What is written.
        is_on: Whether commits are worth sharing.

    Attributes:
        is_grouping: Whether durable points wait for one another at the moment.
    """

    def __init__(self, database: Groupable, *, is_on: bool) -> None:
        self._database = database
        self.is_on = is_on
        self._group: _Group | None = None
        self.is_grouping = False
        self._last_writer: Callable[[], asyncio.Task[Any] | None] = _nobody
        self._last_loop: asyncio.AbstractEventLoop | None = None
        self._had_writer = False
        self._lonely = 0

    def forked(self) -> None:
        """Begin again in a child process: what waits in its parent is the parent's."""
        self._group, self.is_grouping, self._last_writer, self._had_writer = None, False, _nobody, False

    def is_alone(self) -> bool:
        """Tell whether a durable point of this task is to be committed at once."""
        if not self.is_on:
            return True
        if self.is_grouping:
            return False
        last = self._last_writer()
        if last is not None and asyncio.current_task(self._last_loop) is last:  # cheaper than to ask for the loop
            return True
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # a coroutine that is closed after its loop has ended
            return True
        task = asyncio.current_task(loop)
        if task is None:
            return True
        self._last_writer, self._last_loop = weakref.ref(task), loop
        if self._had_writer:
            self.is_grouping, self._lonely = True, 0
            return False
        self._had_writer = True
        loop.call_soon(self._turn_is_over)
        return True

    def _turn_is_over(self) -> None:
        self._had_writer = False

    async def commit(self, member: Change | Work) -> Any:  # noqa: ANN401 - whatever the durable point results in
        """Let a durable point be committed at the end of this turn, and wait for that.

        A task that is cancelled meanwhile has its commit all the same, at once, and meets the cancellation where it
        waits next: the engine must know what is in the database.

        Args:
            member: The durable point.

        Returns:
            Its result.

        Raises:
            StorageError: The transaction failed, and nothing of the group is kept.
        """
        loop = asyncio.get_running_loop()
        member.settled = loop.create_future()
        with self._database.lock:
            group = self._group
            if group is not None and group.loop is not loop:
                self._commit(group)
                group = None
            if group is None:
                group = _Group(loop)
                loop.call_soon(self._end_turn, group)
                self._group = group
            group.members.append(member)
            if len(group.members) >= _MOST_MEMBERS:
                self._commit(group)
        try:
            await member.settled
        except asyncio.CancelledError as cancellation:
            self._commit_now(group)
            deliver_later(cancellation)
        if member.error is not None:
            raise member.error
        return member.result

    def commit_waiting(self) -> None:
        """Commit what waits before anything else is written; called by whoever holds the lock."""
        if self._group is not None:
            self._commit(self._group)

    def _commit_now(self, group: _Group) -> None:
        with self._database.lock:
            self._commit(group)

    def _end_turn(self, group: _Group) -> None:
        try:
            self._commit_now(group)
            self._lonely = self._lonely + 1 if len(group.members) == 1 else 0
            if self._lonely >= _LONELY_TURNS and self._group is None:
                self.is_grouping = self._had_writer = False
            for member in group.members:
                if not member.settled.done():
                    member.settled.set_result(None)
        except BaseException:  # an interrupt: if the loop runs again, the rest is done
            group.loop.call_soon(self._end_turn, group)
            raise

    def _commit(self, group: _Group) -> None:
        """Write and commit a group, unless that was done; each member gets its result, or its error."""
        if group.is_over:
            return
        if self._group is group:
            self._group = None
        database, members = self._database, group.members
        connection = None
        try:
            try:
                connection = database.connection
                self._write_all(connection, group)
            except sqlite3.Error as failure:
                group.is_written = False
                database.roll_back()
                for member in members:
                    member.error = storage_error(failure, database.location())
                    member.error.__cause__ = failure
            except StorageError as failure:
                for member in members:
                    member.error = type(failure)(str(failure), failure.location, failure.reason)
            group.is_over = True
        except BaseException:  # an interrupt, which is raised after the call that was under way when it came
            if group.is_written and connection is not None and not connection.in_transaction:
                group.is_over = True  # that call was the commit
            else:  # nothing is kept, so it can be done again
                group.is_written = False
                database.roll_back()
                self._group, self.is_grouping = group, True
            raise
        if group.is_written:
            database.committed(len(members))

    def _write_all(self, connection: sqlite3.Connection, group: _Group) -> None:
        members = group.members
        connection.execute("BEGIN IMMEDIATE")
        if not _written_together(connection, members):
            connection.execute("ROLLBACK")
            self._database.undone()
            connection.execute("BEGIN IMMEDIATE")
            for member in members:
                self._write(connection, member)
        group.is_written = True
        connection.execute("COMMIT")

    def _write(self, connection: sqlite3.Connection, member: Change | Work) -> None:
        """Write one member; if it fails by itself, the others are as if it had not been there."""
        member.error = None
        is_single = isinstance(member, Change) or member.is_single
        if not is_single:
            connection.execute("SAVEPOINT member")
        try:
            if isinstance(member, Work):
                member.result = member.write(connection)
            elif connection.execute(member.statement, member.values).rowcount != 1:
                member.error = member.lost()
        except Exception as error:
            if not connection.in_transaction or _ends_the_transaction(error):
                raise
            if not is_single:
                connection.execute("ROLLBACK TO member")
                self._database.undone()
            member.error = error
            if isinstance(error, sqlite3.Error):
                member.error = storage_error(error, self._database.location())
                member.error.__cause__ = error
        if not is_single:
            connection.execute("RELEASE member")


def _written_together(connection: sqlite3.Connection, members: list[Change | Work]) -> bool:
    """Write all members, on the assumption that none fails by itself; tell whether that has come true.

    In which order they are written does not matter, as none has waited for another. So each statement runs for all its
    changes at once, and no member has a savepoint, for which SQLite would copy each page that is changed after it.
    """
    alike: dict[str, list[tuple[object, ...]]] = {}
    try:
        for member in members:
            member.error = None
            if isinstance(member, Change):
                alike.setdefault(member.statement, []).append(member.values)
            else:
                member.result = member.write(connection)
        return all(connection.executemany(each, values).rowcount == len(values) for each, values in alike.items())
    except Exception as error:
        if not connection.in_transaction or _ends_the_transaction(error):
            raise
        return False


def _nobody() -> None:
    return None


def _ends_the_transaction(error: BaseException) -> bool:
    code: int = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK)  # errors that Python's module makes have none
    return isinstance(error, sqlite3.Error) and code & 0xFF in _OF_THE_TRANSACTION
