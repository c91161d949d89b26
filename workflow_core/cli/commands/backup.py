"""`workflow backup`: copies the runtime directory while workflows run."""

from __future__ import annotations

from pathlib import Path

import click

from workflow_core.cli.invocation import Invocation, make_command
from workflow_core.cli.output import FORMAT_OPTION, Signs, print_json, print_line

__all__ = ["command"]


@make_command(
    "backup",
    examples="""
workflow backup /backups/workflow-2026-11-26
workflow backup "/backups/$(date +%F)" --quiet
""",
)
@click.argument("target", metavar="DIR", type=click.Path(file_okay=False, path_type=Path))
@FORMAT_OPTION
@click.pass_obj
def command(invocation: Invocation, target: Path, output_format: str) -> None:
    """Copy the runtime directory to DIR while workflows run; DIR must not exist, or be empty.

    The copy is complete or is not there. It is a runtime directory itself: --directory DIR reads it, and "workflow
    recover" goes on in it with what was under way.
    """
    with invocation.engine() as engine:
        copied: list[int] = []

        def note(_done: int, total: int) -> None:
            copied[:] = [total]

        path = invocation.run(engine.backup(target, note))
        source = engine.store.location()
    if output_format == "json":
        print_json({"source": source, "backup": str(path), "workflows": sum(copied)})
    elif invocation.quiet:
        print_line(str(path))
    else:
        print_line(f"{Signs().of('completed')} Copied {source}")
        print_line(f"   to {path}")
        print_line(f"   Workflows: {sum(copied)}")
