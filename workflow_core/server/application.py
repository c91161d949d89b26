"""Puts the application together: the API, the dashboard, and what guards both."""

from __future__ import annotations

import contextlib
from importlib.metadata import version
from typing import TYPE_CHECKING

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from workflow_core.engine import WorkflowEngine
from workflow_core.server.access import AccessGuard
from workflow_core.server.api import cluster, events, executions, health, interventions, metrics, workflows
from workflow_core.server.description import describe
from workflow_core.server.guards import BodyGuard, HostGuard, OriginGuard, RateGuard, SafetyHeaders
from workflow_core.server.live import Changes
from workflow_core.server.metrics import ProcessMetrics
from workflow_core.server.plain_pages import plain_login_page
from workflow_core.server.problems import add_handlers, documented
from workflow_core.server.reading import Reader
from workflow_core.server.settings import ServerSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request
    from starlette.responses import Response

    from workflow_core.server.access import LoginPage
    from workflow_core.server.problems import ErrorPage

__all__ = ["create_app", "lifespan"]


def create_app(engine: WorkflowEngine | None = None, settings: ServerSettings | None = None) -> FastAPI:
    """Make the application about an engine's executions; it can be mounted in another one.

    Args:
        engine: Whose executions it shows, and which runs those that are started through it.
        settings: Everything else; without them, the token is that of ``WORKFLOW_SERVER_TOKEN``, if it is set.
    """
    served = engine or WorkflowEngine()
    chosen = settings or ServerSettings.from_environment()
    app = FastAPI(
        title="pytest-workflow-core",
        version=version("pytest-workflow-core"),
        description="Durable workflows: start them, watch them, and intervene.",
        openapi_url="/api/openapi.json",
        docs_url=None,  # its page loads scripts from another site
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.engine = served
    app.state.settings = chosen
    app.state.reader = Reader(served)
    app.state.changes = Changes(served, chosen.poll_interval_ms)
    app.state.metrics = ProcessMetrics()
    everywhere = documented(401, 421, 422, 500, 503)
    for module in (workflows, executions, interventions, cluster, events, health, metrics):
        app.include_router(module.router, prefix="/api", responses=everywhere)
    login_page: LoginPage = plain_login_page
    error_page: ErrorPage | None = None
    if chosen.dashboard:
        from workflow_core.server.dashboard import pages  # noqa: PLC0415 - only who wants pages needs templates

        pages.add_to(app)
        login_page, error_page = _login_page, pages.error_page
    add_handlers(app, served.secrets, error_page)
    describe(app, with_token=chosen.token is not None)
    # The last one that is added is the first one that a request meets.
    if chosen.token is not None:
        app.add_middleware(AccessGuard, settings=chosen, clock=served.clock, login_page=login_page)
    app.add_middleware(BodyGuard, most=chosen.max_body_bytes)
    app.add_middleware(RateGuard, clock=served.clock, per_minute=chosen.changes_per_minute)
    if chosen.allowed_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=chosen.allowed_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["authorization", "content-type", "last-event-id"],
            expose_headers=["link", "location", "retry-after"],
        )
    app.add_middleware(OriginGuard, origins=chosen.allowed_origins)
    app.add_middleware(HostGuard, names=chosen.allowed_hosts)
    app.add_middleware(SafetyHeaders)
    return app


async def _login_page(request: Request, status: int, there: str, mistake: str | None) -> Response:
    from workflow_core.server.dashboard.rendering import render  # noqa: PLC0415 - only who wants pages needs templates

    return await render(request, "login.html", status, next=there, mistake=mistake)


@contextlib.asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Let an application's engine work in an ``async with`` block: recover on entry, give back and close on exit.

    A server does this by itself; whoever mounts the application in another one does it in the lifespan of that.

    Args:
        app: What `create_app` returned.
    """
    engine: WorkflowEngine = app.state.engine
    reader: Reader = app.state.reader
    changes: Changes = app.state.changes
    counted: bool = app.state.settings.metrics
    if counted and app.state.metrics not in engine.extensions:
        engine.register(app.state.metrics)
    async with engine:
        reader.open()
        try:
            yield
        finally:
            await changes.close()
            await reader.close()
