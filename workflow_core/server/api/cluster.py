"""The workers and queues of a database."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import APIRouter

from workflow_core.database.dispatch import dispatching
from workflow_core.errors import ValidationError
from workflow_core.server.api.cluster_models import Cluster
from workflow_core.server.api.dependencies import JsonAnswer, Read
from workflow_core.server.problems import ProblemError, documented
from workflow_core.views.cluster import ClusterView

if TYPE_CHECKING:
    from workflow_core.database.dispatch import Dispatches
    from workflow_core.engine import WorkflowEngine

__all__ = ["require_workers", "router"]

router = APIRouter(tags=["cluster"])


def require_workers(engine: WorkflowEngine) -> Dispatches:
    """Return the store of an engine, if workers can run its executions.

    Raises:
        ProblemError: They cannot, and why.
    """
    try:
        return dispatching(engine.bare_store)
    except ValidationError as error:
        raise ProblemError(409, str(error), "no-workers") from None


@router.get("/cluster", response_model=Cluster, responses=documented(409))
async def cluster(read: Read) -> JsonAnswer:
    """Tell which workers and queues there are, what they do, and how far the queues lag behind.

    A database without workers, which SQLite is, answers with the problem `no-workers`.
    """
    state = await read(lambda engine: require_workers(engine).cluster_state())
    return JsonAnswer(ClusterView(state).data())
