"""Executions in short, for lists and overviews: what is known of each without reading its input, output or steps."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, get_args

from pydantic import Field

from workflow_core.clock import as_utc
from workflow_core.errors import ValidationError
from workflow_core.models import ExecutionStatus, Model

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from workflow_core.database.store import Store

__all__ = [
    "EXECUTION_STATUSES",
    "ExecutionSummary",
    "Listing",
    "Position",
    "WorkflowStats",
    "cursor",
    "listed",
    "position",
    "statuses",
]

EXECUTION_STATUSES: tuple[ExecutionStatus, ...] = get_args(ExecutionStatus)
"""Every status that an execution can have."""

_PORTION = 1_000
"""How many executions are looked at together."""

Position = tuple[datetime, str]
"""A place in a list: when an execution started, and its id."""


class ExecutionSummary(Model):
    """One execution in short; datetimes are aware and in UTC.

    Attributes:
        error: Type and message of what ended it, or of the panic that it waits to be restarted after.
        queue: The queue whose workers run it; ``None`` if it was not handed to workers.
    """

    execution_id: str
    workflow_name: str
    status: ExecutionStatus
    started_at: datetime
    completed_at: datetime | None = None
    restart_attempt: int = 1
    error: str | None = None
    queue: str | None = None

    @property
    def position(self) -> Position:
        """The place of this execution in a list."""
        return self.started_at, self.execution_id

    @property
    def cursor(self) -> str:
        """The same as text that can be given as ``before``."""
        return cursor(self.position)


class WorkflowStats(Model):
    """How many executions a workflow has, by status.

    Attributes:
        counts: By status; a status that no execution has is missing.
    """

    workflow_name: str
    counts: dict[ExecutionStatus, int] = Field(default_factory=dict)

    @property
    def total(self) -> int:
        """The number of all executions."""
        return sum(self.counts.values())


@dataclass(frozen=True, slots=True)
class Listing:
    """Which executions a list holds.

    Attributes:
        workflow_name: Those of this workflow; ``None`` for all.
        status: Those in one of these statuses; ``None`` for all.
        started_after: Those that started then or later.
        started_before: Those that started earlier than that.
        search: Those with this text in the id or in the error message.
        queue: Those that were handed to the workers of this queue.
    """

    workflow_name: str | None = None
    status: Sequence[ExecutionStatus] | None = None
    started_after: datetime | None = None
    started_before: datetime | None = None
    search: str | None = None
    queue: str | None = None


async def listed(
    store: Store,
    listing: Listing,
    before: Position | None,
    limit: int,
    enough: Callable[[], bool] = lambda: False,
) -> tuple[list[ExecutionSummary], Position | None]:
    """Read a part of a list of executions, the latest started first.

    Args:
        store: Where they are.
        listing: Which list.
        before: The place that the part begins behind; ``None`` for the beginning.
        limit: How many executions at most.
        enough: Asked between the portions of a search, or of what is looked through for a queue, which says with
            ``True`` that the rest is for the next part.

    Returns:
        The executions, and the place that the next part begins behind; ``None`` at the end of the list.
    """
    if listing.queue is not None:
        return await _of_queue(store, listing, before, limit, enough)
    started_after, started_before = listing.started_after, listing.started_before
    if listing.search is None:
        found = await store.list_executions(
            listing.workflow_name,
            listing.status,
            limit + 1,
            started_after=started_after,
            started_before=started_before,
            before=before,
        )
        return found[:limit], found[limit - 1].position if len(found) > limit else None
    found = []
    while True:
        more, before = await store.search_executions(
            listing.search,
            listing.workflow_name,
            listing.status,
            limit - len(found),
            started_after=started_after,
            started_before=started_before,
            before=before,
        )
        found += more
        if before is None or len(found) == limit or enough():
            return found, before
        await asyncio.sleep(0)


async def _of_queue(
    store: Store, listing: Listing, before: Position | None, limit: int, enough: Callable[[], bool]
) -> tuple[list[ExecutionSummary], Position | None]:
    """Look the list through that the queue is left out of: no index leads to a queue, which few lists ask for."""
    found: list[ExecutionSummary] = []
    everything = replace(listing, queue=None)
    while True:
        portion, before = await listed(store, everything, before, _PORTION, enough)
        found += [each for each in portion if each.queue == listing.queue]
        if len(found) > limit or (len(found) == limit and before is not None):
            return found[:limit], found[limit - 1].position
        if before is None or enough():
            return found, before
        await asyncio.sleep(0)


def statuses(status: ExecutionStatus | Iterable[ExecutionStatus] | None) -> Sequence[ExecutionStatus] | None:
    """Return a filter by status as a sequence without repetitions; ``None`` for every status.

    Raises:
        ValidationError: It holds something that is not a status.
    """
    if status is None:
        return None
    named = tuple(status) if isinstance(status, Iterable) and not isinstance(status, str) else (status,)
    unknown = [name for name in named if name not in EXECUTION_STATUSES]
    if unknown:
        raise ValidationError(f"Not a status of an execution: {unknown[0]!r}; use {', '.join(EXECUTION_STATUSES)}")
    return tuple(dict.fromkeys(named))


def cursor(place: Position) -> str:
    """Return a place in a list as text."""
    return f"{place[0].isoformat(timespec='microseconds')}|{place[1]}"


def position(before: ExecutionSummary | str | None) -> Position | None:
    """Return where a page begins.

    Args:
        before: The last execution of the page before, or its `cursor`.

    Raises:
        ValidationError: The text is not a cursor.
    """
    if before is None:
        return None
    if isinstance(before, ExecutionSummary):
        return before.position
    moment, bar, execution_id = before.partition("|") if isinstance(before, str) else ("", "", "")
    try:
        if bar and execution_id:
            return as_utc(datetime.fromisoformat(moment)), execution_id
    except ValueError:
        pass
    raise ValidationError(f"Not a cursor: {before!r:.300}; give the cursor of the last execution of the page before")
