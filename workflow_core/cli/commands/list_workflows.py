"""`workflow list`: the workflows of the runtime directory, and those that the app defines."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from workflow_core.cli.invocation import Invocation, make_command
from workflow_core.cli.output import LISTING_FORMAT_OPTION, print_json, print_line, print_table
from workflow_core.cli.overview import raise_for_problems
from workflow_core.cli.texts import age_text
from workflow_core.views.overviews import Overview, read_overviews

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["command", "show_overviews"]


@make_command(
    "list",
    examples="""
workflow list
workflow list --status active
workflow list --format json | jq -r '.[].name'
workflow list --app shop
""",
)
@click.option("--status", "-s", type=click.Choice(["active", "inactive"]), help="Only workflows of this status.")
@LISTING_FORMAT_OPTION
@click.pass_obj
def command(invocation: Invocation, status: str | None, output_format: str) -> None:
    """List all workflows: those of the runtime directory, and those that the app defines."""
    with invocation.engine(runs_workflows=True) as engine:
        overviews = invocation.run(read_overviews(engine))
        place = engine.store.location()
    chosen = [each for each in overviews if status in {None, each.status}]
    show_overviews(invocation, chosen, output_format, place, "workflows" if status is None else f"{status} workflows")
    raise_for_problems(chosen)


def show_overviews(
    invocation: Invocation, overviews: Sequence[Overview], output_format: str, place: str, what: str
) -> None:
    """Print workflows, or that there are none of what was asked for in a place."""
    if output_format == "json":
        print_json([each.data() for each in overviews])
    elif invocation.quiet:
        for each in overviews:
            print_line(each.name)
    elif not overviews:
        print_line(f"No {what} found in {place}.")
    else:
        now = datetime.now(UTC)
        print_table(
            ["Name", "Status", "Executions", "Last execution", "Created", "Description"],
            [
                [
                    each.name,
                    each.status,
                    each.execution_count,
                    age_text(each.last_execution_at, now, "never"),
                    age_text(each.created_at, now),
                    each.description,
                ]
                for each in overviews
            ],
        )
