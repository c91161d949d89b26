"""Which engine is meant where none is named."""

from __future__ import annotations

import contextlib
import contextvars
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from workflow_core.engine import WorkflowEngine

__all__ = ["activated", "current_engine", "replaced_default"]

_activated: contextvars.ContextVar[WorkflowEngine | None] = contextvars.ContextVar("workflow_core_engine", default=None)
_default: WorkflowEngine | None = None


def current_engine() -> WorkflowEngine:
    """Return the engine activated in this context, else the process's default one, which is made at the first use."""
    global _default  # noqa: PLW0603 - the default engine is the process's
    engine = _activated.get() or _default
    if engine is None:
        from workflow_core.engine import WorkflowEngine  # noqa: PLC0415 - the engine needs this module

        engine = _default = WorkflowEngine()
    return engine


@contextlib.contextmanager
def activated(engine: WorkflowEngine) -> Iterator[None]:
    """Make an engine the current one in this context."""
    token = _activated.set(engine)
    try:
        yield
    finally:
        _activated.reset(token)


@contextlib.contextmanager
def replaced_default(engine: WorkflowEngine) -> Iterator[None]:
    """Make an engine the default of the whole process, in all threads and contexts that activated none."""
    global _default  # noqa: PLW0603 - the default engine is the process's
    before, _default = _default, engine
    try:
        yield
    finally:
        _default = before
