"""The page about circuit breakers: which are open, since when, and when they let an attempt through."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, Response

from workflow_core.server.dashboard.rendering import read, render
from workflow_core.views.circuits import read_circuits

__all__ = ["router"]

router = APIRouter(include_in_schema=False)

_ORDER = {"open": 0, "half_open": 1, "closed": 2}


@router.get("/circuit-breakers", response_class=HTMLResponse)
async def circuit_breakers(request: Request) -> Response:
    """Show all circuit breakers, those that are open first."""
    circuits, problems = await read(request, read_circuits)
    return await render(
        request,
        "circuits.html",
        circuits=sorted(circuits, key=lambda each: _ORDER.get(each.status, 0)),
        problems=problems,
    )
