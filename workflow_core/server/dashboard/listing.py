"""One page of a list of executions, with what leads to the pages before and after it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workflow_core.engine import WorkflowEngine
    from workflow_core.server.dashboard.filters import Filters
    from workflow_core.summaries import ExecutionSummary

__all__ = ["Page", "read_page"]


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a list.

    Attributes:
        older: The cursor of the page behind it, if there is one.
        newer: The cursor of the page in front of it, if there is one.
        total: How many executions the list has in all; ``None`` if that is not known.
    """

    executions: Sequence[ExecutionSummary] = ()
    older: str | None = None
    newer: str | None = None
    total: int | None = None


async def read_page(engine: WorkflowEngine, filters: Filters, size: int) -> Page:
    """Read a page.

    Raises:
        ValidationError: The filter is not acceptable.
        StorageError: The database cannot be read.
    """
    now = engine.clock.now()
    found = await engine.list_executions(
        filters.workflow or None,
        filters.statuses(),
        started_after=filters.started_after(now),
        started_before=filters.started_before(),
        before=filters.before or None,
        limit=size + 1,
    )
    shown = found[:size]
    older = shown[-1].cursor if len(found) > size else None
    return Page(shown, older, None, None)
