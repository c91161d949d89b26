"""Workflows: all of them, one with its definition, new ones from documents, and new executions."""

import asyncio
import contextlib
from datetime import timedelta
from typing import Annotated, Any, Self

from fastapi import APIRouter, Body, Query, Request
from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator
from starlette.responses import Response

from workflow_core.arguments import EXECUTION_ID, QUEUE_NAME
from workflow_core.definitions import load_definition
from workflow_core.definitions.saving import create_workflow
from workflow_core.engine import WorkflowEngine
from workflow_core.errors import WorkflowCoreError
from workflow_core.models import PanicConfig, RetryConfig, WholeNumber
from workflow_core.server.api.cluster import require_workers
from workflow_core.server.api.dependencies import Engine, JsonAnswer, Read, WorkflowName, answered, link_to
from workflow_core.server.api.execution_models import ExecutionDetails
from workflow_core.server.api.models import StatisticsDetails, WorkflowDetails, WorkflowList
from workflow_core.server.problems import documented
from workflow_core.timeouts import LONGEST_MS
from workflow_core.views.execution_data import execution_data
from workflow_core.views.execution_view import read_view
from workflow_core.views.json_text import json_bytes
from workflow_core.views.overviews import read_overview, read_overviews
from workflow_core.views.statistics import read_statistics
from workflow_core.views.workflow_data import workflow_data

__all__ = ["router"]

router = APIRouter(tags=["workflows"])

_DOCUMENT: dict[str, JsonValue] = {
    "name": "greeting",
    "description": "Say hello.",
    "steps": [{"id": "hello", "type": "log", "config": {"message": "Hello ${input.name}"}}],
}


class Created(BaseModel):
    """What became of a document.

    Attributes:
        written: Whether anything had to be written; ``false`` if it is there already, and with ``dry_run``.
    """

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"name": "greeting", "written": True, "document": _DOCUMENT}]}
    )

    name: str
    written: bool
    document: dict[str, Any]


class NewExecution(BaseModel):
    """An execution to start.

    Attributes:
        execution_id: Names it, a business id for example; the same id again gives the same execution.
        input: What the workflow finds as its input.
        retry_config: How failing steps are retried.
        panic_config: What happens after a panic.
        timeout_ms: Longest duration of the whole execution, in milliseconds.
        queue: Hands it to the workers of this queue, with PostgreSQL; without it, this server runs it.
        priority: With a queue: those with a greater number are begun first, 0 if it is not given.
        limit_key: With a queue: its key, for the limits of its workflow that hold for each key.
    """

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"execution_id": "order-1001", "input": {"item": "book"}},
                {"execution_id": "order-1002", "input": {"item": "lamp"}, "queue": "default", "priority": 5},
            ]
        },
    )

    execution_id: str | None = Field(default=None, max_length=255, pattern=f"^{EXECUTION_ID.pattern}$")
    input: JsonValue = None
    retry_config: RetryConfig | None = None
    panic_config: PanicConfig | None = None
    timeout_ms: WholeNumber | None = Field(default=None, ge=1, le=LONGEST_MS)
    queue: str | None = Field(default=None, max_length=40, pattern=rf"^{QUEUE_NAME.pattern}$")
    priority: WholeNumber | None = Field(default=None, ge=-1_000_000, le=1_000_000)
    limit_key: str | None = Field(default=None, min_length=1, max_length=255)

    @model_validator(mode="after")
    def _belongs_to_a_queue(self) -> Self:
        if self.queue is None and (self.priority is not None or self.limit_key is not None):
            raise ValueError('"priority" and "limit_key" mean something only with "queue"')
        return self


@router.get("/workflows", response_model=WorkflowList)
async def list_workflows(read: Read) -> JsonAnswer:
    """List all workflows, those of this server and those that the databases know, sorted by name."""

    async def find(engine: WorkflowEngine) -> dict[str, object]:
        return {"workflows": [each.data() for each in await read_overviews(engine)]}

    return await answered(read, find)


@router.post(
    "/workflows",
    status_code=201,
    response_model=Created,
    responses={
        200: {"model": Created, "description": "It is there already, or it was only looked at."},
        201: {"description": "It was created.", "headers": {"Location": {"schema": {"type": "string"}}}},
        **documented(400, 409, 413, 415, 429),
    },
)
async def create(
    request: Request,
    engine: Engine,
    *,
    document: Annotated[dict[str, Any], Body(openapi_examples={"a greeting": {"value": _DOCUMENT}})],
    dry_run: Annotated[bool, Query(description="Validate without creating.")] = False,
) -> Response:
    """Create a workflow that needs no code, or replace it; executions under way go on with what they began with."""
    definition = load_definition(document)
    if dry_run:
        return JsonAnswer({"name": definition.name, "written": False, "document": definition.document()}, 200)
    written = await create_workflow(engine, definition)
    return JsonAnswer(
        {"name": definition.name, "written": written, "document": definition.document()},
        201 if written else 200,
        {"location": link_to(request, "get_workflow", name=definition.name)},
    )


@router.get("/workflows/{name}", response_model=WorkflowDetails, responses=documented(404), name="get_workflow")
async def get(name: WorkflowName, read: Read) -> JsonAnswer:
    """Show a workflow with its definition and its configuration; of secrets, where they are read from."""

    async def find(engine: WorkflowEngine) -> dict[str, object]:
        return workflow_data(engine, await read_overview(engine, name))

    return await answered(read, find)


@router.get("/workflows/{name}/statistics", response_model=StatisticsDetails, responses=documented(404))
async def statistics(
    name: WorkflowName,
    read: Read,
    hours: Annotated[
        float, Query(gt=0, le=87_600, allow_inf_nan=False, description="How far back to look.", examples=[24])
    ] = 24,
) -> JsonAnswer:
    """Tell how a workflow did of late: how often it succeeds, how long it takes, how many there are."""

    async def find(engine: WorkflowEngine) -> dict[str, object]:
        await read_overview(engine, name)
        return (await read_statistics(engine, name, timedelta(hours=hours))).data()

    return await answered(read, find)


@router.post(
    "/workflows/{name}/executions",
    status_code=202,
    response_model=ExecutionDetails,
    responses={
        200: {"model": ExecutionDetails, "description": "The execution is at rest."},
        202: {"description": "It goes on.", "headers": {"Location": {"schema": {"type": "string"}}}},
        **documented(400, 404, 409, 413, 415, 429),
    },
)
async def execute(
    request: Request,
    name: WorkflowName,
    engine: Engine,
    read: Read,
    new: Annotated[NewExecution, Body()],
    wait_ms: Annotated[int, Query(ge=0, le=60_000, description="How long to wait for its end, in milliseconds.")] = 0,
) -> Response:
    """Start an execution, or join the one that has the id, and answer as soon as it is recorded.

    This server runs it; with a `queue`, a worker does.
    """
    given = (name, new.execution_id, new.input, new.retry_config, new.panic_config)
    if new.queue is None:
        started = await engine.start(*given, timeout_ms=new.timeout_ms, detach=True)
    else:
        require_workers(engine)
        started = await engine.enqueue(
            *given,
            timeout_ms=new.timeout_ms,
            queue=new.queue,
            priority=new.priority or 0,
            limit_key=new.limit_key,
        )
    if wait_ms:
        with contextlib.suppress(TimeoutError, WorkflowCoreError):  # what became of it is read below
            async with asyncio.timeout(wait_ms / 1_000):
                await engine.wait(started.execution_id)
    return await answer(request, read, started.execution_id)


async def answer(request: Request, read: Read, execution_id: str) -> JsonAnswer:
    """Answer with an execution: 200 if it is at rest, 202 if it goes on."""

    async def find(engine: WorkflowEngine) -> tuple[bytes, bool]:
        view = await read_view(engine, execution_id)
        return json_bytes(execution_data(await engine.get_status(execution_id), view)), view.at_rest

    data, at_rest = await read(find)
    location = link_to(request, "get_execution", execution_id=execution_id)
    return JsonAnswer(data, 200 if at_rest else 202, {"location": location})
