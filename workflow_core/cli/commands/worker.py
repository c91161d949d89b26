"""`workflow worker`: runs executions that were handed to workers."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any, TypeVar

import click

from workflow_core.cli.failures import USAGE, Failure
from workflow_core.cli.invocation import Invocation, make_command
from workflow_core.cli.output import print_line
from workflow_core.cli.texts import workflows_text
from workflow_core.cluster.settings import WorkerSettings
from workflow_core.views.wording import took_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from workflow_core.cluster.worker import Worker
    from workflow_core.engine import WorkflowEngine

__all__ = ["command", "needs_queue"]

FunctionT = TypeVar("FunctionT", bound="Callable[..., Any]")


_SETTINGS = WorkerSettings.model_json_schema()["properties"]


def _option(name: str, *names_and_texts: str) -> Callable[[FunctionT], FunctionT]:
    """Make the option of a setting that is a number, with the setting's default and bounds.

    Args:
        name: Its name.
        names_and_texts: A short name, if it has one; what its value is called, and what it means.
    """
    *short, metavar, text = names_and_texts
    setting = _SETTINGS[f"{name}_ms" if metavar == "MS" else name]
    return click.option(
        f"--{name}",
        *short,
        type=click.IntRange(setting["minimum"], None if metavar == "MS" else setting["maximum"]),
        default=setting["default"],
        show_default=True,
        metavar=metavar,
        help=text,
    )


@make_command(
    "worker",
    examples="""
workflow worker --app shop
workflow worker --app shop --concurrency 50 --queue mail --queue default
workflow start order --app shop --input '{"item": "book"}' --queue default
workflow cluster status
""",
)
@_option("concurrency", "-c", "N", "How many executions to run at once.")
@click.option(
    "--queue",
    "-Q",
    "queues",
    multiple=True,
    default=WorkerSettings().queues,
    show_default=True,
    metavar="NAME",
    help="A queue to serve; can be given several times.",
)
@_option("grace", "MS", "How long running executions may go on after Ctrl-C or SIGTERM, in milliseconds.")
@_option("rest", "MS", "Let go of executions that wait for this long at least, in milliseconds.")
@_option("poll", "MS", "How often to look for work that was not announced, in milliseconds.")
@_option(
    "heartbeat", "MS", "How often to give a sign of life, in milliseconds; after three without one, others take over."
)
@click.pass_obj
def command(
    invocation: Invocation,
    concurrency: int,
    queues: tuple[str, ...],
    grace: int,
    rest: int,
    poll: int,
    heartbeat: int,
) -> None:
    """Run executions that were handed to workers, until Ctrl-C or SIGTERM.

    Any number of workers, on any number of machines, share the queues of one PostgreSQL database, which
    WORKFLOW_DATABASE_URL names. Executions come from `workflow start --queue` and Workflow.enqueue(). One that sleeps,
    backs off or waits for its restart leaves its place to others. A worker that is told to stop begins nothing new;
    what has not ended after --grace, or at a second signal, goes on in another worker, and so does what a worker that
    dies leaves. A database that is away is waited for, also when the worker begins.
    """
    needs_queue()
    from workflow_core.cli.interruption import Interrupted, run_until_stopped  # noqa: PLC0415 - not for help
    from workflow_core.cluster.worker import Worker  # noqa: PLC0415

    settings = WorkerSettings(
        queues=queues,
        concurrency=concurrency,
        grace_ms=grace,
        rest_ms=rest,
        poll_ms=poll,
        heartbeat_ms=heartbeat,
    )
    with invocation.engine(imports_app=True) as engine:
        worker = Worker(engine, settings)

        def work(stop: asyncio.Event) -> Any:  # noqa: ANN401 - a coroutine
            return _work(invocation, engine, worker, stop)

        try:
            run_until_stopped(work)
        except Interrupted as interrupted:
            raise Failure("Stopped at once; other workers go on with what ran.", interrupted.exit_code) from None


async def _work(invocation: Invocation, engine: WorkflowEngine, worker: Worker, stop: asyncio.Event) -> None:
    stopping = asyncio.create_task(_say_when_stopped(invocation, worker.settings, stop), name="workflow worker's news")
    try:
        if await worker.defined_saved(stop):
            if not engine.workflow_names():
                raise Failure(
                    "No workflow is defined here, so this worker could run none: name the module that defines them "
                    "with --app, or create one",
                    USAGE,
                )
            await worker.run(stop, lambda: _say(invocation, engine, worker.settings))
    finally:
        stopping.cancel()
        await engine.aclose()


async def _say_when_stopped(invocation: Invocation, settings: WorkerSettings, stop: asyncio.Event) -> None:
    await stop.wait()
    if not invocation.quiet:
        print_line(
            f"Stopping: nothing new is begun, and what runs has {took_text(settings.grace_ms)} to end before it is "
            "given to other workers  (a second signal stops it at once)"
        )
        sys.stdout.flush()


def _say(invocation: Invocation, engine: WorkflowEngine, settings: WorkerSettings) -> None:
    if invocation.quiet:
        return
    what = workflows_text(engine.workflow_names())
    queues = ", ".join(settings.queues)
    print_line(
        f"Working on {what} from {'queues' if len(settings.queues) != 1 else 'queue'} {queues}, up to "
        f"{settings.concurrency} at once, of {engine.bare_store.location()}  (Ctrl-C stops it)"
    )


def needs_queue() -> None:
    """Say so if what workers need is not installed.

    Raises:
        Failure: It is not.
    """
    try:
        import procrastinate  # noqa: F401, PLC0415 - only these commands need them
        import psycopg  # noqa: F401, PLC0415
    except ModuleNotFoundError as error:
        raise Failure(
            f'Workers need "{error.name}"; install it with: pip install "pytest-workflow-core[postgres]"', USAGE
        ) from None
