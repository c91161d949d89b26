"""`workflow logs`: the log of a workflow, of all workflows, or of one execution."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

import click

from workflow_core.cli.completing import complete_executions, complete_workflows
from workflow_core.cli.endings import announce
from workflow_core.cli.failures import USAGE, Failure
from workflow_core.cli.hints import command_line
from workflow_core.cli.invocation import Invocation, make_command
from workflow_core.cli.moments import moment_of
from workflow_core.cli.output import FORMAT_OPTION, print_line, styled
from workflow_core.cli.reading import find_execution, require_workflow
from workflow_core.database.directory import DirectoryStore
from workflow_core.logs import LEVELS, event_line, parse_line
from workflow_core.views.execution_view import read_view
from workflow_core.views.json_text import json_text
from workflow_core.views.log_reading import GrowingFiles, LogFilter, daily_logs, line_data
from workflow_core.views.overviews import known_workflows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from workflow_core.database.store import ExecutionRecord
    from workflow_core.engine import WorkflowEngine
    from workflow_core.logs import Level
    from workflow_core.views.log_reading import Shown

__all__ = ["command"]

_READ_EVERY_SECONDS = 0.25
_COLOURS = {"debug": "bright_black", "info": None, "warn": "yellow", "error": "red"}


@make_command(
    "logs",
    examples="""
workflow logs
workflow logs order --since 10m --level warn
workflow logs order --since 2026-11-26T08:30 --lines 1000
workflow logs --execution order-1001 --follow
workflow logs order --format json | jq 'select(.step == "charge")'
""",
)
@click.argument("workflow", required=False, shell_complete=complete_workflows)
@click.option("--execution", "-e", metavar="ID", shell_complete=complete_executions, help="The log of one execution.")
@click.option("--since", metavar="WHEN", help="From a moment on: 30s, 10m, 2h, 7d ago, or 2026-11-26T08:30.")
@click.option(
    "--level",
    "-l",
    type=click.Choice(list(LEVELS)),
    default="debug",
    show_default=True,
    help="Least important level that is shown.",
)
@click.option(
    "--lines", "-n", type=click.IntRange(min=0), help="At most the last so many.  [default: 100; all with --since]"
)
@click.option("--follow", is_flag=True, help="Go on with what is logged; that of an execution ends with it.")
@FORMAT_OPTION
@click.pass_obj
def command(
    invocation: Invocation,
    workflow: str | None,
    execution: str | None,
    since: str | None,
    level: Level,
    lines: int | None,
    follow: bool,  # noqa: FBT001 - click passes options by name
    output_format: str,
) -> None:
    """Show the log of a workflow, of all workflows, or of one execution, as lines of key=value, or as JSON lines.

    If an execution has no log file, its log is made of its stored history. With PostgreSQL there are no log files: name
    the execution, and see what processes log in their own output.
    """
    with invocation.engine() as engine:
        record = _execution(invocation, engine, workflow, execution)
        names = [workflow] if workflow else invocation.run(known_workflows(engine))
        moment = None if since is None else moment_of(since, engine.clock.now())
        wanted = LogFilter(moment, level, record.execution_id if record else None)
        most = lines if lines is not None else None if since is not None or record is not None else 100
        show = _json_line if output_format == "json" else _line
        layout = engine.bare_store.layout if isinstance(engine.bare_store, DirectoryStore) else None

        def paths() -> list[Path]:
            if layout is None:
                return []
            if record is not None:
                return [layout.execution_log(record.workflow_name, record.execution_id)]
            return daily_logs(layout, names, moment)

        if layout is None and record is None:
            hint = command_line(invocation, "logs", "--execution", "ID", with_app=False)
            raise Failure(
                f"Log files lie in a runtime directory, and the state is in {engine.bare_store.location()}: "
                f'"{hint}" shows the stored history of an execution; what processes log, such as workers, is on their '
                "stderr, and more of it with LOG_LEVEL=info",
                USAGE,
            )
        found = paths()
        if record is not None and not any(path.exists() for path in found):
            _show_history(invocation, engine, record, wanted, most, show, follow=follow)
            return
        growing = GrowingFiles(wanted)
        shown = growing.lines_so_far(found, most)
        _print(shown, show)
        if not shown and not follow and not invocation.quiet:
            announce("No log lines.")
        if follow:
            invocation.run(_follow(engine, record, lambda: growing.new_lines(paths()), show))


def _execution(
    invocation: Invocation, engine: WorkflowEngine, workflow: str | None, execution: str | None
) -> ExecutionRecord | None:
    """Return the execution whose log is wanted, if one is; say so if there is no such execution or workflow."""
    if execution is None:
        if workflow is not None:
            invocation.run(require_workflow(engine, workflow))
        return None
    record = invocation.run(find_execution(engine, execution))
    if workflow not in {None, record.workflow_name}:
        raise Failure(f'Execution "{record.execution_id}" is one of workflow "{record.workflow_name}"', USAGE)
    return record


def _line(shown: Shown) -> str:
    line, text = shown
    colour = _COLOURS[line.level]
    return text if colour is None else styled(text, fg=colour)


def _json_line(shown: Shown) -> str:
    line, _ = shown
    return json_text(line_data(line))


def _print(lines: Iterable[Shown], show: Callable[[Shown], str]) -> None:
    for shown in lines:
        print_line(show(shown))
    sys.stdout.flush()


async def _follow(
    engine: WorkflowEngine,
    record: ExecutionRecord | None,
    new_lines: Callable[[], Sequence[Shown]],
    show: Callable[[Shown], str],
) -> None:
    """Print what is added, until the execution is at rest."""
    while True:
        ends = record is not None and (await read_view(engine, record.execution_id)).at_rest
        if ends:
            await asyncio.sleep(_READ_EVERY_SECONDS)  # what was noted last is in the file by then
        _print(new_lines(), show)
        if ends:
            return
        await asyncio.sleep(_READ_EVERY_SECONDS)


def _show_history(
    invocation: Invocation,
    engine: WorkflowEngine,
    record: ExecutionRecord,
    wanted: LogFilter,
    most: int | None,
    show: Callable[[Shown], str],
    *,
    follow: bool,
) -> None:
    """Make the log of an execution of its stored history."""
    execution_id, workflow, known = record.execution_id, engine.store.workflow(record.workflow_name), 0
    if not invocation.quiet:
        announce("There is no log file of this execution; this is its stored history")

    async def new_lines() -> list[Shown]:
        nonlocal known
        found: list[Shown] = []
        for event in await workflow.load_events(record.workflow_name, execution_id, known):
            known = event.seq
            text = event_line(event)
            line = parse_line(text)
            if line is not None and wanted.admits(line):
                found.append((line, text.rstrip("\n")))
        return found

    async def show_all() -> None:
        first = await new_lines()
        _print(first if most is None else first[len(first) - most :] if most else [], show)
        while follow:
            ends = (await read_view(engine, execution_id)).at_rest
            _print(await new_lines(), show)
            if ends:
                return
            await asyncio.sleep(_READ_EVERY_SECONDS)

    invocation.run(show_all())
