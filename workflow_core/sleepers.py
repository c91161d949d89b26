"""Sleeping executions that wait in the store until they are due: each is an id and a time, all are on one timer."""

from __future__ import annotations

import asyncio
import heapq
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from workflow_core.clock import from_epoch_ms, to_epoch_ms
from workflow_core.database.store import Lease

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from workflow_core.clock import Clock

__all__ = ["Sleeper", "Sleepers"]


@dataclass(frozen=True, slots=True)
class Sleeper:
    """One execution that this engine owns and has not read yet.

    Attributes:
        lease: The right to write it.
        due_at: When it goes on, in milliseconds since 1970.
        recovered_at: When this engine took it over.
    """

    lease: Lease
    due_at: int
    recovered_at: datetime


class Sleepers:
    """Sleepers by execution id, and in the order in which they are due.

    Args:
        clock: Where the time comes from.

    Attributes:
        workflow_names: The workflows that have, or had, sleepers.
    """

    def __init__(self, clock: Clock) -> None:
        self.workflow_names: set[str] = set()
        self._clock = clock
        self._by_id: dict[str, Sleeper] = {}
        self._queue: list[tuple[int, str]] = []
        self._waiting: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None

    def __len__(self) -> int:
        return len(self._by_id)

    def __contains__(self, execution_id: object) -> bool:
        return execution_id in self._by_id

    def __iter__(self) -> Iterator[Sleeper]:
        return iter(list(self._by_id.values()))

    def add(self, lease: Lease, due_at: int, recovered_at: datetime) -> None:
        """Let an execution wait."""
        lease = Lease(sys.intern(lease.workflow_name), lease.execution_id, lease.fencing_token)
        self.workflow_names.add(lease.workflow_name)
        self._by_id[lease.execution_id] = Sleeper(lease, due_at, recovered_at)
        heapq.heappush(self._queue, (due_at, lease.execution_id))
        if self._waiting is not None and self._queue[0][1] == lease.execution_id:
            loop, earlier = self._waiting
            if not loop.is_closed():  # one that was closed in the middle has left its waiting behind
                loop.call_soon_threadsafe(earlier.set)

    def take(self, execution_id: str) -> Sleeper | None:
        """Take an execution out, due or not; ``None`` if it does not wait here."""
        return self._by_id.pop(execution_id, None)

    def first_due(self) -> Sleeper | None:
        """Return the execution that is due longest; ``None`` if none is due."""
        due_at = self._next_due()
        if due_at is None or due_at > to_epoch_ms(self._clock.now()):
            return None
        return self._by_id[self._queue[0][1]]

    def clear(self) -> list[Sleeper]:
        """Take all out."""
        sleepers = list(self._by_id.values())
        self._by_id.clear()
        self.workflow_names.clear()
        self._queue.clear()
        return sleepers

    async def until_due(self) -> None:
        """Wait until an execution is due, or none is left."""
        while (due_at := self._next_due()) is not None and due_at > to_epoch_ms(self._clock.now()):
            event = asyncio.Event()
            self._waiting = asyncio.get_running_loop(), event
            timer = self._clock.call_at(from_epoch_ms(due_at), event.set)
            try:
                await event.wait()
            finally:
                timer.cancel()
                self._waiting = None

    def _next_due(self) -> int | None:
        while self._queue:
            due_at, execution_id = self._queue[0]
            sleeper = self._by_id.get(execution_id)
            if sleeper is not None and sleeper.due_at == due_at:
                return due_at
            heapq.heappop(self._queue)  # it was taken out meanwhile
        return None
