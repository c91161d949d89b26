"""`workflow recover`: takes over what was interrupted, and runs it to rest in this process."""

from __future__ import annotations

import asyncio
import contextlib

import click

from workflow_core.cli.failures import FAILED, Failure
from workflow_core.cli.follow import Follower, manner_for
from workflow_core.cli.hints import command_line
from workflow_core.cli.invocation import Invocation, make_command
from workflow_core.cli.output import FORMAT_OPTION, print_json, print_line, print_table, quietly
from workflow_core.cli.texts import one_line
from workflow_core.models import ErrorInfo, ExecutionResult
from workflow_core.views.execution_data import execution_data
from workflow_core.views.execution_view import ExecutionView, read_view

__all__ = ["command"]


@make_command(
    "recover",
    examples="""
workflow recover --app shop
workflow recover --app shop --format json | jq '.[].status'
""",
)
@FORMAT_OPTION
@click.pass_obj
def command(invocation: Invocation, output_format: str) -> None:
    """Take over every interrupted execution, and run all of them to rest in this process.

    Those whose process lives are left to it. The exit code is 0 if all of them completed, else 1.
    """
    with invocation.engine(runs_workflows=True) as engine:

        async def recover() -> tuple[list[ExecutionResult], list[ExecutionView]]:
            manner = manner_for(output_format, quiet=invocation.quiet)
            output = quietly() if output_format == "json" or invocation.quiet else contextlib.nullcontext()
            try:
                taken = await engine.recover()
                with output, Follower(engine, manner) as follower:
                    waits = asyncio.gather(*(engine.wait(execution_id) for execution_id in taken))
                    await follower.while_running(_all(waits), taken)
                return (
                    [await engine.get_status(execution_id) for execution_id in taken],
                    [await read_view(engine, execution_id) for execution_id in taken],
                )
            finally:
                await engine.aclose()

        def how_to_go_on() -> str:
            return f'"{command_line(invocation, "recover")}" goes on.'

        results, views = invocation.run(recover(), how_to_go_on)
    if output_format == "json":
        print_json([execution_data(result, view) for result, view in zip(results, views, strict=True)])
    elif invocation.quiet:
        for view in views:
            print_line(view.record.execution_id)
    elif not views:
        print_line("Nothing to recover: no execution was interrupted.")
    else:
        print_table(
            ["Execution ID", "Workflow", "Status", "Error"],
            [
                [record.execution_id, record.workflow_name, record.status, _error(record.error_data)]
                for record in (view.record for view in views)
            ],
        )
    failed = [view for view in views if view.record.status != "completed"]
    if failed:
        raise Failure(f"{len(failed)} of {len(views)} recovered executions did not complete", FAILED)


async def _all(waits: asyncio.Future[list[ExecutionResult]]) -> list[ExecutionResult]:
    return await waits


def _error(error_data: str | None) -> str:
    return one_line(ErrorInfo.model_validate_json(error_data)) if error_data else ""
