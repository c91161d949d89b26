"""What all commands share: their common options, the engine that these mean, and the run of asynchronous code."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from workflow_core.cli.failures import FAILED, STORAGE, USAGE, Failure

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from workflow_core.cli.loading import App
    from workflow_core.engine import WorkflowEngine

__all__ = ["Command", "Invocation", "make_command", "shared_options"]

ResultT = TypeVar("ResultT")
FunctionT = TypeVar("FunctionT", bound="Callable[..., Any]")


@dataclass
class Invocation:
    """One call of the command.

    Attributes:
        directory: The runtime directory; ``None`` means ``$WORKFLOW_DIR`` or ``~/.workflow``.
        app: What defines workflows, as ``module`` or ``module:attribute``.
        quiet: Print ids, names and statuses alone.
        hides_database: Whether WORKFLOW_DATABASE_URL is set, and ``directory`` goes before it.
    """

    directory: Path | None = None
    app: str | None = None
    quiet: bool = False
    hides_database: bool = field(default=False, init=False)

    @contextlib.contextmanager
    def engine(self, *, runs_workflows: bool = False, imports_app: bool = False) -> Iterator[WorkflowEngine]:
        """Make the engine that the options mean, current in the ``with`` block.

        Args:
            runs_workflows: Import the app and define its workflows, and those that were made by ``create``. Without it
                the app is imported only if it names an attribute, which may be an engine with a store of its own.
            imports_app: Import the app, for the step types that it registers, without the workflows made by ``create``.

        Raises:
            Failure: The app cannot be imported.
        """
        from workflow_core.cli.loading import App, find_app, load_app  # noqa: PLC0415 - not for help and completion
        from workflow_core.database.directory import DirectoryStore  # noqa: PLC0415
        from workflow_core.engine import WorkflowEngine  # noqa: PLC0415
        from workflow_core.settings import Settings, default_directory  # noqa: PLC0415

        with self._environment(), contextlib.ExitStack() as stack:
            found = find_app(self.app)
            own = WorkflowEngine(settings=Settings(recover_on_start=False))
            stack.callback(own.close)
            stack.enter_context(own.activate())
            app = App(None)
            if found is not None and (runs_workflows or imports_app or found.attribute is not None):
                app = load_app(found)
            engine = app.engine or own
            if app.engine is not None:
                self._check_directory(app)
                stack.callback(engine.close)
                stack.enter_context(engine.activate())
            if (
                isinstance(engine.bare_store, DirectoryStore)
                and engine is own
                and (directory := default_directory()).is_file()
            ):
                raise Failure(f"{directory} is a file; set WORKFLOW_DIR to a directory", STORAGE)
            if runs_workflows:
                from workflow_core.interception import patiently  # noqa: PLC0415 - not for help and completion
                from workflow_core.views.saved import define_saved_workflows  # noqa: PLC0415

                async def define() -> None:
                    define_saved_workflows(engine)

                self.run(patiently(engine.store, define))
            with self._hidden_database_named():
                yield engine

    @contextlib.contextmanager
    def _environment(self) -> Iterator[None]:
        """Let engines that the user's modules make follow ``--directory``, and configure the log of this process."""
        from workflow_core.cli.logging_setup import log_to_stderr  # noqa: PLC0415 - not for help and completion

        before = {name: os.environ.get(name) for name in ("WORKFLOW_DIR", "WORKFLOW_DATABASE_URL")}
        if self.directory is not None:
            os.environ["WORKFLOW_DIR"] = str(self.directory.absolute())
            self.hides_database = os.environ.pop("WORKFLOW_DATABASE_URL", None) is not None
        try:
            with log_to_stderr():
                yield
        finally:
            for name, value in before.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value

    @contextlib.contextmanager
    def _hidden_database_named(self) -> Iterator[None]:
        """Where PostgreSQL is needed, and is named but for ``--directory``, say that."""
        from workflow_core.database.dispatch import NoWorkersError  # noqa: PLC0415 - not for help and completion

        try:
            yield
        except NoWorkersError:
            if not self.hides_database:
                raise
            raise Failure(
                f"Workers need PostgreSQL, which WORKFLOW_DATABASE_URL names, but --directory {self.directory} goes "
                "before it; leave it out",
                USAGE,
            ) from None

    def _check_directory(self, app: App) -> None:
        if self.directory is None or app.engine is None:
            return
        location = app.engine.store.location()
        if location != str(self.directory.absolute()):
            raise Failure(
                f"The engine of --app keeps its state in {location}, so --directory {self.directory} does not apply; "
                "leave it out",
                USAGE,
            )

    def run(self, work: Coroutine[Any, Any, ResultT], when_interrupted: Callable[[], str] | None = None) -> ResultT:
        """Run asynchronous code to its end; Ctrl-C and SIGTERM stop it in an orderly way.

        Args:
            work: What to run.
            when_interrupted: Says how to go on, for whoever stopped it.

        Raises:
            Failure: It was stopped, or a step ended the process.
        """
        from workflow_core.cli.interruption import Interrupted, run_stoppable  # noqa: PLC0415 - not for help

        try:
            return run_stoppable(work)
        except Interrupted as interrupted:
            text = when_interrupted() if when_interrupted is not None else ""
            raise Failure(f"Interrupted. {text}".strip(), interrupted.exit_code) from None
        except SystemExit as end:  # of a step or a workflow; its code would mean something else here
            text = when_interrupted() if when_interrupted is not None else ""
            what = f"The workflow's own code ended the process (exit code {end.code}). {text}"
            raise Failure(what.strip(), FAILED) from end


# The options that every command takes --------------------------------------------------------------------------------


def _remember(ctx: click.Context, parameter: click.Parameter, value: object) -> None:
    if value not in {None, False}:
        setattr(ctx.ensure_object(Invocation), str(parameter.name), value)


def _shared() -> list[click.Option]:
    return [
        click.Option(
            ["--directory", "-C"],
            type=click.Path(file_okay=False, path_type=Path),
            metavar="DIR",
            expose_value=False,
            callback=_remember,
            help="The runtime directory.  [default: $WORKFLOW_DIR, or ~/.workflow]",
        ),
        click.Option(
            ["--app", "-A"],
            metavar="MODULE[:ATTR]",
            expose_value=False,
            callback=_remember,
            help="The module that defines workflows.  [default: $WORKFLOW_APP, or app in [tool.workflow] of "
            "pyproject.toml]",
        ),
        click.Option(
            ["--quiet", "-q"],
            is_flag=True,
            expose_value=False,
            callback=_remember,
            help="Print ids, names and statuses alone.",
        ),
    ]


def shared_options(function: FunctionT) -> FunctionT:
    """Give a group the options that its commands take as well."""
    known: list[click.Option] = getattr(function, "__click_params__", [])
    function.__click_params__ = [*_shared()[::-1], *known]  # type: ignore[attr-defined]  # where click keeps them
    return function


class Command(click.Command):
    """A command that takes the shared options, before or after its name."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - click's own signature
        super().__init__(*args, **kwargs)
        self.params.extend(_shared())

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the command line; of an option that there is not, say which one may have been meant."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            meant = self._resembling(error.option_name.lstrip("-"))
            if not meant:
                raise
            named = " or ".join(f"'{option}'" for option in meant)
            raise click.UsageError(f"No such option '{error.option_name}'. Did you mean {named}?", ctx) from None

    def _resembling(self, name: str) -> list[str]:
        """Return the options that have a word of this name in theirs, or this name as one of their values."""
        words = set(name.split("-"))
        found = []
        for option in self.params:
            for each in option.opts if isinstance(option, click.Option) else ():
                if each.startswith("--") and words & set(each[2:].split("-")):
                    found.append(each)
                elif each.startswith("--") and isinstance(option.type, click.Choice) and name in option.type.choices:
                    found.append(f"{each} {name}")
        return found


def epilog_of(examples: str) -> str:
    """Return the end of a command's help: command lines, one a line."""
    lines = "\n".join(f"  {line}" for line in examples.strip().splitlines())
    return f"\b\nExamples:\n{lines}"


def make_command(name: str, *, examples: str) -> Callable[[Callable[..., Any]], click.Command]:
    """Make a command of a function.

    Args:
        name: What it is called.
        examples: Command lines, one a line, for its help.
    """
    return click.command(
        name,
        cls=Command,
        epilog=epilog_of(examples),
        context_settings={"help_option_names": ["-h", "--help"]},
    )
