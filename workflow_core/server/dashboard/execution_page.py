"""The page about one execution, and its values as they are stored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, PlainTextResponse, Response

from workflow_core.database.directory import DirectoryStore
from workflow_core.errors import ExecutionNotFoundError
from workflow_core.report.drawing import draw_timeline, timeline_definitions
from workflow_core.report.page import key
from workflow_core.report.reading import error_entries
from workflow_core.report.sections import history_table
from workflow_core.server.dashboard import execution_facts as facts
from workflow_core.server.dashboard.rendering import engine_of, read, render
from workflow_core.views.execution_view import ExecutionView, read_view
from workflow_core.views.log_reading import LogFilter, latest_lines
from workflow_core.views.wording import status_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workflow_core.engine import WorkflowEngine
    from workflow_core.events import Event
    from workflow_core.logs import LogLine

__all__ = ["router"]

router = APIRouter(include_in_schema=False)

_LOG_LINES: Final = 200


@router.get("/executions/{execution_id}", response_class=HTMLResponse)
async def execution(request: Request, execution_id: str, show: str = "") -> Response:
    """Show one execution: its timeline, its steps, its values, its errors, its history and its log."""
    view, history, log = await read(request, lambda engine: _read(engine, execution_id))
    record = view.record
    events, left_out = facts.shown_events(history, all_of_them=show == "all")
    rows = facts.rows_of(view)
    shown_rows = rows if show == "all" else rows[-facts.MOST_STEPS :]
    name = f"{record.workflow_name}, {record.execution_id}"
    return await render(
        request,
        "execution.html",
        view=view,
        record=record,
        status=status_of(view),
        error=facts.error_of(view),
        waits=facts.waits_of(view, rows),
        place=facts.place_of(view),
        actions=facts.actions_of(view),
        rows=shown_rows,
        rows_left_out=len(rows) - len(shown_rows),
        errors=error_entries(view.errors),
        events_left_out=left_out,
        timeline=draw_timeline(events, title=f"Timeline of {name}", anchor="e"),
        definitions=timeline_definitions(),
        key=key(),
        history=history_table(events, name, "e", results=facts.results_of(view, events)),
        event_count=len(history),
        last_seq=max((event.seq for event in history), default=0),
        log=log,
        log_says_more=any("event" not in line.fields for line in log),
        log_lines=_LOG_LINES,
        defined=engine_of(request).known_definition(record.workflow_name) is not None,
    )


async def _read(engine: WorkflowEngine, execution_id: str) -> tuple[ExecutionView, Sequence[Event], Sequence[LogLine]]:
    view = await read_view(engine, execution_id)
    record = view.record
    workflow = engine.store.workflow(record.workflow_name)
    history = await workflow.load_events(record.workflow_name, record.execution_id)
    if not isinstance(engine.bare_store, DirectoryStore):
        return view, history, ()
    path = engine.bare_store.layout.execution_log(record.workflow_name, record.execution_id)
    return view, history, [line for line, _ in latest_lines([path], LogFilter(None, "debug"), _LOG_LINES)]


@router.get("/executions/{execution_id}/values/{kind}")
async def value(
    request: Request, execution_id: str, kind: Literal["input", "output", "result"], step: str = ""
) -> Response:
    """Give a stored value as it is, as text."""
    view = await read(request, lambda engine: read_view(engine, execution_id))
    found = {"input": view.record.input_data, "output": view.record.output_data}.get(kind)
    if kind == "result" and step in view.steps:
        found = view.steps[step].result_data
    if found is None:
        whose = f" of a step {step!r}" if step else ""
        raise ExecutionNotFoundError(f'Execution "{execution_id}" has no {kind}{whose}')
    return PlainTextResponse(found)
