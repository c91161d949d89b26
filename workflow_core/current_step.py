"""Which attempt of which step runs in a task."""

from __future__ import annotations

import contextvars
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from workflow_core.execution import Execution

__all__ = ["current_step"]

current_step: contextvars.ContextVar[tuple[Execution, int, str] | None] = contextvars.ContextVar(
    "workflow_core_step", default=None
)
"""The execution, the attempt and the step; whoever calls a function of a step sets it, and resets it afterwards."""
