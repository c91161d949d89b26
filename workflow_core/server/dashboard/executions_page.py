"""The page that lists executions: filtered, searched, page by page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, Response

from workflow_core.errors import ValidationError
from workflow_core.server.dashboard.filters import SPANS, Filters
from workflow_core.server.dashboard.rendering import engine_of, render
from workflow_core.summaries import EXECUTION_STATUSES
from workflow_core.server.dashboard.listing import Page, read_page

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["router"]

router = APIRouter(include_in_schema=False)

_PAGE: Final = 50


@router.get("/executions", response_class=HTMLResponse)
async def executions(request: Request) -> Response:
    """Show a page of executions, the latest started first."""
    engine = engine_of(request)
    filters = Filters.of(request.query_params)
    mistake, page = "", Page()
    try:
        page = await read_page(engine, filters, _PAGE)
    except ValidationError as error:
        mistake = str(error)
    workflows = sorted({*(found.name for found in await engine.store.list_workflows()), *engine.workflow_names()})
    return await render(
        request,
        "executions.html",
        status_code=400 if mistake else 200,
        filters=filters,
        mistake=mistake,
        page=page,
        workflows=workflows,
        statuses=EXECUTION_STATUSES,
        spans=SPANS,
    )
