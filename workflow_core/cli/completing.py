"""What a shell offers for the names of workflows and the ids of executions."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from workflow_core.cli.invocation import Invocation

if TYPE_CHECKING:
    import click

__all__ = ["complete_executions", "complete_workflows"]

_MOST = 100


def complete_workflows(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Return the names of workflows that begin like this."""
    del parameter
    from workflow_core.views.overviews import known_workflows  # noqa: PLC0415 - not for help

    invocation = ctx.find_object(Invocation) or Invocation()
    with contextlib.suppress(Exception), invocation.engine(runs_workflows=True) as engine:  # a shell wants no errors
        return [name for name in invocation.run(known_workflows(engine)) if name.startswith(incomplete)]
    return []


def complete_executions(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Return the ids of executions that begin like this; of all, the latest."""
    del parameter
    invocation = ctx.find_object(Invocation) or Invocation()
    with contextlib.suppress(Exception), invocation.engine() as engine:  # a shell wants no errors
        if incomplete:
            return invocation.run(engine.store.find_execution_ids(incomplete, _MOST))
        return [execution.execution_id for execution in invocation.run(engine.list_executions(limit=_MOST))]
    return []
