"""Executions: lists of them, and everything known of one."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from pydantic import AwareDatetime

from workflow_core.arguments import aware
from workflow_core.engine import WorkflowEngine
from workflow_core.logs import Level
from workflow_core.models import ExecutionStatus
from workflow_core.report.reading import MOST_EVENTS
from workflow_core.report.timeline import lay_out
from workflow_core.server.api.cluster import require_workers
from workflow_core.server.api.dependencies import Engine, ExecutionId, JsonAnswer, OfWorkflow, Read, answered
from workflow_core.server.api.execution_models import (
    ErrorList,
    EventList,
    ExecutionDetails,
    ExecutionList,
    LogLines,
    TimelineData,
)
from workflow_core.server.problems import documented
from workflow_core.stored import load_record
from workflow_core.views.execution_data import error_data, event_data, execution_data
from workflow_core.views.execution_pages import read_page
from workflow_core.views.execution_view import read_view
from workflow_core.views.log_lines import execution_log, workflow_log
from workflow_core.views.log_reading import line_data

__all__ = ["router"]

router = APIRouter(tags=["executions"])

_LEVEL = Query(description="The least important level that is shown.")
_LINES = Query(ge=1, le=10_000, description="How many lines at most.")
_SINCE = Query(description="From this moment on.", examples=["2026-11-26T08:30:00Z"])


@router.get(
    "/executions",
    response_model=ExecutionList,
    responses={
        200: {
            "headers": {
                "Link": {
                    "schema": {"type": "string"},
                    "description": "The next page, as `rel=next`, unless the list is at its end.",
                }
            }
        },
        **documented(409),
    },
)
async def list_executions(
    request: Request,
    engine: Engine,
    read: Read,
    workflow: Annotated[str | None, Query(description="Of this workflow alone.", examples=["order"])] = None,
    status: Annotated[list[ExecutionStatus] | None, Query(description="In one of these statuses alone.")] = None,
    started_after: Annotated[AwareDatetime | None, Query(description="Started at this moment or later.")] = None,
    started_before: Annotated[AwareDatetime | None, Query(description="Started before this moment.")] = None,
    search: Annotated[
        str | None,
        Query(
            max_length=1_000,
            description="With this text in the id or in the error message, whatever its case.",
            examples=["timeout"],
        ),
    ] = None,
    queue: Annotated[
        str | None, Query(max_length=40, description="Handed to the workers of this queue.", examples=["default"])
    ] = None,
    cursor: Annotated[str | None, Query(max_length=1_000, description="What the page before says is `next`.")] = None,
    limit: Annotated[int, Query(ge=1, le=1_000, description="How many at most.")] = 50,
) -> JsonAnswer:
    """List executions in short, the latest started first.

    A page begins behind the last execution of the page before, so nothing is shown twice or missed when others start
    meanwhile. A search answers after a quarter of a second at the latest; `next` then goes on with it.
    """
    if queue is not None:
        require_workers(engine)
    page = await read(
        lambda engine: read_page(
            engine,
            workflow=workflow,
            status=status,
            started_after=started_after,
            started_before=started_before,
            search=search,
            queue=queue,
            cursor=cursor,
            limit=limit,
        )
    )
    headers = None
    if page.next is not None:
        following = request.url.include_query_params(cursor=page.next)
        headers = {"link": f'<{following.path}?{following.query}>; rel="next"'}
    return JsonAnswer({"executions": page.executions, "next": page.next}, headers=headers)


@router.get(
    "/executions/{execution_id}",
    response_model=ExecutionDetails,
    responses=documented(404),
    name="get_execution",
)
async def get(execution_id: ExecutionId, read: Read) -> JsonAnswer:
    """Show an execution with its steps, its owner and its circuit breakers."""

    async def find(engine: WorkflowEngine) -> dict[str, object]:
        view = await read_view(engine, execution_id)
        return execution_data(await engine.get_status(execution_id), view)

    return await answered(read, find)


@router.get("/executions/{execution_id}/history", response_model=EventList, responses=documented(404))
async def history(
    execution_id: ExecutionId,
    read: Read,
    after: Annotated[int, Query(ge=0, le=2**53, description="Only events behind this position.")] = 0,
) -> JsonAnswer:
    """Show the history of an execution, oldest event first."""

    async def find(engine: WorkflowEngine) -> dict[str, object]:
        record = await load_record(engine, execution_id)
        workflow = engine.store.workflow(record.workflow_name)
        events = await workflow.load_events(record.workflow_name, record.execution_id, after)
        return {"events": [event_data(event) for event in events]}

    return await answered(read, find)


@router.get("/executions/{execution_id}/errors", response_model=ErrorList, responses=documented(404))
async def errors(execution_id: ExecutionId, read: Read) -> JsonAnswer:
    """Show the errors that the steps of an execution met, oldest first, with their tracebacks."""

    async def find(engine: WorkflowEngine) -> dict[str, object]:
        record = await load_record(engine, execution_id)
        workflow = engine.store.workflow(record.workflow_name)
        found = await workflow.load_errors(record.workflow_name, record.execution_id)
        return {"errors": [error_data(step_id, error) for step_id, error in found]}

    return await answered(read, find)


@router.get("/executions/{execution_id}/timeline", response_model=TimelineData, responses=documented(404))
async def timeline(execution_id: ExecutionId, read: Read) -> JsonAnswer:
    """Lay the history of an execution out to be drawn, as the report and the dashboard draw it."""

    async def find(engine: WorkflowEngine) -> dict[str, object]:
        events = await engine.history(execution_id)
        drawn = lay_out(events[:MOST_EVENTS])
        return {
            "width": drawn.width,
            "lanes": drawn.lanes,
            "bars": drawn.bars,
            "marks": drawn.marks,
            "left_out": max(len(events) - MOST_EVENTS, 0),
        }

    return await answered(read, find)


@router.get("/executions/{execution_id}/logs", response_model=LogLines, responses=documented(404))
async def execution_logs(
    execution_id: ExecutionId,
    read: Read,
    level: Annotated[Level, _LEVEL] = "debug",
    since: Annotated[AwareDatetime | None, _SINCE] = None,
    lines: Annotated[int, _LINES] = 500,
) -> JsonAnswer:
    """Show the latest log lines of an execution, oldest first; without a log file, they are made of its history."""
    begin = aware("since", since)

    async def find(engine: WorkflowEngine) -> dict[str, object]:
        found = await execution_log(engine, execution_id, level=level, since=begin, most=lines)
        return {"lines": [line_data(line) for line in found]}

    return await answered(read, find)


@router.get("/logs", response_model=LogLines, tags=["workflows"])
async def logs(
    read: Read,
    workflow: OfWorkflow = None,
    level: Annotated[Level, _LEVEL] = "debug",
    since: Annotated[AwareDatetime | None, _SINCE] = None,
    lines: Annotated[int, _LINES] = 500,
) -> JsonAnswer:
    """Show the latest log lines of a workflow, or of all, oldest first."""
    begin = aware("since", since)

    async def find(engine: WorkflowEngine) -> dict[str, object]:
        found = await workflow_log(engine, workflow, level=level, since=begin, most=lines)
        return {"lines": [line_data(line) for line in found]}

    return await answered(read, find)
