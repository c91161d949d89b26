"""Steps that end when a file is there, as an app of the command line: ``--app tests.reliability.held_app:engine``.

Until then one waits, one blocks a thread, and one does not let itself be cancelled.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from workflow_core import RetryConfig, Settings, WorkflowEngine

if TYPE_CHECKING:
    from collections.abc import Callable

    from workflow_core import WorkflowContext

KINDS = ("waiting", "blocking", "stubborn")
LOOK_SECONDS = 0.02


def make_engine(directory: Path, **settings: object) -> WorkflowEngine:
    """Return an engine whose steps end when ``go`` is in a directory."""
    engine = WorkflowEngine(settings=Settings.model_validate({"poll_interval_ms": 20, **settings}))
    go = directory / "go"

    async def waiting() -> None:
        while not go.exists():
            await asyncio.sleep(LOOK_SECONDS)

    def blocking() -> None:
        while not go.exists():
            time.sleep(LOOK_SECONDS)

    async def stubborn() -> None:
        while not go.exists():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(LOOK_SECONDS)

    for name, body in zip(KINDS, (waiting, blocking, stubborn), strict=True):

        async def held(ctx: WorkflowContext, body: Callable[[], object] = body) -> None:
            await ctx.step("held", body)

        engine.define(name, held, retry_config=RetryConfig(max_attempts=1))
    return engine


if "STORM_DIRECTORY" in os.environ:
    engine = make_engine(Path(os.environ["STORM_DIRECTORY"]), **json.loads(os.environ["STORM_SETTINGS"]))
