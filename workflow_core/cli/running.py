"""Running an execution in this process, with its progress shown: for `start`, `resume` and `restart`."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from workflow_core.cli.endings import announce, show_ending
from workflow_core.cli.follow import Follower, manner_for
from workflow_core.cli.hints import command_line
from workflow_core.cli.output import quietly
from workflow_core.errors import PanicError, StepFailure, WorkflowTimeoutError
from workflow_core.views.execution_view import read_view

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from workflow_core.cli.invocation import Invocation
    from workflow_core.engine import WorkflowEngine
    from workflow_core.models import ExecutionResult
    from workflow_core.views.execution_view import ExecutionView

__all__ = ["run_to_rest", "settled"]


def run_to_rest(
    invocation: Invocation,
    engine: WorkflowEngine,
    execution_id: str,
    work: Callable[[], Awaitable[object]],
    output_format: str,
    *,
    begin: Callable[[], Awaitable[object]] | None = None,
    since_seq: int = 0,
    handed_over: bool = False,
) -> None:
    """Run an execution to rest, show it meanwhile, and end the command with what came of it.

    Args:
        invocation: The command's call.
        engine: Runs it, and is closed in the end.
        execution_id: The execution.
        work: Goes on with it and waits for it.
        output_format: ``table`` or ``json``.
        begin: Begins it, before anything is shown; what it refuses leaves stdout empty.
        since_seq: The events of its history that are known already.
        handed_over: Whether workers run it, so that the end of this process changes nothing.

    Raises:
        Failure: It did not complete.
    """

    async def run() -> tuple[ExecutionResult, ExecutionView]:
        manner = manner_for(output_format, quiet=invocation.quiet)
        output = quietly() if output_format == "json" or invocation.quiet else contextlib.nullcontext()
        try:
            if begin is not None:
                await begin()
            with output, Follower(engine, manner, since_seq) as follower:
                await follower.while_running(settled(engine, execution_id, work), [execution_id])
            return await engine.get_status(execution_id), await read_view(engine, execution_id)
        finally:
            await engine.aclose()

    def how_to_go_on() -> str:
        if handed_over:
            hint = command_line(invocation, "status", execution_id, "--follow", with_app=False)
            return f'The execution is not affected; "{hint}" follows it.'
        return f'"{command_line(invocation, "resume", execution_id)}" goes on where it was.'

    try:
        result, view = invocation.run(run(), how_to_go_on)
    except BrokenPipeError:
        status = command_line(invocation, "status", execution_id, with_app=False)
        announce(f'Stopped, because nobody reads the output any more; "{status}" shows how far it got')
        raise
    show_ending(invocation, result, view, output_format)


async def settled(engine: WorkflowEngine, execution_id: str, work: Callable[[], Awaitable[object]]) -> None:
    """Wait for an execution through automatic restarts, whatever it ends with."""
    try:
        await work()
    except (StepFailure, PanicError, WorkflowTimeoutError):
        await engine.wait(execution_id)
