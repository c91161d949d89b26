"""The page docs/cli_reference.md, made of what each command says of itself.

`python -m tests.docs.cli_reference` writes it anew, and `make docs` does, too; tests/docs/test_cli_reference.py fails
when it is stale.
"""

import inspect
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import click

from workflow_core.cli.application import workflow

PAGE = Path(__file__).parents[2] / "docs" / "cli_reference.md"
INTRODUCTION = """\
<!-- made by tests/docs/cli_reference.py: change what the commands say of themselves, then `make docs` -->
# Commands

Every command with its options, as `workflow COMMAND --help` shows them in a terminal. [Command line](cli.md) tells how
they go together: a session to paste, where workflows come from, scripts, exit codes. A first example:

"""
CODE = re.compile(r'"(workflow [a-z ]+)"|(--[a-z][\w-]*(?: [A-Z]+)?|\$?[A-Z]+_[A-Z_]+(?:=\w+)?|~/\.workflow)\b')
"""What is code in the sentences of the commands, which know no mark-up."""
SPECIAL = re.compile(r"([\\`*_\[\]<>|#$])")


def marked_up(text: str) -> str:
    """Return a sentence of a command as Markdown."""
    pieces, end = [], 0
    for found in CODE.finditer(text):
        pieces += [SPECIAL.sub(r"\\\1", text[end : found.start()]), f"`{found[1] or found[2]}`"]
        end = found.end()
    return "".join([*pieces, SPECIAL.sub(r"\\\1", text[end:])])


def table(head: tuple[str, str], rows: list[tuple[str, str]]) -> str:
    lines = [head, ("---", "---"), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines) + "\n"


def code(text: str) -> str:
    """Return a text as code in a cell."""
    return f"`{text.replace('|', chr(92) + '|')}`"


def block(language: str, text: str) -> str:
    return f"```{language}\n{text.strip()}\n```\n"


def paragraphs(text: str) -> list[str]:
    return [paragraph for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(text)) if paragraph.strip()]


def epilog(command: click.Command) -> dict[str, str]:
    """Return the parts of a command's epilog, such as ``Examples``, by their headings."""
    parts = re.split(r"^\x08\n", command.epilog or "", flags=re.MULTILINE)
    found = (part.partition(":\n") for part in parts if part.strip())
    return {heading: inspect.cleandoc(content.rstrip()) for heading, _, content in found}


def commands(context: click.Context) -> Iterator[click.Context]:
    """Return a command and all that are below it, in the order of the overviews."""
    yield context
    if isinstance(context.command, click.Group):
        for name in context.command.list_commands(context):
            command = context.command.get_command(context, name)
            assert command is not None
            below = click.Context(command, parent=context, info_name=name, **command.context_settings)
            if not command.hidden:
                yield from commands(below)


def root() -> click.Context:
    return click.Context(workflow, info_name="workflow", **workflow.context_settings)


def options(context: click.Context, shared: frozenset[str] = frozenset()) -> list[tuple[str, str]]:
    """Return the rows of a command's options, without those whose names are shared by all commands."""
    rows = []
    for parameter in context.command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None and record[1] and parameter.name not in shared:
            rows.append((code(record[0]), marked_up(re.sub(r"\s{2,}", " ", record[1]))))
    return rows


def overview(below: Iterable[click.Context]) -> str:
    """Return the table of commands, each with what the overview of its group says of it."""
    rows = [(f"[`{each.command_path}`](#{each.command_path.replace(' ', '-')})", summary(each)) for each in below]
    return table(("command", "what it does"), rows)


def summary(context: click.Context) -> str:
    """Return what the overview of a group says of one of its commands, and what else that is called."""
    group = context.parent
    formatter = click.HelpFormatter(width=400)
    group.command.format_commands(group, formatter)
    found = re.search(rf"^  {re.escape(context.info_name)}(?:, (\w+))? +(.*)$", formatter.getvalue(), re.MULTILINE)
    assert found is not None, f"{context.command_path} says nothing of itself"
    also = f" Also `{group.command_path} {found[1]}`." if found[1] else ""
    return marked_up(found[2]) + also


def section(context: click.Context, shared: frozenset[str]) -> str:
    """Return what the page says of one command."""
    command = context.command
    _, _, usage = command.get_usage(context).partition(" ")
    parts = [f"## {context.command_path}\n"]
    parts += [f"{marked_up(' '.join(each.split()))}\n" for each in paragraphs(command.help or "")]
    parts.append(block("text", " ".join(usage.split())))
    if isinstance(command, click.Group):
        parts.append(overview(each for each in commands(context) if each.parent is context))
    if rows := options(context, shared):
        parts.append(table(("option", "what it does"), rows))
    for heading, content in epilog(command).items():
        language = "bash" if heading == "Examples" else "text"
        parts.append(f"{heading}:\n\n{block(language, content)}")
    return "\n".join(parts)


def reference() -> str:
    """Return the whole page."""
    top = root()
    below = [each for each in commands(top) if each.parent]
    of_all = [parameter.name for parameter in workflow.get_params(top) if parameter.name != "version"]
    parts = [
        INTRODUCTION + block("bash", epilog(workflow)["Examples"]),
        overview(below),
        "## Options of every command\n\nBefore or after the command's name:\n",
        table(("option", "what it does"), options(top, frozenset({"version"}))),
        *(section(each, frozenset(of_all)) for each in below),
    ]
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(reference(), encoding="utf-8")
