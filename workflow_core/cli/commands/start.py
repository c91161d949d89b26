"""`workflow start`: starts an execution in this process, or joins the one that has the id."""

from __future__ import annotations

import json
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from workflow_core.cli.commands.worker import needs_queue
from workflow_core.cli.completing import complete_workflows
from workflow_core.cli.defined import require_defined
from workflow_core.cli.endings import announce, show_ending
from workflow_core.cli.failures import USAGE, Failure
from workflow_core.cli.follow import Follower, manner_for
from workflow_core.cli.hints import command_line
from workflow_core.cli.invocation import Invocation, make_command
from workflow_core.cli.output import FORMAT_OPTION, print_json, print_line, styled
from workflow_core.cli.running import run_to_rest
from workflow_core.cli.texts import visible
from workflow_core.database.dispatch import dispatching
from workflow_core.errors import ExecutionNotFoundError
from workflow_core.models import RetryConfig
from workflow_core.views.execution_data import execution_data
from workflow_core.views.execution_view import ExecutionView, read_view
from workflow_core.views.json_text import json_text

if TYPE_CHECKING:
    from workflow_core.engine import WorkflowEngine

__all__ = ["command"]

_LONGEST_INPUT = 200


@make_command(
    "start",
    examples="""
workflow start my-workflow
workflow start data-pipeline --input '{"source": "database", "target": "s3"}'
workflow start data-pipeline --input-file ./input.json
workflow start my-workflow --max-retries 5 --retry-delay 2000
workflow start order --app shop --execution-id order-1001
workflow start order --app shop --queue default --priority 5
echo '{"n": 1}' | workflow start order --input-file - --format json | jq .output
""",
)
@click.argument("workflow", shell_complete=complete_workflows)
@click.option("--input", "-i", "input_text", metavar="JSON", help="Input data as a JSON string.  [default: {}]")
@click.option(
    "--input-file",
    "-f",
    metavar="FILE",
    type=click.Path(allow_dash=True),
    help="Load the input from a JSON file; - is stdin.",
)
@click.option("--execution-id", metavar="ID", help="Name the execution, a business id for example.  [default: a UUID]")
@click.option(
    "--max-retries",
    type=click.IntRange(1, 10),
    help="Attempts of each step, the first one included.  [default: the workflow's own, else 3]",
)
@click.option(
    "--retry-delay",
    type=click.IntRange(min=0),
    metavar="MS",
    help="Wait before the second attempt, in milliseconds; it doubles after each further one.  "
    "[default: the workflow's own, else 1000]",
)
@click.option("--timeout", type=click.IntRange(min=1), metavar="MS", help="Longest duration, in milliseconds.")
@click.option(
    "--queue",
    metavar="NAME",
    help="Hand it to the workers of this queue, with PostgreSQL, instead of running it here; see `workflow worker`.",
)
@click.option(
    "--priority",
    type=int,
    metavar="N",
    help="With --queue: a greater number is begun first, up to 1000000.  [default: 0]",
)
@FORMAT_OPTION
@click.pass_obj
def command(
    invocation: Invocation,
    workflow: str,
    input_text: str | None,
    input_file: str | None,
    execution_id: str | None,
    max_retries: int | None,
    retry_delay: int | None,
    timeout: int | None,
    queue: str | None,
    priority: int | None,
    output_format: str,
) -> None:
    """Start a workflow execution in this process, and follow it to its end.

    An id that is in use is joined: an execution that ended shows its stored result, one that another process runs is
    followed, one that was interrupted goes on. Ctrl-C stops it so that it can be resumed. With --queue it is handed to
    workers instead, and the command returns at once.
    """
    given = _read_input(input_text, input_file)
    if priority is not None and queue is None:
        raise Failure("--priority means something only with --queue", USAGE)
    with invocation.engine(runs_workflows=True) as engine:
        existing = None
        if execution_id is not None:
            existing = invocation.run(_existing(engine, execution_id))
        handed_over = queue is not None and _queue_of(existing) is not None
        if existing is not None and (existing.at_rest or not (existing.interrupted or handed_over)):
            _join(invocation, engine, existing, workflow, given, output_format)
            return
        invocation.run(require_defined(invocation, engine, workflow))
        retry = _retry_config(engine.definition(workflow).retry_config, max_retries, retry_delay)
        name = execution_id or str(uuid.uuid4())
        if existing is not None and not handed_over:
            announce(f'Execution "{name}" was interrupted; it goes on where it was')
        value = _value(invocation, engine, name, given, stored=handed_over)
        if queue is not None:
            _enqueue(invocation, engine, workflow, name, value, retry, timeout, queue, priority or 0, output_format)
            return

        async def begin() -> None:
            if existing is None or given is not None:
                await engine.start(workflow, name, value, retry, timeout_ms=timeout, detach=True)
            _announce(invocation, workflow, name, value, retry, output_format)

        async def go_on() -> object:
            # Without an input, an execution that was interrupted goes on with the one it has.
            if existing is None or given is not None:
                return await engine.wait(name)
            return await (engine.restart(name) if existing.record.status == "panicked" else engine.resume(name))

        known_seq = 0 if existing is None else existing.last_seq
        run_to_rest(invocation, engine, name, go_on, output_format, begin=begin, since_seq=known_seq)


def _enqueue(
    invocation: Invocation,
    engine: WorkflowEngine,
    workflow: str,
    execution_id: str,
    value: object,
    retry: RetryConfig,
    timeout_ms: int | None,
    queue: str,
    priority: int,
    output_format: str,
) -> None:
    """Hand an execution to workers, and say how to follow it."""
    dispatching(engine.bare_store)
    needs_queue()
    result = invocation.run(
        engine.enqueue(workflow, execution_id, value, retry, timeout_ms=timeout_ms, queue=queue, priority=priority)
    )
    view = invocation.run(read_view(engine, execution_id))
    if output_format == "json":
        print_json(execution_data(result, view))
    elif invocation.quiet:
        print_line(execution_id)
    else:
        hint = command_line(invocation, "status", execution_id, "--follow", with_app=False)
        print_line(
            f'Execution "{execution_id}" is {result.status} for the workers of queue "{visible(view.record.queue)}"'
        )
        if view.dispatch is not None and not view.dispatch.workers:
            serving = command_line(invocation, "worker", "--queue", view.dispatch.queue)
            print_line(f'No worker serves this queue yet: "{serving}" begins one')
        print_line(f'"{hint}" follows it')


def _queue_of(existing: ExecutionView | None) -> str | None:
    return None if existing is None else existing.record.queue


def _value(
    invocation: Invocation, engine: WorkflowEngine, execution_id: str, given: tuple[Any] | None, *, stored: bool
) -> object:
    """Return the input that is given; without one, what is stored, or nothing."""
    if given is not None:
        return given[0]
    return invocation.run(engine.get_status(execution_id)).input if stored else {}


def _read_input(text: str | None, file: str | None) -> tuple[Any] | None:
    """Return the input in a tuple, because it may be ``null``; ``None`` if none is given."""
    if text is not None and file is not None:
        raise Failure("--input and --input-file exclude each other", USAGE)
    if file is not None:
        try:
            text = sys.stdin.read() if file == "-" else Path(file).read_bytes().decode("utf-8-sig")
        except OSError as error:
            raise Failure(f"--input-file {file}: {error.strerror}", USAGE) from None
        except UnicodeDecodeError:
            raise Failure(f"--input-file {file}: it is not UTF-8", USAGE) from None
    if text is None:
        return None
    try:
        return (json.loads(text),)
    except ValueError as error:
        source = f"--input-file {file}" if file is not None else "--input"
        raise Failure(f"{source} is not JSON: {error}", USAGE) from None


async def _existing(engine: WorkflowEngine, execution_id: str) -> ExecutionView | None:
    try:
        await engine.get_status(execution_id)
    except ExecutionNotFoundError:
        return None
    return await read_view(engine, execution_id)


def _retry_config(own: RetryConfig, max_retries: int | None, retry_delay: int | None) -> RetryConfig:
    changes = {"max_attempts": max_retries, "backoff_ms": retry_delay}
    return RetryConfig(**{**own.model_dump(), **{name: value for name, value in changes.items() if value is not None}})


def _announce(
    invocation: Invocation, workflow: str, execution_id: str, given: object, retry: RetryConfig, output_format: str
) -> None:
    if output_format == "json":
        return
    if invocation.quiet:
        print_line(execution_id)
        return
    text = visible(json_text(given))
    if len(text) > _LONGEST_INPUT:
        text = f"{text[:_LONGEST_INPUT]}..."
    print_line(f"Starting workflow: {styled(workflow, bold=True)}")
    print_line(f"   Execution ID: {execution_id}")
    print_line(f"   Input: {text}")
    print_line(f"   Max retries: {retry.max_attempts}")
    print_line()
    sys.stdout.flush()


def _join(
    invocation: Invocation,
    engine: WorkflowEngine,
    existing: ExecutionView,
    workflow: str,
    given: tuple[Any] | None,
    output_format: str,
) -> None:
    """Show an execution that ended, or follow one that another process runs."""
    record = existing.record
    if record.workflow_name != workflow:
        raise Failure(
            f'Execution id "{record.execution_id}" is in use for workflow "{record.workflow_name}", so it cannot start '
            f'"{workflow}"; choose another id',
            USAGE,
        )

    async def join() -> None:
        if given is not None and workflow in engine.workflow_names() and existing.at_rest:
            await engine.start(workflow, record.execution_id, given[0])  # refuses another input
        if not existing.at_rest:
            with Follower(engine, manner_for(output_format, quiet=invocation.quiet)) as follower:
                await follower.follow(record.execution_id)

    if existing.at_rest:
        announce(f'Execution "{record.execution_id}" has ended before; this is its stored result, nothing runs again')
    else:
        announce(f'Execution "{record.execution_id}" {_where(existing)}')
    if output_format != "json" and invocation.quiet:
        print_line(record.execution_id)

    def how_to_go_on() -> str:
        hint = command_line(invocation, "status", record.execution_id, "--follow", with_app=False)
        return f'The execution is not affected; "{hint}" follows it.'

    invocation.run(join(), how_to_go_on)
    result = invocation.run(engine.get_status(record.execution_id))
    show_ending(invocation, result, invocation.run(read_view(engine, record.execution_id)), output_format)


def _where(existing: ExecutionView) -> str:
    """Say where an execution is that has not ended."""
    process = f" (pid {existing.owner.pid})" if existing.owner else ""
    if existing.is_lost:
        return f"was left by a worker that gives no sign of life{process}; it goes on in another one, and is followed"
    if existing.record.queue is not None and (existing.dispatch is None or existing.dispatch.place != "running"):
        return f'waits for the workers of queue "{visible(existing.record.queue)}"; followed'
    return f"runs in another process{process}; joined"
