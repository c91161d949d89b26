"""`workflow restart`: runs a panicked or failed execution again in this process."""

from __future__ import annotations

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

__all__ = ["command"]


@make_command(
    "restart",
    examples="""
workflow restart order-1001 --app shop
workflow status --workflow order --status failed --quiet | xargs -r -n 1 workflow restart --app shop
""",
)
@click.argument("execution_id", shell_complete=complete_executions)
@FORMAT_OPTION
@click.pass_obj
def command(invocation: Invocation, execution_id: str, output_format: str) -> None:
    """Run a panicked or failed execution again in this process, and follow it to its end.

    Completed steps are kept; all others get their attempts back. One that was handed to workers is run by them.
    """
    with invocation.engine(runs_workflows=True) as engine:
        record = invocation.run(find_execution(engine, execution_id, changes_it=True))
        view = invocation.run(read_view(engine, record.execution_id))
        name = record.execution_id
        if record.status not in {"failed", "panicked"}:
            advice = ""
            if view.interrupted:
                advice = f'; "{command_line(invocation, "resume", name)}" goes on with this one'
            raise Failure(
                f'Execution "{name}" is {record.status}; only a panicked or failed one can be restarted{advice}', USAGE
            )
        invocation.run(require_defined(invocation, engine, record.workflow_name))
        run_to_rest(
            invocation,
            engine,
            name,
            lambda: engine.restart(name),
            output_format,
            since_seq=view.last_seq,
            handed_over=view.record.queue is not None,
        )
