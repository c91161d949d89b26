"""`workflow cancel`: cancels an execution, wherever it runs."""

from __future__ import annotations

import click

from workflow_core.cli.completing import complete_executions
from workflow_core.cli.invocation import Invocation, make_command
from workflow_core.cli.output import FORMAT_OPTION, Signs, print_json, print_line
from workflow_core.cli.reading import find_execution
from workflow_core.views.execution_data import execution_data
from workflow_core.views.execution_view import read_view

__all__ = ["command"]


@make_command(
    "cancel",
    examples="""
workflow cancel order-1001
workflow status --workflow order --status sleeping --quiet | xargs -r -n 1 workflow cancel
""",
)
@click.argument("execution_id", shell_complete=complete_executions)
@FORMAT_OPTION
@click.pass_obj
def command(invocation: Invocation, execution_id: str, output_format: str) -> None:
    """Cancel an execution, wherever it runs; completed steps are kept.

    A process that runs it stops at its next step, or when it renews its lease; a worker stops the step in flight within
    two seconds.
    """
    with invocation.engine() as engine:
        record = invocation.run(find_execution(engine, execution_id, changes_it=True))
        result = invocation.run(engine.cancel(record.execution_id))
        if output_format == "json":
            print_json(execution_data(result, invocation.run(read_view(engine, record.execution_id))))
        elif invocation.quiet:
            print_line(record.execution_id)
        else:
            print_line(f"{Signs().of('completed')} Cancelled execution: {record.execution_id}")
            print_line(f"   Workflow: {record.workflow_name}")
