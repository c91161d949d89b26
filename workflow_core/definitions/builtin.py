"""The step types that come with the library: ``log``, ``delay`` and ``http``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import pydantic
from pydantic import Field

from workflow_core.definitions.executor import Executor
from workflow_core.definitions.http import HttpConfig, request
from workflow_core.definitions.keys import KEYS
from workflow_core.timeouts import LONGEST_MS

if TYPE_CHECKING:
    from workflow_core.definitions.executor import ExecutorContext

__all__ = ["BUILTIN_EXECUTORS", "DelayConfig", "LogConfig"]

_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}


class LogConfig(pydantic.BaseModel):
    """What ``log`` is told.

    Attributes:
        message: What to log; a value that is no text is logged as JSON.
        level: How important it is.
    """

    model_config = KEYS

    message: Any = "Step executed"
    level: Literal["debug", "info", "warning", "error"] = "info"


class DelayConfig(pydantic.BaseModel):
    """What ``delay`` is told.

    Attributes:
        duration: How long to sleep, in milliseconds; at most ``Settings.max_sleep_ms`` of the engine.
    """

    model_config = KEYS

    duration: Annotated[int, Field(ge=0, le=LONGEST_MS)] = 1_000


async def log(config: LogConfig, context: ExecutorContext) -> dict[str, object]:
    """Log a message."""
    message = config.message
    text = message if isinstance(message, str) else pydantic.TypeAdapter(object).dump_json(message).decode()
    context.logger.log(_LEVELS[config.level], "%s", text)
    return {"logged": True, "timestamp": context.now().isoformat()}


async def delay(config: DelayConfig, context: ExecutorContext) -> dict[str, object]:
    """Sleep durably: after a crash the rest is slept."""
    await context.ctx.sleep(context.step_id, config.duration)
    return {"delayed": context.ctx._execution.steps[context.step_id].duration_ms}


BUILTIN_EXECUTORS: dict[str, Executor] = {
    "log": Executor(log, LogConfig, takes_secrets=False),
    "delay": Executor(delay, DelayConfig, takes_secrets=False, sleeps=True),
    "http": Executor(request, HttpConfig, module="httpx", extra="http"),
}
