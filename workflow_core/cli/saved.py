"""Declarative workflows, which `workflow create` has written into the runtime directory."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from workflow_core.engine import WorkflowEngine

__all__ = ["define_saved_workflows"]


def define_saved_workflows(engine: WorkflowEngine) -> None:
    """Define the saved workflows of an engine's runtime directory on it."""
