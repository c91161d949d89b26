"""The page about logs: the latest lines of all workflows, or of one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, Response

from workflow_core.database.directory import DirectoryStore
from workflow_core.logs import LEVELS
from workflow_core.server.dashboard.filters import SPANS
from workflow_core.server.dashboard.rendering import read, render
from workflow_core.views.log_reading import LogFilter, daily_logs, latest_lines
from workflow_core.views.overviews import known_workflows

if TYPE_CHECKING:
    from datetime import timedelta

    from workflow_core.engine import WorkflowEngine
    from workflow_core.logs import Level, LogLine

__all__ = ["router"]

router = APIRouter(include_in_schema=False)

_LINES: Final = 200
_SPANS: Final = {span: SPANS[span] for span in ("1h", "24h", "7d")}


@router.get("/logs", response_class=HTMLResponse)
async def logs(request: Request, workflow: str = "", level: str = "info", since: str = "24h") -> Response:
    """Show the latest lines, the latest first."""
    chosen: Level = next((name for name in LEVELS if name == level), "info")
    span = since if since in _SPANS else "24h"
    names, lines = await read(request, lambda engine: _read(engine, workflow, chosen, _SPANS[span][1]))
    return await render(
        request,
        "logs.html",
        workflows=names,
        workflow=workflow,
        levels=list(LEVELS),
        level=chosen,
        spans=_SPANS,
        span=span,
        log=lines,
        most=_LINES,
    )


async def _read(
    engine: WorkflowEngine, workflow: str, level: Level, span: timedelta
) -> tuple[list[str], list[LogLine]]:
    names = await known_workflows(engine)
    store = engine.bare_store
    if not isinstance(store, DirectoryStore):
        return names, []
    since = engine.clock.now() - span
    wanted = [name for name in names if workflow in {"", name}]
    found = latest_lines(daily_logs(store.layout, wanted, since), LogFilter(since, level), _LINES)
    return names, [line for line, _ in reversed(found)]
