"""What goes wrong, as one line for people and an exit code for scripts."""

from __future__ import annotations

import os
import sys
import traceback
from typing import IO, TYPE_CHECKING, Any

import click

from workflow_core import suggestions
from workflow_core.cli.texts import visible

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "FAILED",
    "INTERRUPTED",
    "NOT_FOUND",
    "STORAGE",
    "TERMINATED",
    "USAGE",
    "Failure",
    "did_you_mean",
    "failure_of",
]

FAILED, USAGE, NOT_FOUND, STORAGE, INTERNAL, INTERRUPTED, TERMINATED = 1, 2, 3, 4, 70, 130, 143
"""The exit codes."""


class Failure(click.ClickException):
    """Ends the command with one line on stderr.

    Args:
        message: What is wrong and what to do about it.
        exit_code: The command's exit code.
        details: What is printed before that line, such as the traceback of a user's module.
    """

    def __init__(self, message: str, exit_code: int, details: str = "") -> None:
        super().__init__(visible(message))
        self.exit_code = exit_code  # type: ignore[misc]  # a class variable in click, which reads it of the instance
        self.details = details

    def show(self, file: IO[Any] | None = None) -> None:
        """Print it; with ``LOG_LEVEL=debug`` after the traceback of what caused it."""
        file = file or sys.stderr
        if os.environ.get("LOG_LEVEL", "").lower() == "debug" and self.__cause__ is not None and not self.details:
            click.echo(visible("".join(traceback.format_exception(self.__cause__))), file=file, nl=False)
        if self.details:
            click.echo(visible(self.details), file=file, nl=False)
        prefix = "" if self.exit_code in {INTERRUPTED, TERMINATED} else "Error: "
        click.echo(f"{prefix}{self.message}", file=file)


def failure_of(error: BaseException) -> Failure:
    """Return an error as the failure that it means to a user."""
    from workflow_core import errors  # noqa: PLC0415 - the overview needs no engine

    if isinstance(error, KeyboardInterrupt):
        return Failure("Interrupted.", INTERRUPTED)
    if isinstance(error, (errors.ExecutionNotFoundError, errors.WorkflowNotFoundError)):
        return Failure(str(error), NOT_FOUND)
    if isinstance(error, errors.StorageError):
        return Failure(str(error), STORAGE)
    if isinstance(error, (errors.ValidationError, errors.ExecutionConflictError, errors.InvalidStateError)):
        return Failure(str(error), USAGE)
    if isinstance(error, errors.WorkflowCoreError):
        return Failure(str(error), FAILED)
    if isinstance(error, OSError):
        name = f"{error.filename}: " if error.filename else ""
        return Failure(f"{name}{error.strerror or error}", STORAGE)
    text = f"{type(error).__name__}: {error}"
    return Failure(f"A mistake in this command: {text}; LOG_LEVEL=debug shows where", INTERNAL)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the end of a message about an unknown name, as a terminal may show it."""
    return visible(suggestions.did_you_mean(name, known))
