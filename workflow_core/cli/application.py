"""The command with its subcommands, none of which is imported before it is asked for."""

from __future__ import annotations

import importlib
import os
import sys
import threading
from typing import TYPE_CHECKING, NamedTuple, cast

import click

from workflow_core.cli.failures import INTERRUPTED, TERMINATED, did_you_mean, failure_of
from workflow_core.cli.invocation import Invocation, shared_options
from workflow_core.cli.streams import prepare_streams

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["COMMANDS", "Application", "run", "workflow"]


class _Entry(NamedTuple):
    """Where a command is, and what the overview says of it."""

    module: str
    summary: str


COMMANDS: dict[str, _Entry] = {
    "list": _Entry("list_workflows", "List all workflows."),
    "create": _Entry("create", "Create a new workflow."),
    "start": _Entry("start", "Start a workflow execution and follow it to its end."),
    "status": _Entry("status", "Check workflows and executions; --follow watches one live."),
    "logs": _Entry("logs", "Show the log of a workflow or of one execution."),
    "inspect": _Entry("inspect_execution", "Show everything known of an execution, with its timeline."),
    "resume": _Entry("resume", "Go on with a sleeping or interrupted execution."),
    "restart": _Entry("restart", "Run a panicked or failed execution again."),
    "cancel": _Entry("cancel", "Cancel an execution, wherever it runs."),
    "recover": _Entry("recover", "Take over all interrupted executions and run them to rest."),
    "cleanup": _Entry("cleanup", "Clean up old executions and databases."),
    "serve": _Entry("serve", "Serve the API and the dashboard."),
    "dev": _Entry("dev", "Serve while you write: start again on each change of the code."),
    "worker": _Entry("worker", "Run executions that were handed to workers, until Ctrl-C or SIGTERM."),
    "cluster": _Entry("cluster", "Look at the workers of a PostgreSQL database, and at the queues that they serve."),
    "backup": _Entry("backup", "Copy the runtime directory while workflows run."),
    "completion": _Entry("completion", "Print the script that completes this command in a shell."),
}
"""The commands in the order of the overview."""

_ALIASES = {"ls": "list"}

EXAMPLES = """\b
Examples:
  workflow list
  workflow start order --app shop --input '{"item": "book"}'
  workflow status order-1001 --follow
  workflow status --workflow order --format json | jq '.[].status'
  workflow COMMAND --help

\b
Environment:
  WORKFLOW_DIR   the runtime directory (~/.workflow)
  WORKFLOW_DATABASE_URL
                 postgresql://user:password@host/database, instead of a
                 runtime directory; --directory goes before it
  WORKFLOW_APP   the module that defines workflows, as --app
  LOG_LEVEL      debug, info, warn or error: what is logged on stderr
                 (warn, and info for what workflows log themselves)
  NO_COLOR       no colours if it is set

\b
Exit codes:
  0 done, 1 the workflow failed or was cancelled, 2 usage, 3 not found,
  4 storage, 70 a mistake in this command, 130 interrupted
"""


class Application(click.Group):
    """A group that imports a command when it is called, and turns errors into one line and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands, in the order of the overview."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        del ctx
        entry = COMMANDS.get(_ALIASES.get(cmd_name, cmd_name))
        if entry is None:
            return None
        return cast("click.Command", importlib.import_module(f"workflow_core.cli.commands.{entry.module}").command)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or say which one may have been meant."""
        name = args[0]
        if self.get_command(ctx, name) is None and not ctx.resilient_parsing and not name.startswith("-"):
            ctx.fail(f'There is no command "{name}"' + (did_you_mean(name, [*COMMANDS, *_ALIASES]) or "."))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the overview without importing the commands."""
        del ctx
        names = {name: alias for alias, name in _ALIASES.items()}
        rows = [
            (f"{name}, {names[name]}" if name in names else name, entry.summary) for name, entry in COMMANDS.items()
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def invoke(self, ctx: click.Context) -> object:
        """Run a command; an error becomes one line and its exit code."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except KeyboardInterrupt:
            raise failure_of(KeyboardInterrupt()) from None
        except Exception as error:
            raise failure_of(error) from error


def _print_version(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:  # noqa: FBT001 - click's order
    del parameter
    if value and not ctx.resilient_parsing:
        from importlib.metadata import version  # noqa: PLC0415 - for this option alone

        click.echo(f"workflow {version('pytest-workflow-core')}")
        ctx.exit()


@click.command(cls=Application, epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=_print_version, help="Show the version."
)
@shared_options
def workflow() -> None:
    """Manage durable workflows and watch their executions."""


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command, and return its exit code."""
    prepare_streams()
    code = _run(arguments)
    waited_for = [thread for thread in threading.enumerate() if thread is not threading.main_thread()]
    interruption = sys.modules.get("workflow_core.cli.interruption")
    stopped = interruption is not None and interruption.was_stopped()
    if (stopped or code in {INTERRUPTED, TERMINATED}) and any(not thread.daemon for thread in waited_for):
        # A step that blocks in a thread would keep an interrupted command for as long as it likes.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _run(arguments: Sequence[str] | None) -> int:
    try:
        workflow.main(args=None if arguments is None else list(arguments), prog_name="workflow", obj=Invocation())
    except KeyboardInterrupt:  # before a command began
        return INTERRUPTED
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    return 0
