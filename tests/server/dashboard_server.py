"""A server for the browser tests, a process of its own: prints its port, and serves a directory until it is ended."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import uvicorn

from tests.server import dashboard_shop  # noqa: F401 - defines the workflows
from workflow_core import Settings, WorkflowEngine
from workflow_core.server import ServerSettings, create_app


async def main(directory: str, token: str | None) -> None:
    engine = WorkflowEngine(settings=Settings(directory=Path(directory), log_level="debug"))
    app = create_app(engine, ServerSettings(token=token, poll_interval_ms=20))
    config = uvicorn.Config(app, port=0, log_level="warning", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started and not serving.done():
        await asyncio.sleep(0.01)
    print(server.servers[0].sockets[0].getsockname()[1], flush=True)
    await serving


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None))
