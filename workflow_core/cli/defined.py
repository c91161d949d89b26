"""Whether a workflow can run in this process, and what to do if not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workflow_core.cli.failures import NOT_FOUND, Failure
from workflow_core.cli.loading import find_app
from workflow_core.cli.reading import require_workflow

if TYPE_CHECKING:
    from workflow_core.cli.invocation import Invocation
    from workflow_core.engine import WorkflowEngine

__all__ = ["require_defined"]


async def require_defined(invocation: Invocation, engine: WorkflowEngine, workflow: str) -> None:
    """Say so if a workflow cannot run in this process.

    Raises:
        Failure: It is unknown, or nothing that was imported defines it.
    """
    if workflow in engine.workflow_names():
        return
    app = find_app(invocation.app)
    await require_workflow(
        engine, workflow, "" if app else "; name the module that defines workflows of code: --app MODULE"
    )
    known = ", ".join(engine.workflow_names()) or "none"
    hint = (
        "name the module that defines it, --app MODULE"
        if app is None
        else f"{app.source} names the module {app.module}, which does not define it"
    )
    raise Failure(
        f'Workflow "{workflow}" has run here, but nothing defines it in this process (defined: {known}); {hint}',
        NOT_FOUND,
    )
