"""Durable points of one kind that wait at the same time are written by one statement, and share its round trip.

While nothing is under way in an event loop, a durable point is sent at once, by itself. Those that come meanwhile wait
for the end of the loop's turn, and while `_MOST_UNDER_WAY` statements are under way, until one of these is done. So a
group is as large as there is need, and nobody waits for a timer; see M. Thompson, "Smart Batching" (2011).

A group is only a faster way. It locks the executions that it can lock at once (``SKIP LOCKED``), checks the fencing
token of each, and says which durable points it has written. Every other one, for whatever reason, goes by itself after
all: by a statement that waits for locks, recognises what was written already, and knows what to say. That holds too
when the answer of a group is lost, so what `workflow_core.database.postgres.points` promises is kept by that alone.

Durable points of one execution are committed in the order in which they were made, or at once: the next one waits for
those under way, unless it can join them in a group. So a process that dies leaves no gap in a history.
"""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

import psycopg

from workflow_core import outside
from workflow_core.database.cancellation import deliver_later
from workflow_core.database.postgres.database import to_its_end
from workflow_core.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence

__all__ = ["Groups", "Kind", "Row"]

_MOST_UNDER_WAY: Final = 2
"""So many statements of one event loop are under way before others wait; more would make the groups smaller."""

_MOST_MEMBERS: Final = 200

Row: TypeAlias = tuple[Any, ...]

T = TypeVar("T")

logger = logging.getLogger("workflow_core")


class Kind:
    """Durable points that one statement can write together.

    Args:
        columns: The names of what is given for each, and their types in SQL; the first ones are its key, and begin
            with the id of its execution.
        key: How many columns are the key, by which the statement names what it has written.
        lock: How an execution is locked; ``None`` if there is none before.
        written: The common table expression of that name. It reads ``fence``, which has the columns of the durable
            points that may be written, and returns their keys, and behind them what is told of each.
        before: Further ones that it reads.

    Attributes:
        sql: The statement.
    """

    __slots__ = ("columns", "key", "sql")

    def __init__(self, columns: dict[str, str], key: int, lock: str | None, written: str, before: str = "") -> None:
        self.columns = tuple(columns)
        self.key = key
        arrays = ", ".join(f"%({name})s::{kind}[]" for name, kind in columns.items())
        given = f"unnest({arrays}) AS given ({', '.join(columns)})"
        is_good = " AND e.fencing_token = given.token" if "token" in columns else ""
        fence = (
            f"SELECT * FROM {given}"
            if lock is None
            else f"SELECT given.* FROM {given} CROSS JOIN LATERAL (SELECT FROM {{s}}.executions e WHERE e.id = given.id"
            f"{is_good} FOR {lock} OF e SKIP LOCKED) AS held"
        )
        self.sql = f"WITH fence AS ({fence}), {before}written AS ({written}) SELECT * FROM written"


class _OfLoop:
    """What waits, and how much is under way, in one event loop."""

    __slots__ = ("is_called", "lines", "tasks", "under_way", "waiting")

    def __init__(self) -> None:
        self.under_way = 0
        self.is_called = False
        self.waiting: dict[Kind, dict[Hashable, _Member]] = {}
        self.tasks: set[asyncio.Task[None]] = set()
        self.lines: dict[str, _Line] = {}

    async def enter(self, execution_id: str, kind: Kind | None) -> _Line:
        """Wait until no earlier durable point of an execution is under way, or until this one can go with those."""
        line = self.lines.get(execution_id)
        if line is None:
            line = self.lines[execution_id] = _Line()
        elif kind is not None and line.joining is kind and not line.waiting:
            line.holders += 1
        else:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            line.waiting.append((kind, turn))
            with outside.going_on():
                await to_its_end(turn)
        return line

    def leave(self, execution_id: str, line: _Line) -> None:
        """Let the next durable point of an execution go on, and those behind it that can go with it."""
        line.holders -= 1
        if line.holders:
            return
        kind: Kind | None = None
        turns: list[asyncio.Future[None]] = []
        while line.waiting and (not turns or (kind is not None and line.waiting[0][0] is kind)):
            kind, turn = line.waiting.popleft()
            if not turn.cancelled():  # it was cut off after it had waited for too long
                turns.append(turn)
        if not turns:
            del self.lines[execution_id]
            return
        line.holders, line.joining = len(turns), None
        for turn in turns:
            turn.set_result(None)


class _Line:
    """The durable points of one execution that are under way, and those that wait for them.

    Attributes:
        holders: How many are under way.
        joining: Their kind, if they are in a group that has not been sent.
        waiting: The others, by their kind, and what is set when their turn comes.
    """

    __slots__ = ("holders", "joining", "waiting")

    def __init__(self) -> None:
        self.holders = 1
        self.joining: Kind | None = None
        self.waiting: deque[tuple[Kind | None, asyncio.Future[None]]] = deque()


class _Member:
    """A durable point that waits; its future is what its group tells of it, ``None`` if it was not written."""

    __slots__ = ("line", "row", "settled")

    def __init__(self, row: Row, line: _Line, settled: asyncio.Future[Row | None]) -> None:
        self.row = row
        self.line = line
        self.settled = settled


class Groups:
    """Lets durable points go together.

    Args:
        fetch: Runs a statement in a transaction of its own and returns its rows, as `PostgresDatabase.fetch`.
    """

    def __init__(self, fetch: Callable[[str, Mapping[str, object]], Awaitable[list[Row]]]) -> None:
        self._fetch = fetch
        self._loops: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _OfLoop] = weakref.WeakKeyDictionary()

    async def write(self, kind: Kind, row: Row, by_itself: Callable[[], Awaitable[None]]) -> Row | None:
        """Write a durable point, with others if there are others.

        Args:
            kind: Its kind.
            row: What the columns of the kind are for it.
            by_itself: Writes it with a statement of its own.

        Returns:
            What the statement of a group told of it; ``None`` if it was written by itself.

        Raises:
            Exception: What ``by_itself`` raises.
        """
        here = self._here()
        line = await here.enter(row[0], kind)
        try:
            if not here.under_way and not here.waiting and line.holders == 1:
                here.under_way += 1
                try:
                    await by_itself()
                finally:
                    here.under_way -= 1
                    self._send(here)
                return None
            told = await self._with_others(here, line, kind, row)
            if told is None:
                await by_itself()
            return told
        finally:
            here.leave(row[0], line)

    async def in_order(self, execution_id: str, by_itself: Callable[[], Awaitable[T]]) -> T:
        """Write a durable point that never goes with others, after the earlier ones of its execution.

        Args:
            execution_id: The id of the execution.
            by_itself: Writes it.
        """
        here = self._here()
        line = await here.enter(execution_id, None)
        try:
            return await by_itself()
        finally:
            here.leave(execution_id, line)

    def _here(self) -> _OfLoop:
        loop = asyncio.get_running_loop()
        here = self._loops.get(loop)
        if here is None:
            here = self._loops[loop] = _OfLoop()
        return here

    async def _with_others(self, here: _OfLoop, line: _Line, kind: Kind, row: Row) -> Row | None:
        """Wait until a group has been sent and answered; return what it tells of this durable point."""
        loop = asyncio.get_running_loop()
        members, key = here.waiting.setdefault(kind, {}), row[: kind.key]
        if key in members:
            return None  # one statement cannot tell two of them apart
        member = members[key] = _Member(row, line, loop.create_future())
        line.joining = kind
        if not here.is_called:
            here.is_called = True
            loop.call_soon(self._end_turn, here)
        with outside.going_on():
            try:
                return await member.settled
            except asyncio.CancelledError as cancellation:
                if member.settled.done() and not member.settled.cancelled():  # its answer came in this very turn
                    deliver_later(cancellation)
                    return member.settled.result()
                member.settled = loop.create_future()
                return await to_its_end(member.settled, cancellation)

    def _end_turn(self, here: _OfLoop) -> None:
        here.is_called = False
        self._send(here)

    def _send(self, here: _OfLoop) -> None:
        """Send what waits, one group for each kind, as long as there are not too many under way."""
        while here.waiting and here.under_way < _MOST_UNDER_WAY:
            kind = next(iter(here.waiting))
            members = list(here.waiting.pop(kind).values())
            if len(members) > _MOST_MEMBERS:
                here.waiting[kind] = {member.row[: kind.key]: member for member in members[_MOST_MEMBERS:]}
                del members[_MOST_MEMBERS:]
            for member in members:
                member.line.joining = None
            here.under_way += 1
            task = asyncio.ensure_future(self._write(here, kind, members))
            here.tasks.add(task)
            task.add_done_callback(here.tasks.discard)

    async def _write(self, here: _OfLoop, kind: Kind, members: Sequence[_Member]) -> None:
        written: dict[Row, Row] = {}
        try:
            columns = zip(*(member.row for member in members), strict=True)
            values = {name: list(column) for name, column in zip(kind.columns, columns, strict=True)}
            for row in await self._fetch(kind.sql, values):
                written[row[: kind.key]] = row[kind.key :]
        except (StorageError, psycopg.Error) as error:
            logger.debug("%d durable points are written one by one: %s", len(members), error)
        finally:
            here.under_way -= 1
            for member in members:
                if not member.settled.done():
                    member.settled.set_result(written.get(member.row[: kind.key]))
            self._send(here)
