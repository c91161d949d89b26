"""How commands that run or follow an execution end: the last picture, its output, and the exit code."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from workflow_core.cli.display import console, picture
from workflow_core.cli.failures import FAILED, Failure
from workflow_core.cli.hints import command_line
from workflow_core.cli.output import Signs, is_terminal, print_json, print_line
from workflow_core.cli.texts import one_line, visible
from workflow_core.models import ErrorInfo
from workflow_core.views.execution_data import execution_data
from workflow_core.views.json_text import json_text

if TYPE_CHECKING:
    from workflow_core.cli.invocation import Invocation
    from workflow_core.models import ExecutionResult
    from workflow_core.views.execution_view import ExecutionView

__all__ = ["announce", "raise_for_status", "show_ending", "show_picture"]


def show_picture(view: ExecutionView) -> None:
    """Print an execution with all its steps."""
    target = console()
    if not target.is_terminal:
        target.width = 200
    target.print(picture(view, Signs(), view.read_at))


def show_ending(invocation: Invocation, result: ExecutionResult, view: ExecutionView, output_format: str) -> None:
    """Print what came of an execution, and end the command with its exit code.

    Raises:
        Failure: It did not complete.
    """
    if output_format == "json":
        print_json(execution_data(result, view))
    elif invocation.quiet:
        print_line(result.status)
    else:
        if not is_terminal():
            print_line()  # after the lines of the events
        show_picture(view)
        if result.output is not None:
            text = json_text(result.output, indent=2)
            print_line(f"\nOutput: {visible(text)}")
    raise_for_status(invocation, view)


def raise_for_status(invocation: Invocation, view: ExecutionView) -> None:
    """End the command with the exit code of an execution, and say what can be done about it.

    Raises:
        Failure: It did not complete.
    """
    record = view.record
    if record.status == "completed":
        return
    name = f'Execution "{record.execution_id}"'
    if view.interrupted:
        hint = command_line(invocation, "resume", record.execution_id)
        raise Failure(f'{name} was interrupted and nobody runs it; "{hint}" goes on with it', FAILED)
    if record.status == "cancelled":
        raise Failure(f"{name} was cancelled", FAILED)
    if view.is_unserved and view.dispatch is not None:
        hint = command_line(invocation, "worker", "--queue", view.dispatch.queue)
        raise Failure(f'{name} waits for a worker, and none serves its queue; "{hint}" begins one', FAILED)
    if not view.at_rest:
        raise Failure(f"{name} is {record.status}", FAILED)
    hint = command_line(invocation, "restart", record.execution_id)
    raise Failure(f'{name} {record.status}{_reason(view)}; "{hint}" runs it again, completed steps are kept', FAILED)


def _reason(view: ExecutionView) -> str:
    return f": {one_line(ErrorInfo.model_validate_json(view.record.error_data))}" if view.record.error_data else ""


def announce(text: str) -> None:
    """Say something to a reader on stderr."""
    click.echo(visible(text), err=True)
