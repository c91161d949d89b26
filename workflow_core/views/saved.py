"""Declarative workflows, which `workflow create` has saved."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from workflow_core.database.directory import DirectoryStore
from workflow_core.database.store import KeepsDefinitions

if TYPE_CHECKING:
    from workflow_core.engine import WorkflowEngine

__all__ = ["define_saved_workflows", "saved_description"]

_LARGEST = 4_194_304


def define_saved_workflows(engine: WorkflowEngine) -> None:
    """Define the saved workflows of an engine's runtime directory, or of its database, on it."""
    if isinstance(engine.bare_store, (DirectoryStore, KeepsDefinitions)):
        from workflow_core.definitions import load_saved  # noqa: PLC0415 - most commands run no workflow

        load_saved(engine)


def saved_description(engine: WorkflowEngine, workflow: str) -> str:
    """Return what its definition says of a workflow that is not defined in this process."""
    store = engine.bare_store
    if isinstance(store, KeepsDefinitions):
        return str(store.saved_definitions().get(workflow, {}).get("description") or "")
    if not isinstance(store, DirectoryStore):
        return ""
    try:
        path = store.layout.definition(workflow)
        data = json.loads(path.read_bytes()) if path.stat().st_size <= _LARGEST else {}
    except (OSError, ValueError, RecursionError):
        return ""
    return str(data.get("description") or "") if isinstance(data, dict) else ""
