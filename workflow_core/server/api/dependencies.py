"""What endpoints are given: the engine, the reader, and the form of their answers."""

from collections.abc import Callable, Coroutine
from typing import Annotated, Any, cast

from fastapi import Depends, Path, Query, Request
from starlette.responses import Response

from workflow_core.arguments import EXECUTION_ID
from workflow_core.database.layout import WORKFLOW_NAME
from workflow_core.engine import WorkflowEngine
from workflow_core.server.live import Changes
from workflow_core.server.reading import Reader
from workflow_core.server.settings import ServerSettings
from workflow_core.views.json_text import json_bytes

__all__ = [
    "Engine",
    "ExecutionId",
    "JsonAnswer",
    "Live",
    "OfWorkflow",
    "Read",
    "ServedSettings",
    "WorkflowName",
    "answered",
    "link_to",
]


class JsonAnswer(Response):
    """An answer of JSON, as the command line prints it."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:  # noqa: ANN401 - its base's
        """Return data as JSON; bytes are JSON already."""
        return content if isinstance(content, bytes) else json_bytes(content)


def _engine(request: Request) -> WorkflowEngine:
    return cast("WorkflowEngine", request.app.state.engine)


def _reader(request: Request) -> Reader:
    return cast("Reader", request.app.state.reader)


def _changes(request: Request) -> Changes:
    return cast("Changes", request.app.state.changes)


def _settings(request: Request) -> ServerSettings:
    return cast("ServerSettings", request.app.state.settings)


Engine = Annotated[WorkflowEngine, Depends(_engine)]
"""The engine that runs executions."""

Read = Annotated[Reader, Depends(_reader)]
"""Reads its databases."""

Live = Annotated[Changes, Depends(_changes)]
"""Tells what changes in them."""

ServedSettings = Annotated[ServerSettings, Depends(_settings)]
"""The settings of the server."""

ExecutionId = Annotated[
    str,
    Path(
        description="The id of an execution.",
        examples=["order-1001"],
        pattern=f"^{EXECUTION_ID.pattern}$",
        min_length=1,
        max_length=255,
    ),
]
WorkflowName = Annotated[
    str,
    Path(
        description="The name of a workflow.",
        examples=["order"],
        pattern=f"^{WORKFLOW_NAME.pattern}$",
        min_length=1,
        max_length=128,
    ),
]
OfWorkflow = Annotated[str | None, Query(pattern=f"^{WORKFLOW_NAME.pattern}$", description="Of this workflow alone.")]


async def answered(read: Reader, find: Callable[[WorkflowEngine], Coroutine[Any, Any, object]]) -> JsonAnswer:
    """Answer with what a function finds; it is turned into JSON in the thread that reads, because it may be much."""

    async def encoded(engine: WorkflowEngine) -> bytes:
        return json_bytes(await find(engine))

    return JsonAnswer(await read(encoded))


def link_to(request: Request, route: str, **parameters: str) -> str:
    """Return the path of a route, below wherever the application is mounted."""
    return request.url_for(route, **parameters).path
