"""Workflows with limits as an app of the command line: ``workflow worker --app tests.reliability.limited_app:engine``.

What each execution does is drawn from its id, so it is the same in each process: it ends, fails, panics, or rests.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from typing import TYPE_CHECKING

from workflow_core import PanicConfig, RetryConfig, Settings, WorkflowEngine
from workflow_core.limits import Limits

if TYPE_CHECKING:
    from workflow_core import WorkflowContext

KEYS = ("ada", "bob", "eve")
LIMITS = {
    "all": Limits(concurrency=3),
    "each": Limits(concurrency_per_key=1, key="customer"),
    "both": Limits(concurrency=4, concurrency_per_key=2, key="customer", held_while_waiting=False),
    "rate": Limits(concurrency=3, starts=20, period_ms=500),
}
"""The workflows, and their limits."""


async def work(ctx: WorkflowContext) -> int:
    fate = random.Random(f"{ctx.execution_id}/{ctx.restart_attempt}").random()
    await ctx.step("first", lambda: asyncio.sleep(0.005))
    if fate < 0.2:
        await ctx.sleep("rest", 150)

    async def last() -> int:
        await asyncio.sleep(0.01)
        if 0.2 < fate < 0.4:
            raise ValueError("refused")
        if 0.4 < fate < 0.5:
            raise MemoryError
        return ctx.restart_attempt

    return await ctx.step("last", last)


def make_engine(**settings: object) -> WorkflowEngine:
    """Return an engine with the workflows."""
    engine = WorkflowEngine(settings=Settings.model_validate({"poll_interval_ms": 20, **settings}))
    for name, limits in LIMITS.items():
        engine.define(
            name,
            work,
            limits=limits,
            retry_config=RetryConfig(max_attempts=5, backoff_ms=5, non_retryable=["ValueError"]),
            panic_config=PanicConfig(enable_auto_restart=True, restart_delay_ms=1_000, max_restart_attempts=2),
        )
    return engine


engine = make_engine(**json.loads(os.environ.get("STORM_SETTINGS", "{}")))
