"""A server in this process, on a runtime directory of the test's own, asked through its whole application."""

import asyncio
import contextlib
import importlib.util

import httpx
import pytest

from workflow_core import NonRetryableError, PanicConfig, RetryConfig, Settings, WorkflowEngine
from workflow_core.server import ServerSettings, create_app, lifespan

BASE = "http://127.0.0.1:8321"


def define(engine):
    """Define workflows with all kinds of ends."""

    def refuse():
        raise NonRetryableError('<script>alert("no")</script>')

    @engine.define("order", retry_config=RetryConfig(max_attempts=2, backoff_ms=1))
    async def order(ctx):
        """Process an order."""
        kind = (ctx.input or {}).get("kind") if isinstance(ctx.input, dict) else None
        await ctx.step("charge", lambda: "tx-1").with_circuit_breaker(failure_threshold=2)
        if kind == "fails" and ctx.restart_attempt == 1:
            await ctx.step("refuse", refuse).with_circuit_breaker(failure_threshold=1)
        if kind == "sleeps":
            await ctx.sleep("nap", 300_000)
        if kind == "waits":
            await ctx.step("wait", asyncio.Event().wait)
        return {"order": ctx.execution_id}

    @engine.define("fragile", panic_config=PanicConfig(enable_auto_restart=False))
    async def fragile(ctx):
        if ctx.restart_attempt == 1:
            raise MemoryError("out of memory")
        return "survived"


class Served:
    """A running application, and a client of it."""

    def __init__(self, app, engine, client):
        self.app, self.engine, self.client = app, engine, client

    async def start(self, execution_id, kind=None, workflow="order", **query):
        body = {"execution_id": execution_id, "input": {"kind": kind}}
        return await self.client.post(f"/api/workflows/{workflow}/executions", json=body, params=query)

    async def get(self, path, status=200, **options):
        response = await self.client.get(path, **options)
        assert response.status_code == status, response.text
        return response.json()

    async def post(self, path, status=200, **options):
        response = await self.client.post(path, **options)
        assert response.status_code == status, response.text
        return response.json() if response.content else None

    async def until(self, execution_id, status):
        async with asyncio.timeout(10):
            while (found := await self.get(f"/api/executions/{execution_id}"))["status"] != status:
                await asyncio.sleep(0)
        return found


@contextlib.asynccontextmanager
async def serving(directory, client_options=None, defining=define, store=None, **settings):
    engine = WorkflowEngine(store, settings=Settings(directory=directory, sync_handlers="inline"))
    defining(engine)
    app = create_app(engine, ServerSettings(**{"dashboard": False, "poll_interval_ms": 1, **settings}))
    transport = httpx.ASGITransport(app)
    async with lifespan(app):
        async with httpx.AsyncClient(transport=transport, base_url=BASE, **(client_options or {})) as client:
            yield Served(app, engine, client)


def run(directory, test, **options):
    """Run a test, a function of what is served, with the options of `serving`."""

    async def main():
        async with serving(directory, **options) as served:
            await test(served)

    asyncio.run(main())


@pytest.fixture(scope="session")
def server_nursery(nursery):
    """Give birth to servers, too, in milliseconds."""
    return nursery.know(
        "uvicorn.lifespan.on",
        "uvicorn.loops.auto",
        "uvicorn.protocols.http.auto",
        "workflow_core.cli.commands.serve",
        "workflow_core.cluster.worker" if importlib.util.find_spec("procrastinate") else "workflow_core.server",
        "workflow_core.server.application",
        "workflow_core.server.serving",
    )


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "state"
