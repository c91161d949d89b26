"""The page about one workflow: what it is, how it does, and a form that starts it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, Response

from workflow_core.arguments import validated_name
from workflow_core.database.directory import DirectoryStore
from workflow_core.errors import ExecutionNotFoundError, StorageError
from workflow_core.server.dashboard.paths import base_of
from workflow_core.server.dashboard.rendering import engine_of, read, render
from workflow_core.server.dashboard.strip import draw_strip
from workflow_core.stored import load_record
from workflow_core.views.circuits import CircuitView, read_circuits
from workflow_core.views.overviews import Overview, read_overview
from workflow_core.views.statistics import WorkflowStatistics, read_statistics
from workflow_core.views.workflow_data import workflow_data

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from workflow_core.definition import Definition
    from workflow_core.engine import WorkflowEngine
    from workflow_core.summaries import ExecutionSummary

__all__ = ["router"]

router = APIRouter(include_in_schema=False)

_LATEST: Final = 15
_STRIP: Final = 120
_LARGEST_INPUT: Final = 100_000


@dataclass(frozen=True, slots=True)
class _Read:
    overview: Overview
    statistics: WorkflowStatistics | None
    latest: Sequence[ExecutionSummary]
    circuits: Sequence[CircuitView]
    problem: str | None


@router.get("/workflows/{name}", response_class=HTMLResponse)
async def workflow(request: Request, name: str, input_of: str = "") -> Response:
    """Show one workflow."""
    engine = engine_of(request)
    validated_name(name)
    found = await read(request, lambda reading: _read(reading, name))
    definition = engine.known_definition(name)
    data = workflow_data(engine, found.overview)
    schema = data["input_schema"]
    return await render(
        request,
        "workflow.html",
        name=name,
        found=found,
        definition=definition,
        document=_document(definition, engine, name),
        schema=json.dumps(schema) if schema else None,
        configuration=data["config"],
        configured_in=engine.configurations.where(name),
        strip=draw_strip(found.latest, len(found.latest), base_of(request), name),
        latest=found.latest[:_LATEST],
        given=await _input_of(engine, input_of) if input_of else "",
        input_of=input_of,
    )


async def _read(engine: WorkflowEngine, name: str) -> _Read:
    overview = await read_overview(engine, name)
    if overview.problem is not None:
        return _Read(overview, None, (), (), overview.problem)
    try:
        statistics = await read_statistics(engine, name) if overview.counts else None
        latest = await engine.list_executions(name, limit=_STRIP)
        circuits, _ = await read_circuits(engine, name)
    except StorageError as error:
        return _Read(overview, None, (), (), str(error))
    return _Read(overview, statistics, latest, circuits, None)


async def _input_of(engine: WorkflowEngine, execution_id: str) -> str:
    """Return the input of an execution to be started with again; nothing if it cannot be typed as JSON."""
    try:
        text = (await load_record(engine, execution_id)).input_data
    except ExecutionNotFoundError:
        return ""
    if text is None or len(text) > _LARGEST_INPUT:
        return ""
    try:
        match json.loads(text):
            case {"$type": "declared", "value": value}:
                pass
            case value:
                pass
        typed = json.dumps(value, indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return ""
    return "" if '"$type"' in typed else typed


def _document(definition: Definition | None, engine: WorkflowEngine, name: str) -> Mapping[str, object] | None:
    """Return the document of a declarative workflow, as it is defined here or as it was saved."""
    text: str | bytes | None = definition.document if definition is not None else None
    if text is None and definition is None and isinstance(engine.bare_store, DirectoryStore):
        try:
            text = engine.bare_store.layout.definition(name).read_bytes()
        except OSError:
            return None
    try:
        document = json.loads(text) if text else None
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) and isinstance(document.get("steps"), list) else None
