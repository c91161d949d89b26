"""`workflow create`: writes a declarative workflow into the runtime directory."""

from __future__ import annotations

from pathlib import Path

import click

from workflow_core.cli.failures import USAGE, Failure
from workflow_core.cli.hints import command_line
from workflow_core.cli.invocation import Invocation, make_command
from workflow_core.cli.output import FORMAT_OPTION, Signs, print_json, print_line
from workflow_core.cli.texts import visible
from workflow_core.definitions import WorkflowDefinition, load_definition
from workflow_core.definitions.saving import create_workflow
from workflow_core.errors import ValidationError

__all__ = ["command"]


@make_command(
    "create",
    examples="""
workflow create my-workflow --description "My first workflow"
workflow create data-pipeline --file ./workflows/data-pipeline.json
workflow create test-workflow --file ./test.json --dry-run
""",
)
@click.argument("name")
@click.option("--description", "-d", metavar="TEXT", help="One line about the workflow.")
@click.option("--file", "-f", metavar="FILE", type=click.Path(), help="Load the definition from a JSON or YAML file.")
@click.option("--dry-run", is_flag=True, help="Validate without creating.")
@FORMAT_OPTION
@click.pass_obj
def command(
    invocation: Invocation,
    name: str,
    description: str | None,
    file: str | None,
    dry_run: bool,  # noqa: FBT001 - click passes options by name
    output_format: str,
) -> None:
    """Create a workflow that needs no code: its steps stand in a document.

    Without --file it gets one example step that logs a line. A workflow that exists is replaced; executions under way
    go on with the definition that they were started with. Step types of your own are those that the app registers.
    """
    with invocation.engine(imports_app=file is not None) as engine:
        definition = _definition(name, description, file)
        if dry_run:
            if output_format != "json" and not invocation.quiet:
                print_line("Workflow definition is valid:")
            if not invocation.quiet:
                print_json(definition.document())
            return
        written = invocation.run(create_workflow(engine, definition))
        location = engine.store.location(definition.name)
    if output_format == "json":
        print_json({"name": definition.name, "written": written, "database": location, "steps": len(definition.steps)})
    elif invocation.quiet:
        print_line(definition.name)
    else:
        what = "Created workflow" if written else "Workflow is there already, with the same definition"
        print_line(f"{Signs().of('completed')} {what}: {definition.name}")
        print_line(f"   Database: {location}")
        print_line(f"   Steps: {len(definition.steps)}")
        print_line(f"   Start it: {command_line(invocation, 'start', definition.name, with_app=False)}")


def _definition(name: str, description: str | None, file: str | None) -> WorkflowDefinition:
    try:
        if file is None:
            step = {"id": "example-step", "type": "log", "config": {"message": "Hello from workflow!"}}
            return load_definition({"name": name, "description": description or "", "steps": [step]})
        definition = load_definition(Path(file))
    except ValidationError as error:
        raise Failure(visible(error), USAGE) from None
    if definition.name != name:
        raise Failure(
            f'{file} defines the workflow "{definition.name}", not "{name}"; create it by that name, or change the '
            "name in the file",
            USAGE,
        )
    if description is not None:
        return load_definition({**definition.document(), "description": description})
    return definition
