"""`workflow status`: all workflows, the executions of one, or one execution, live if wanted."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

import click

from workflow_core.cli.completing import complete_executions, complete_workflows
from workflow_core.cli.endings import raise_for_status, show_picture
from workflow_core.cli.failures import STORAGE, USAGE, Failure
from workflow_core.cli.follow import Follower, manner_for
from workflow_core.cli.hints import command_line
from workflow_core.cli.invocation import Invocation, make_command
from workflow_core.cli.output import LISTING_FORMAT_OPTION, print_json, print_line, print_table
from workflow_core.cli.overview import raise_for_problems
from workflow_core.cli.reading import find_execution, require_workflow
from workflow_core.cli.texts import age_text
from workflow_core.errors import ExecutionNotFoundError, StorageError
from workflow_core.summaries import EXECUTION_STATUSES
from workflow_core.views.execution_data import execution_data
from workflow_core.views.execution_view import read_view
from workflow_core.views.overviews import known_workflows, read_overviews
from workflow_core.views.wording import status_of, took_text

if TYPE_CHECKING:
    from collections.abc import Iterable

    from workflow_core.engine import WorkflowEngine
    from workflow_core.models import ExecutionStatus
    from workflow_core.summaries import ExecutionSummary
    from workflow_core.views.execution_view import ExecutionView
    from workflow_core.views.overviews import Overview

__all__ = ["command"]

_COUNTED: Final[tuple[tuple[ExecutionStatus, ...], ...]] = (
    ("running", "sleeping", "restarting", "queued"),
    ("completed",),
    ("failed", "panicked"),
    ("cancelled",),
)


@make_command(
    "status",
    examples="""
workflow status
workflow status --workflow my-workflow
workflow status --workflow my-workflow --status failed --limit 5
workflow status --queue mail --status queued
workflow status abc123def-456-789
workflow status abc123def-456-789 --follow
workflow status abc123def-456-789 --format json | jq .status
""",
)
@click.argument("execution_id", required=False, shell_complete=complete_executions)
@click.option(
    "--workflow", "-w", metavar="NAME", shell_complete=complete_workflows, help="Show the executions of a workflow."
)
@click.option("--status", "-s", "wanted", type=click.Choice(EXECUTION_STATUSES), help="Show executions of this status.")
@click.option("--queue", "-Q", metavar="NAME", help="Show executions that were handed to the workers of this queue.")
@click.option(
    "--limit", "-n", type=click.IntRange(1, 10_000), default=20, show_default=True, help="How many executions at most."
)
@LISTING_FORMAT_OPTION
@click.option("--follow", is_flag=True, help="Follow an execution until it ends; exit with its code.")
@click.pass_obj
def command(
    invocation: Invocation,
    execution_id: str | None,
    workflow: str | None,
    wanted: ExecutionStatus | None,
    queue: str | None,
    limit: int,
    output_format: str,
    follow: bool,  # noqa: FBT001 - click passes options by name
) -> None:
    """Check the status of workflows and executions.

    Without an id: an overview of all workflows, or with --workflow, --status and --queue the latest executions. With an
    id, or the beginning of one: that execution with its steps. With --follow it is shown live until it ends, on a
    terminal as a picture, through a pipe as a line for each event; the exit code is then 0 if it completed, else 1.
    """
    if follow and execution_id is None:
        raise Failure("--follow needs the id of an execution", USAGE)
    is_filtered = any(one is not None for one in (workflow, wanted, queue))
    with invocation.engine() as engine:
        if execution_id is not None:
            if is_filtered:
                raise Failure("An execution id, and --workflow, --status or --queue, exclude each other", USAGE)
            _show_execution(invocation, engine, execution_id, output_format, follow=follow)
        elif is_filtered:
            _show_executions(invocation, engine, workflow, wanted, queue, limit, output_format)
        else:
            _show_workflows(invocation, engine, output_format)


def _show_execution(
    invocation: Invocation, engine: WorkflowEngine, text: str, output_format: str, *, follow: bool
) -> None:
    execution_id = invocation.run(find_execution(engine, text)).execution_id
    view = invocation.run(read_view(engine, execution_id))
    if follow:
        manner = manner_for(output_format, quiet=invocation.quiet, json_lines=True)

        def how_to_go_on() -> str:
            hint = command_line(invocation, "status", execution_id, "--follow", with_app=False)
            return f'The execution is not affected; "{hint}" follows it again.'

        with Follower(engine, manner) as follower:
            view = invocation.run(follower.follow(execution_id), how_to_go_on)
        if manner == "live":
            show_picture(view)
    elif output_format == "json":
        print_json(execution_data(invocation.run(engine.get_status(execution_id)), view))
    elif not invocation.quiet:
        show_picture(view)
    if invocation.quiet:
        print_line(status_of(view))
    if follow:
        raise_for_status(invocation, view)


def _show_executions(
    invocation: Invocation,
    engine: WorkflowEngine,
    workflow: str | None,
    wanted: ExecutionStatus | None,
    queue: str | None,
    limit: int,
    output_format: str,
) -> None:
    if workflow is not None:
        invocation.run(require_workflow(engine, workflow))
    executions, problems = invocation.run(_latest(engine, workflow, wanted, queue, limit))
    views = invocation.run(_views(engine, executions))
    if output_format == "json":
        print_json(
            [
                {
                    "execution_id": view.record.execution_id,
                    "workflow_name": view.record.workflow_name,
                    "status": view.record.status,
                    "interrupted": view.interrupted,
                    "started_at": view.record.started_at,
                    "completed_at": view.record.completed_at,
                    "restart_attempt": view.record.restart_attempt,
                    "queue": view.record.queue,
                    "steps": len(view.steps),
                }
                for view in views
            ]
        )
    elif invocation.quiet:
        for view in views:
            print_line(view.record.execution_id)
    elif not views:
        print_line(f"No executions found{f' for workflow: {workflow}' if workflow else ''}")
    else:
        names_queues = any(view.record.queue is not None for view in views)
        rows = []
        for view in views:
            record, end = view.record, view.record.completed_at or view.read_at
            took = took_text((end - record.started_at).total_seconds() * 1_000)
            rows.append(
                [
                    record.execution_id,
                    *([] if workflow else [record.workflow_name]),
                    *([record.queue or "-"] if names_queues else []),
                    status_of(view),
                    age_text(record.started_at, view.read_at),
                    took if record.completed_at or not view.at_rest else "-",
                    record.restart_attempt - 1,
                    len(view.steps),
                ]
            )
        of_all = [*([] if workflow else ["Workflow"]), *(["Queue"] if names_queues else [])]
        names = ["Execution ID", *of_all, "Status", "Started", "Took", "Restarts", "Steps"]
        print_table(names, rows, flexible=0, spare=["Restarts", "Steps", "Took"])
    if problems:
        raise Failure("\n".join(problems), STORAGE)


async def _latest(
    engine: WorkflowEngine, workflow: str | None, wanted: ExecutionStatus | None, queue: str | None, limit: int
) -> tuple[list[ExecutionSummary], list[str]]:
    """Return the latest executions, and of which databases they cannot be read."""
    problems: list[str] = []
    try:
        return await engine.list_executions(workflow, wanted, limit=limit, queue=queue), problems
    except StorageError:
        if workflow is not None:
            raise
    found: list[ExecutionSummary] = []
    for name in await known_workflows(engine):
        try:
            found += await engine.list_executions(name, wanted, limit=limit, queue=queue)
        except StorageError as error:
            problems.append(str(error))
    return sorted(found, key=lambda summary: summary.started_at, reverse=True)[:limit], problems


async def _views(engine: WorkflowEngine, executions: Iterable[ExecutionSummary]) -> list[ExecutionView]:
    """Read executions that are listed, except those that were removed meanwhile."""
    views = []
    for execution in executions:
        with contextlib.suppress(ExecutionNotFoundError):
            views.append(await read_view(engine, execution.execution_id))
    return views


def _counts(overview: Overview) -> list[int | str]:
    """Return the numbers of a workflow's executions: all, under way, completed, failed, cancelled."""
    if overview.problem is not None:
        return ["?"] * 5
    sums = [sum(overview.counts.get(status, 0) for status in statuses) for statuses in _COUNTED]
    return [sum(overview.counts.values()), *sums]


def _show_workflows(invocation: Invocation, engine: WorkflowEngine, output_format: str) -> None:
    overviews = invocation.run(read_overviews(engine))
    if output_format == "json":
        print_json([each.data() for each in overviews])
    elif invocation.quiet:
        for each in overviews:
            print_line(each.name)
    elif not overviews:
        print_line(f"No workflows found in {engine.store.location()}.")
    else:
        now = engine.clock.now()
        print_table(
            ["Name", "Total", "Under way", "Completed", "Failed", "Cancelled", "Latest"],
            [
                [
                    each.name,
                    *_counts(each),
                    age_text(each.last_execution_at, now, "never"),
                ]
                for each in overviews
            ],
            flexible=0,
            spare=["Cancelled", "Total", "Completed"],
        )
    raise_for_problems(overviews)
