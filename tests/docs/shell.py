"""Commands that pages show without their output: whether each would be understood, without running any.

A command of ours is parsed as the program itself would, so a command, an option or a kind of value that there is not is
found. What installs, imports or runs a file is held against what can be installed, imported or run.
"""

import re
import shlex
import tomllib
from collections.abc import Collection, Iterator
from importlib.util import find_spec
from pathlib import Path

import click

from workflow_core.cli.application import workflow
from workflow_core.cli.invocation import Invocation

ROOT = Path(__file__).parents[2]
OPERATORS = re.compile(r"[;&|()<>]+")
REDIRECTION = re.compile(r"[<>]+")
ASSIGNMENT = re.compile(r"(\w+)=.*")
OUR_COMMAND = re.compile(r"^.*/bin/(?=workflow )")
"""What stands before a command in the table of cron or the unit of a service."""
OF_OTHERS = {"cat", "cd", "curl", "echo", "export", "find", "jq", "mkdir", "psql", "source"}
"""Programs of others, of which nothing is known here."""
OF_PYTHON = {"python", "python3"}
OF_XARGS = ["-r", "-n", "1"]
"""What it is given, before a command that it adds one word to."""


def lines(content: str) -> Iterator[str]:
    """Return the lines of a block of shell: a here-document is none, and a continued line is one."""
    without = re.sub(r"(<<'(\w+)')\n.*?^\2$", "", content, flags=re.MULTILINE | re.DOTALL)
    for line in without.replace("\\\n", " ").splitlines():
        yield line.removeprefix("$ ")


def commands(line: str) -> Iterator[list[str]]:
    """Return the commands of a line, each as its words, without what redirects it and the variables before it."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[str] = []
    redirected = False
    for word in [*lexer, ";"]:
        if REDIRECTION.fullmatch(word):
            redirected = True
        elif OPERATORS.fullmatch(word):
            if words:
                yield words
            words = []
        elif redirected:
            redirected = False
        elif words or not ASSIGNMENT.fullmatch(word):
            words.append(word)


def parse(words: list[str]) -> None:
    """Parse a call of `workflow`, as far as to the moment at which it would run.

    Raises:
        click.UsageError: The command would refuse it.
    """
    if "COMMAND" in words:
        return
    command: click.Command = workflow
    name, rest, parent = "workflow", words, None
    try:
        while True:
            context = command.make_context(name, list(rest), parent=parent, obj=Invocation())
            if not isinstance(command, click.Group):
                return
            named = vars(context).get("_protected_args") or vars(context).get("protected_args", [])  # of click 8.1
            found, below, rest = command.resolve_command(context, [*named, *context.args])
            assert found is not None
            assert below is not None
            name, command, parent = found, below, context
    except click.exceptions.Exit:
        return  # --help, --version


def extras() -> Collection[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project["optional-dependencies"].keys()


def targets() -> Collection[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def of_workflow(words: list[str]) -> Iterator[str]:
    try:
        parse(words)
    except click.UsageError as error:
        if "does not exist" not in error.message:  # a file of the reader's
            yield error.format_message()


def of_pytest(words: list[str], files: Collection[str], options: Collection[str]) -> Iterator[str]:
    given = {word.partition("=")[0] for word in words if word.startswith("--workflow-")}
    yield from (f"pytest has no {option}" for option in sorted(given - {*options}))
    yield from of_paths([word.partition("::")[0] for word in words], files)


def of_pip(words: list[str]) -> Iterator[str]:
    asked = re.findall(r"pytest-workflow-core\[([\w,-]+)\]", " ".join(words))
    named = {name for each in asked for name in each.split(",")}
    yield from (f"there is no extra {name}" for name in sorted(named - extras()))


def of_make(words: list[str]) -> Iterator[str]:
    named = {word for word in words if re.fullmatch(r"[a-z-]+", word)}
    yield from (f"make has no {name}" for name in sorted(named - targets()))


def of_paths(words: list[str], files: Collection[str]) -> Iterator[str]:
    paths = [word for word in words if re.fullmatch(r"[\w./-]+\.py", word)]
    yield from (f"there is no {path}" for path in paths if path not in files and not (ROOT / path).exists())


def of_modules(name: str, files: Collection[str]) -> Iterator[str]:
    if f"{name}.py" not in files and find_spec(name.partition(".")[0]) is None:
        yield f"there is no module {name}"


def mistakes(line: str, files: Collection[str], options: Collection[str]) -> Iterator[str]:
    """Return what is wrong with the commands of a line.

    Args:
        line: Of a shell.
        files: Names of the files that the reader has; paths of this project count as well.
        options: The options of the plugin.
    """
    for words in commands(line):
        program, *rest = behind_wrappers(words)
        if program == "workflow":
            yield from of_workflow(rest)
        elif program == "pytest":
            yield from of_pytest(rest, files, options)
        elif program == "pip":
            yield from of_pip(rest)
        elif program == "make":
            yield from of_make(rest)
        elif program in OF_PYTHON:
            yield from of_modules(rest[1], files) if rest[:1] == ["-m"] else of_paths(rest[:1], files)
        elif program not in OF_OTHERS:
            yield f"{program} is not a known program"


def behind_wrappers(words: list[str]) -> list[str]:
    """Return a command as the program that decides: `python -m pytest` is `pytest`."""
    if words[0] == "xargs":
        return behind_wrappers([*words[1 + len(OF_XARGS) :], "ID"])
    if words[0] in {"opentelemetry-instrument", "watch"}:
        return behind_wrappers(words[1:])
    if words[0] in OF_PYTHON and words[1:2] == ["-m"] and words[2] in {"pytest", "pip"}:
        return words[2:]
    return words
