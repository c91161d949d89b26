"""A server for the browser tests, as a process of its own: prints its port, and serves until it is ended."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

from tests.server import dashboard_shop  # noqa: F401 - defines the workflows
from workflow_core import Settings, WorkflowEngine
from workflow_core.server import ServerSettings, create_app
from workflow_core.server.serving import listen, serve


async def main(directory: str, token: str | None) -> None:
    engine = WorkflowEngine(settings=Settings(directory=Path(directory), log_level="debug"))
    app = create_app(engine, ServerSettings(token=token, poll_interval_ms=20))
    listener, stop = listen("127.0.0.1", 0), asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await serve(app, listener, stop, lambda: print(listener.getsockname()[1], flush=True))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None))
