"""Whether the server lives, and whether its databases can be used."""

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel

from workflow_core.engine import WorkflowEngine
from workflow_core.errors import StorageError
from workflow_core.server.api.dependencies import Engine, JsonAnswer, Read
from workflow_core.server.api.models import Readiness

__all__ = ["router"]

router = APIRouter(tags=["health"])


class Liveness(BaseModel):
    """That the server answers."""

    status: Literal["ok"] = "ok"


@router.get("/health/live", response_model=Liveness)
async def live() -> JsonAnswer:
    """Tell that the server answers; needs no token."""
    return JsonAnswer({"status": "ok"})


@router.get("/health/ready", response_model=Readiness)
async def ready(engine: Engine, read: Read) -> JsonAnswer:
    """Tell which databases can be read; 503 if the registry cannot."""
    databases = await read(_databases)
    failing = [name for name, problem in databases.items() if problem is not None]
    status = "degraded" if failing else "ok"
    return JsonAnswer({"status": status, "databases": databases, "running": len(engine.running())})


async def _databases(engine: WorkflowEngine) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for record in await engine.store.list_workflows():
        try:
            await engine.list_executions(record.name, limit=1)
            found[record.name] = None
        except StorageError as error:
            found[record.name] = str(error)
    return found
