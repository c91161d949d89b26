"""`workflow resume`: goes on with a sleeping or interrupted execution in this process."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from workflow_core.cli.completing import complete_executions
from workflow_core.cli.defined import require_defined
from workflow_core.cli.failures import USAGE, Failure
from workflow_core.cli.hints import command_line
from workflow_core.cli.invocation import Invocation, make_command
from workflow_core.cli.output import FORMAT_OPTION
from workflow_core.cli.reading import find_execution
from workflow_core.cli.running import run_to_rest
from workflow_core.views.execution_view import read_view

if TYPE_CHECKING:
    from workflow_core.views.execution_view import ExecutionView

__all__ = ["command"]


@make_command(
    "resume",
    examples="""
workflow resume order-1001 --app shop
workflow resume 8f14e45f --format json | jq .output
""",
)
@click.argument("execution_id", shell_complete=complete_executions)
@FORMAT_OPTION
@click.pass_obj
def command(invocation: Invocation, execution_id: str, output_format: str) -> None:
    """Go on with a sleeping or interrupted execution in this process, and follow it to its end.

    What is left of a sleep is slept; completed steps do not run again. One that was handed to workers is run by them.
    """
    with invocation.engine(runs_workflows=True) as engine:
        record = invocation.run(find_execution(engine, execution_id, changes_it=True))
        view = invocation.run(read_view(engine, record.execution_id))
        _check(invocation, view)
        invocation.run(require_defined(invocation, engine, record.workflow_name))
        name = record.execution_id
        run_to_rest(
            invocation,
            engine,
            name,
            lambda: engine.resume(name),
            output_format,
            since_seq=view.last_seq,
            handed_over=view.record.queue is not None,
        )


def _check(invocation: Invocation, view: ExecutionView) -> None:
    record = view.record
    name = f'Execution "{record.execution_id}"'
    if view.at_rest:
        advice = ""
        if record.status in {"failed", "panicked"}:
            advice = f'; "{command_line(invocation, "restart", record.execution_id)}" runs it again'
        raise Failure(
            f"{name} is {record.status}; only one that sleeps or was interrupted can be resumed{advice}", USAGE
        )
    if not view.interrupted and view.owner is not None:
        hint = command_line(invocation, "status", record.execution_id, "--follow", with_app=False)
        raise Failure(f'{name} runs in another process (pid {view.owner.pid}); "{hint}" follows it', USAGE)
