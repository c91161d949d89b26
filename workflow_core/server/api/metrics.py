"""Metrics for Prometheus."""

from typing import cast

from fastapi import APIRouter, Request
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import Response

from workflow_core.server.api.dependencies import Engine, Read
from workflow_core.server.metrics import ProcessMetrics, render

__all__ = ["router"]

router = APIRouter(tags=["metrics"])


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "The metrics."}},
)
async def metrics(request: Request, engine: Engine, read: Read) -> Response:
    """Return metrics in the text format of Prometheus."""
    process = cast("ProcessMetrics", request.app.state.metrics)
    return Response(await render(engine, read, process), media_type=CONTENT_TYPE_LATEST)
