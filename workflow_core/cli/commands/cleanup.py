"""`workflow cleanup`: removes old executions."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import TYPE_CHECKING

import click

from workflow_core.cli.completing import complete_workflows
from workflow_core.cli.failures import STORAGE, Failure
from workflow_core.cli.invocation import Invocation, make_command
from workflow_core.cli.output import FORMAT_OPTION, print_json, print_line, print_table
from workflow_core.cli.reading import require_workflow
from workflow_core.cli.texts import moment_text
from workflow_core.report.sections import count
from workflow_core.retention import RESTING_STATUSES

if TYPE_CHECKING:
    from workflow_core.models import ExecutionStatus
    from workflow_core.retention import CleanupReport

__all__ = ["command"]

_KIBIBYTE = 1_024


def _number(ctx: click.Context, parameter: click.Parameter, value: float) -> float:
    """Refuse what is between no bounds, and so in any."""
    if math.isnan(value):
        raise click.BadParameter("nan is no number of days.", ctx, parameter)
    return value


@make_command(
    "cleanup",
    examples="""
workflow cleanup --older-than 7 --dry-run
workflow cleanup --older-than 30
workflow cleanup --status failed --older-than 7
workflow cleanup --workflow order --older-than 0.5 --format json
""",
)
@click.option(
    "--older-than",
    type=click.FloatRange(min=0, max=36_500),
    callback=_number,
    default=30,
    show_default=True,
    metavar="DAYS",
    help="Remove executions that came to rest more than so many days ago.",
)
@click.option(
    "--status", "-s", type=click.Choice(RESTING_STATUSES), help="Only remove executions with specific status."
)
@click.option(
    "--workflow", "-w", metavar="NAME", shell_complete=complete_workflows, help="Only remove executions of a workflow."
)
@click.option("--dry-run", is_flag=True, help="Show what would be removed without deleting.")
@FORMAT_OPTION
@click.pass_obj
def command(
    invocation: Invocation,
    older_than: float,
    status: ExecutionStatus | None,
    workflow: str | None,
    dry_run: bool,  # noqa: FBT001 - click passes options by name
    output_format: str,
) -> None:
    """Remove old executions with their steps, errors and logs, while workflows run.

    Only what is at rest is removed: completed, failed, cancelled, or panicked without a restart to come.
    """
    with invocation.engine() as engine:
        if workflow is not None:
            invocation.run(require_workflow(engine, workflow))
        report = invocation.run(
            engine.cleanup(timedelta(days=older_than), status, workflow, dry_run=dry_run),
            lambda: "What was removed stays removed; the same command goes on.",
        )
    if output_format == "json":
        print_json({**report.model_dump(mode="json"), "total": report.total})
    elif invocation.quiet:
        print_line(str(report.total))
    else:
        _show(report)
    if report.problems:
        raise Failure("\n".join(report.problems.values()), STORAGE)


def _show(report: CleanupReport) -> None:
    before = moment_text(report.before)
    if not report.total and not report.log_files:
        print_line(f"Nothing to remove: no execution came to rest before {before}.")
        return
    verb = "Would remove" if report.dry_run else "Removed"
    if report.removed:
        print_table(["Workflow", "Executions"], sorted(report.removed.items()))
        print_line()
    removed = f"{count(report.total, 'execution')} and {count(report.log_files, 'daily log file')}"
    print_line(f"{verb} {removed} from before {before}.")
    if not report.dry_run:
        print_line(f"{_size(report.bytes_freed)} given back, {_size(report.bytes_reusable)} free for new executions.")


def _size(size: int) -> str:
    value, units = float(size), ["bytes", "KiB", "MiB", "GiB"]
    while value >= _KIBIBYTE and len(units) > 1:
        value /= _KIBIBYTE
        units.pop(0)
    return f"{value:,.0f} {units[0]}" if units[0] == "bytes" else f"{value:,.1f} {units[0]}"
