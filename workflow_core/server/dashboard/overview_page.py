"""The first page: all workflows at a glance, and what needs somebody."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, Response

from workflow_core.errors import StorageError
from workflow_core.server.dashboard.rendering import engine_of, render
from workflow_core.views.overviews import read_overviews

__all__ = ["router"]

router = APIRouter(include_in_schema=False)


@router.get("/", response_class=HTMLResponse)
async def overview(request: Request) -> Response:
    """Show all workflows."""
    engine = engine_of(request)
    return await render(request, "overview.html", overviews=await read_overviews(engine))
