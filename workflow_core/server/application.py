"""Puts the application together: the API, the dashboard, and what guards both."""

from __future__ import annotations

import contextlib
from importlib.metadata import version
from typing import TYPE_CHECKING

from fastapi import FastAPI

from workflow_core.engine import WorkflowEngine
from workflow_core.server.api import health
from workflow_core.server.reading import Reader
from workflow_core.server.settings import ServerSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["create_app"]


def create_app(engine: WorkflowEngine | None = None, settings: ServerSettings | None = None) -> FastAPI:
    """Make the application about an engine's executions; it can be mounted in another one.

    Args:
        engine: Whose executions it shows, and which runs those that are started through it.
        settings: Everything else.
    """
    served = engine or WorkflowEngine()
    chosen = settings or ServerSettings()

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        reader: Reader = app.state.reader
        async with served:
            reader.open()
            try:
                yield
            finally:
                await reader.close()

    app = FastAPI(title="pytest-workflow-core", version=version("pytest-workflow-core"), lifespan=lifespan)
    app.state.engine = served
    app.state.settings = chosen
    app.state.reader = Reader(served)
    app.include_router(health.router, prefix="/api")
    if chosen.dashboard:
        from workflow_core.server.dashboard import pages  # noqa: PLC0415 - only who wants pages needs templates

        pages.add_to(app)
    return app
