"""The pages of the dashboard."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles
from fastapi.templating import Jinja2Templates

if TYPE_CHECKING:
    from fastapi import FastAPI

__all__ = ["add_to"]

_HERE = Path(__file__).parent
_templates = Jinja2Templates(_HERE / "templates")
_router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)


def add_to(app: FastAPI) -> None:
    """Add the pages to an application."""
    app.include_router(_router)
    app.mount("/static", StaticFiles(directory=_HERE / "static"), name="static")


@_router.get("/")
async def overview(request: Request) -> HTMLResponse:
    """Show all workflows."""
    return _templates.TemplateResponse(request, "overview.html", {})
