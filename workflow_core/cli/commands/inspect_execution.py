"""`workflow inspect`: everything known of an execution, in the terminal, as JSON or as an HTML page."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import click

from workflow_core.cli.completing import complete_executions
from workflow_core.cli.endings import announce
from workflow_core.cli.failures import STORAGE, Failure
from workflow_core.cli.inspection import print_inspection
from workflow_core.cli.invocation import Invocation, make_command
from workflow_core.cli.output import FORMAT_OPTION, print_json, print_line
from workflow_core.cli.reading import find_execution
from workflow_core.report.page import execution_page
from workflow_core.report.reading import entry_of
from workflow_core.views.execution_data import inspection_data
from workflow_core.views.execution_view import read_view
from workflow_core.whole_files import write_whole

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workflow_core.engine import WorkflowEngine
    from workflow_core.events import Event
    from workflow_core.models import ExecutionResult
    from workflow_core.views.execution_view import ExecutionView

__all__ = ["command"]


@make_command(
    "inspect",
    examples="""
workflow inspect order-1001
workflow inspect 8f14e45f --format json | jq '.errors[].message'
workflow inspect order-1001 --html order-1001.html
""",
)
@click.argument("execution_id", shell_complete=complete_executions)
@FORMAT_OPTION
@click.option(
    "--html",
    "html_file",
    metavar="FILE",
    type=click.Path(allow_dash=True),
    help="Write a page with the timeline to a file; - is stdout.",
)
@click.option("--tracebacks", is_flag=True, help="Show the traceback of every error.")
@click.pass_obj
def command(
    invocation: Invocation,
    execution_id: str,
    output_format: str,
    html_file: str | None,
    tracebacks: bool,  # noqa: FBT001 - click passes options by name
) -> None:
    """Show everything known of an execution: input, results, errors, circuits, owner, and its timeline."""
    with invocation.engine() as engine:
        record = invocation.run(find_execution(engine, execution_id))
        result, view, events = invocation.run(_read(engine, record.execution_id))
        if html_file is not None:
            entry = entry_of(view.record, view.steps.values(), view.errors, events)
            page = execution_page(entry, engine.clock.now().astimezone(), version("pytest-workflow-core"))
            _write(page, html_file)
            if html_file != "-" and not invocation.quiet:
                announce(f"Wrote {html_file}")
        elif output_format == "json":
            print_json(inspection_data(result, view, events))
        elif invocation.quiet:
            print_line(view.record.status)
        else:
            print_inspection(result, view, events, with_tracebacks=tracebacks)


async def _read(engine: WorkflowEngine, execution_id: str) -> tuple[ExecutionResult, ExecutionView, Sequence[Event]]:
    return (
        await engine.get_status(execution_id),
        await read_view(engine, execution_id),
        await engine.history(execution_id),
    )


def _write(page: str, file: str) -> None:
    """Write the page as a whole or not at all."""
    if file == "-":
        click.echo(page.encode(), nl=False)
        return
    try:
        write_whole(Path(file), page.encode())
    except OSError as error:
        raise Failure(f"--html {file}: {error.strerror}", STORAGE) from None
