"""Pages of lists of executions, filtered and searched, as the API and the dashboard show them."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import TYPE_CHECKING

from workflow_core.arguments import listing, up_to_ten_thousand
from workflow_core.database.dispatch import dispatching
from workflow_core.errors import ValidationError
from workflow_core.summaries import cursor as cursor_of
from workflow_core.summaries import listed, position

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from workflow_core.engine import WorkflowEngine
    from workflow_core.models import ExecutionStatus
    from workflow_core.summaries import ExecutionSummary, Position

__all__ = ["ExecutionPage", "read_page"]


@dataclass(frozen=True)
class ExecutionPage:
    """A part of a list, the latest started first.

    Attributes:
        executions: They; a search that takes long may find fewer than were asked for, or none, and yet not be at its
            end.
        next: What the next page is asked for by; ``None`` at the end of the list.
    """

    executions: Sequence[ExecutionSummary]
    next: str | None


async def read_page(
    engine: WorkflowEngine,
    *,
    workflow: str | None = None,
    status: ExecutionStatus | Sequence[ExecutionStatus] | None = None,
    started_after: datetime | None = None,
    started_before: datetime | None = None,
    search: str | None = None,
    queue: str | None = None,
    cursor: str | None = None,
    limit: int = 50,
    search_ms: float = 250,
) -> ExecutionPage:
    """Read a page.

    Args:
        engine: Whose store is read.
        workflow: Of this workflow alone.
        status: In this status, or one of these, alone; none of these means all.
        started_after: Started at this moment or later.
        started_before: Started before this moment.
        search: With this text in the id or in the error message, whatever its case.
        queue: Handed to the workers of this queue.
        cursor: What the page before says is ``next``.
        limit: How many at most (1 to 10 000).
        search_ms: How long a search goes on, in milliseconds, before it leaves the rest to the next page.

    Raises:
        ValidationError: An argument is not acceptable.
        StorageError: The database cannot be read.
    """
    up_to_ten_thousand("limit", limit)
    wanted = listing(workflow, status or None, started_after, started_before, search, queue)
    if queue is not None:
        dispatching(engine.bare_store)
    deadline = engine.clock.monotonic() + search_ms / 1_000
    found, end = await listed(engine.store, wanted, _place(cursor), limit, lambda: engine.clock.monotonic() >= deadline)
    return ExecutionPage(found, None if end is None else _text(end))


def _text(place: Position) -> str:
    """Return a place as text that needs no escapes in a URL."""
    return base64.urlsafe_b64encode(cursor_of(place).encode()).decode().rstrip("=")


def _place(cursor: str | None) -> Position | None:
    if cursor is None:
        return None
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), b"-_", validate=True).decode()
        return position(text)
    except (binascii.Error, ValueError):
        raise ValidationError("Not a cursor; give what the page before says is next") from None
