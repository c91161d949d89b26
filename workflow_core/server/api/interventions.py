"""Interventions: an execution is resumed, restarted or cancelled, old ones are removed, circuit breakers are reset."""

from datetime import timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Body, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from workflow_core.arguments import validated_name
from workflow_core.models import CircuitBreakerConfig, ExecutionStatus
from workflow_core.retention import RESTING_STATUSES
from workflow_core.server.api.dependencies import Engine, ExecutionId, JsonAnswer, OfWorkflow, Read
from workflow_core.server.api.execution_models import ExecutionDetails
from workflow_core.server.api.models import Circuit, CircuitList, Cleaned
from workflow_core.server.api.workflows import answer
from workflow_core.server.problems import ProblemError, documented
from workflow_core.views.circuits import CircuitView, read_circuits

__all__ = ["router"]

router = APIRouter()

_GOES_ON: dict[int | str, dict[str, Any]] = {
    200: {"model": ExecutionDetails, "description": "The execution is at rest again already."},
    202: {"description": "It goes on.", "headers": {"Location": {"schema": {"type": "string"}}}},
    **documented(400, 404, 409, 413, 429),
}


@router.post(
    "/executions/{execution_id}/resume",
    status_code=202,
    response_model=ExecutionDetails,
    responses=_GOES_ON,
    tags=["executions"],
)
async def resume(request: Request, execution_id: ExecutionId, engine: Engine, read: Read) -> Response:
    """Go on with a sleeping or interrupted execution, in this server, in the background."""
    await engine.resume(execution_id, detach=True)
    return await answer(request, read, execution_id)


@router.post(
    "/executions/{execution_id}/restart",
    status_code=202,
    response_model=ExecutionDetails,
    responses=_GOES_ON,
    tags=["executions"],
)
async def restart(request: Request, execution_id: ExecutionId, engine: Engine, read: Read) -> Response:
    """Run a panicked or failed execution again, with its completed steps kept, in this server, in the background."""
    await engine.restart(execution_id, detach=True)
    return await answer(request, read, execution_id)


@router.post(
    "/executions/{execution_id}/cancel",
    response_model=ExecutionDetails,
    responses=documented(400, 404, 409, 413, 429),
    tags=["executions"],
)
async def cancel(request: Request, execution_id: ExecutionId, engine: Engine, read: Read) -> Response:
    """Cancel an execution, wherever it runs."""
    await engine.cancel(execution_id)
    return await answer(request, read, execution_id)


class CleanupRequest(BaseModel):
    """Which executions to remove.

    Attributes:
        older_than_days: Those that came to rest more than so many days ago.
        status: Those in one of these statuses alone.
        workflow: Those of this workflow alone.
        dry_run: Remove nothing, and tell what would be removed; it has to be ``false`` for anything to happen.
    """

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"older_than_days": 30, "status": ["completed"]}]}
    )

    older_than_days: float = Field(ge=0, le=36_500, allow_inf_nan=False)
    status: list[ExecutionStatus] | None = Field(
        default=None, json_schema_extra={"items": {"enum": list(RESTING_STATUSES)}}
    )
    workflow: str | None = None
    dry_run: bool = True


@router.post(
    "/cleanup",
    response_model=Cleaned,
    responses=documented(400, 413, 415, 429),
    tags=["maintenance"],
)
async def cleanup(engine: Engine, wanted: Annotated[CleanupRequest, Body()]) -> JsonAnswer:
    """Remove old executions with their steps, errors and logs, while workflows run; without ``dry_run: false``, look.

    Only what is at rest is removed: completed, failed, cancelled, or panicked without a restart to come.
    """
    older_than = timedelta(days=wanted.older_than_days)
    report = await engine.cleanup(older_than, wanted.status or None, wanted.workflow, dry_run=wanted.dry_run)
    return JsonAnswer({**report.model_dump(), "total": report.total})


@router.get("/circuits", response_model=CircuitList, tags=["circuit breakers"])
async def list_circuits(
    read: Read,
    workflow: OfWorkflow = None,
) -> JsonAnswer:
    """List the circuit breakers that are stored, sorted by workflow and step."""
    circuits, problems = await read(lambda engine: read_circuits(engine, workflow))
    return JsonAnswer({"circuits": [circuit.data() for circuit in circuits], "problems": problems})


class CircuitPlace(BaseModel):
    """Names a circuit breaker."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"workflow_name": "order", "step_id": "charge"}]}
    )

    workflow_name: str
    step_id: str


@router.post(
    "/circuits/reset",
    response_model=Circuit,
    responses=documented(400, 404, 413, 415, 429),
    tags=["circuit breakers"],
)
async def reset_circuit(engine: Engine, read: Read, place: Annotated[CircuitPlace, Body()]) -> JsonAnswer:
    """Close a circuit breaker, so that the next attempt of its step runs."""
    name, step_id = validated_name(place.workflow_name) or "", place.step_id
    circuits, problems = await read(lambda reading: read_circuits(reading, name))
    if not problems and not any(circuit.step_id == step_id for circuit in circuits):
        raise ProblemError(404, f'Workflow "{name}" has no circuit breaker of a step "{step_id}"', "circuit-not-found")
    closed = CircuitBreakerConfig(failure_threshold=1)
    state = await engine.set_circuit(name, step_id, "closed", closed)
    return JsonAnswer(CircuitView.of(name, step_id, state).data())
