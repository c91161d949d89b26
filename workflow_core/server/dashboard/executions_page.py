"""The page that lists executions: filtered, searched, page by page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, Response

from workflow_core.errors import ValidationError
from workflow_core.server.dashboard.filters import SPANS, Filters
from workflow_core.server.dashboard.rendering import engine_of, read, render
from workflow_core.summaries import EXECUTION_STATUSES
from workflow_core.views.cluster import possible_statuses, read_cluster
from workflow_core.views.execution_pages import ExecutionPage, read_page
from workflow_core.views.overviews import known_workflows

if TYPE_CHECKING:
    from workflow_core.engine import WorkflowEngine

__all__ = ["router"]

router = APIRouter(include_in_schema=False)

_PAGE: Final = 50


@dataclass(frozen=True, slots=True)
class _List:
    """What the page shows.

    Attributes:
        queues: The names of the queues that hold something; ``None`` if the database has no workers.
        total: How many executions the whole list has; ``None`` if that would have to be counted.
        mistake: Why the filter cannot be used.
    """

    page: ExecutionPage
    total: int | None
    workflows: list[str]
    queues: list[str] | None
    mistake: str


@router.get("/executions", response_class=HTMLResponse)
async def executions(request: Request) -> Response:
    """Show a page of executions, the latest started first."""
    filters = Filters.of(request.query_params)
    found = await read(request, lambda engine: _read(engine, filters))
    return await render(
        request,
        "executions.html",
        status_code=400 if found.mistake else 200,
        filters=filters,
        page=found.page,
        total=found.total,
        workflows=found.workflows,
        queues=found.queues,
        mistake=found.mistake,
        statuses=possible_statuses(engine_of(request)),
        spans=SPANS,
    )


async def _read(engine: WorkflowEngine, filters: Filters) -> _List:
    workflows = await known_workflows(engine)
    cluster = await read_cluster(engine)
    queues = None if cluster is None else [queue.queue for queue in cluster.state.queues]
    try:
        now = engine.clock.now()
        page = await read_page(
            engine,
            workflow=filters.workflow or None,
            status=filters.statuses(),
            started_after=filters.started_after(now),
            started_before=filters.started_before(),
            search=filters.search or None,
            queue=filters.queue or None,
            cursor=filters.before or None,
            limit=_PAGE,
        )
    except ValidationError as error:
        return _List(ExecutionPage((), None), None, workflows, queues, str(error))
    return _List(page, await _total(engine, filters), workflows, queues, "")


async def _total(engine: WorkflowEngine, filters: Filters) -> int | None:
    """Count the executions of a filter, if their index alone tells."""
    if filters.search or filters.queue or filters.span or filters.start or filters.end:
        return None
    wanted = filters.status or EXECUTION_STATUSES
    stats = await engine.stats(filters.workflow or None)
    return sum(number for each in stats for status, number in each.counts.items() if status in wanted)
