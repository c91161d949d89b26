"""The page about workers and queues: what waits, what runs, and who has been lost."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, Response

from workflow_core.server.api.cluster import require_workers
from workflow_core.server.dashboard.bars import queue_bar, slots_bar
from workflow_core.server.dashboard.rendering import engine_of, read, render
from workflow_core.views.cluster import QUEUE_PARTS, ClusterView

__all__ = ["router"]

router = APIRouter(include_in_schema=False)


@router.get("/cluster", response_class=HTMLResponse)
async def cluster(request: Request) -> Response:
    """Show all queues and workers, those that are lost first."""
    view = ClusterView(await read(request, lambda engine: require_workers(engine).cluster_state()))
    fast = engine_of(request).clock.now() - view.state.read_at  # how far this clock is ahead of the database's
    greatest = max((sum(getattr(queue, part) for part in QUEUE_PARTS) for queue in view.state.queues), default=0)
    return await render(
        request,
        "cluster.html",
        cluster=view,
        queues=[(queue, queue_bar(queue, greatest)) for queue in view.state.queues],
        workers=[
            (
                worker,
                slots_bar(worker.running, worker.concurrency),
                worker.last_heartbeat + fast,
                worker.started_at + fast,
            )
            for worker in view.workers
        ],
        parts=QUEUE_PARTS,
    )
