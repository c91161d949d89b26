"""Adds the pages, and the files that they load, to an application."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, Response
from fastapi.staticfiles import StaticFiles

from workflow_core.report.drawing import timeline_styles
from workflow_core.server.dashboard import (
    circuits_page,
    cluster_page,
    execution_page,
    executions_page,
    logs_page,
    overview_page,
    workflow_page,
)
from workflow_core.server.dashboard.rendering import render

if TYPE_CHECKING:
    from fastapi import FastAPI

__all__ = ["add_to", "error_page"]

_STATIC: Final = Path(__file__).parent / "static"
_router = APIRouter(include_in_schema=False)


def add_to(app: FastAPI) -> None:
    """Add the pages to an application."""
    app.include_router(_router)
    for page in (
        overview_page,
        executions_page,
        execution_page,
        workflow_page,
        circuits_page,
        cluster_page,
        logs_page,
    ):
        app.include_router(page.router)
    app.mount("/static", StaticFiles(directory=_STATIC), name="static")


async def error_page(request: Request, status: int, title: str, detail: str) -> Response:
    """Return a page that says what went wrong, and what can be done about it.

    Args:
        request: What cannot be answered.
        status: The status of the response.
        title: What went wrong, in a few words.
        detail: What is known about it.
    """
    return await render(request, "error.html", status_code=status, status=status, title=title, detail=detail)


@_router.get("/static/timeline.css")
async def timeline_css() -> Response:
    """Give the style sheet of the timelines, which is that of the reports."""
    return Response(timeline_styles(), media_type="text/css")


@_router.get("/favicon.ico")
async def favicon() -> FileResponse:
    """Give the icon to pages that name none, such as a stored value."""
    return FileResponse(_STATIC / "favicon.svg", media_type="image/svg+xml")
