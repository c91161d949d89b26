"""A server for the browser tests, as a process of its own: prints its port, and serves until it is ended.

The database of ``WORKFLOW_DATABASE_URL``, if that is set, gets a worker with two slots in the same process.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from tests.server import dashboard_shop  # noqa: F401 - defines the workflows
from workflow_core import Settings, WorkflowEngine
from workflow_core.database.dispatch import Dispatches
from workflow_core.server import ServerSettings, create_app
from workflow_core.server.serving import listen, serve


async def main(directory: str, token: str | None) -> None:
    place = None if os.environ.get("WORKFLOW_DATABASE_URL") else Path(directory)
    settings = Settings(directory=place, log_level="debug")
    engine = WorkflowEngine(settings=settings)
    app = create_app(engine, ServerSettings(token=token, poll_interval_ms=20))
    listener, stop = listen("127.0.0.1", 0), asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with asyncio.TaskGroup() as tasks:
        if isinstance(engine.bare_store, Dispatches):
            tasks.create_task(work(settings, stop))
        await serve(app, listener, stop, lambda: print(listener.getsockname()[1], flush=True))


async def work(settings: Settings, stop: asyncio.Event) -> None:
    from workflow_core.cluster.settings import WorkerSettings
    from workflow_core.cluster.worker import Worker

    async with WorkflowEngine(settings=settings) as engine:
        await Worker(engine, WorkerSettings(concurrency=2, grace_ms=0)).run(stop)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None))
