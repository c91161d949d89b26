"""The reference of commands in docs/cli.md, made of what each command says of itself.

`python tests/docs/cli_reference.py` writes it anew; tests/docs/test_cli_reference.py fails when it is stale.
"""

from pathlib import Path

import click

from workflow_core.cli.application import COMMANDS, workflow

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"
BEGIN = "<!-- made by tests/docs/cli_reference.py from here on -->\n"
WIDTH = 100


def help_of(command, *names):
    context = None
    for name, each in zip(names, [workflow, command][: len(names)], strict=True):
        context = click.Context(each, parent=context, info_name=name, terminal_width=WIDTH, **each.context_settings)
    return "\n".join(line.rstrip() for line in context.get_help().splitlines())


def reference():
    parts = [f"### `workflow`\n\n```text\n{help_of(workflow, 'workflow')}\n```\n"]
    for name in COMMANDS:
        command = workflow.get_command(click.Context(workflow), name)
        parts.append(f"### `workflow {name}`\n\n```text\n{help_of(command, 'workflow', name)}\n```\n")
    return "\n".join(parts)


def renewed(text):
    return text[: text.index(BEGIN)] + BEGIN + "\n" + reference()


if __name__ == "__main__":
    PAGE.write_text(renewed(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
