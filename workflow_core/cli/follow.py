"""Following executions by reading the store: as a live picture on a terminal, else as a line for each event."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from typing import TYPE_CHECKING, Literal, TypeAlias, TypeVar

import click
from rich.console import Group
from rich.live import Live
from rich.text import Text

from workflow_core.cli.display import console, picture
from workflow_core.cli.output import Signs, is_terminal
from workflow_core.logs import event_line
from workflow_core.views.execution_data import event_data
from workflow_core.views.execution_view import read_view
from workflow_core.views.json_text import json_text
from workflow_core.views.wording import status_of

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence
    from typing import Any, Self

    from rich.console import RenderableType

    from workflow_core.engine import WorkflowEngine
    from workflow_core.views.execution_view import ExecutionView

__all__ = ["Follower", "Manner", "manner_for"]

Manner: TypeAlias = Literal["live", "live on stderr", "lines", "json lines", "silent"]
"""How progress is shown."""

ResultT = TypeVar("ResultT")

_READ_EVERY_SECONDS = 0.2
_PATIENCE_SECONDS = 5.0
"""How long an execution that nobody runs is watched: a process that was just started may take it over."""

_MOST_AT_ONCE = 20


def manner_for(output_format: str, *, quiet: bool, json_lines: bool = False) -> Manner:
    """Choose how progress is shown.

    Args:
        output_format: ``table`` or ``json``.
        quiet: Show none.
        json_lines: Whether JSON means a line for each event, rather than one document in the end.
    """
    if quiet:
        return "silent"
    if output_format == "json":
        if json_lines:
            return "json lines"
        return "live on stderr" if is_terminal(sys.stderr) else "silent"
    return "live" if is_terminal() else "lines"


class Follower:
    """Shows executions until they are at rest; used in a ``with`` block.

    Args:
        engine: Whose store is read.
        manner: How they are shown.
        since_seq: The events up to this position are known already; those are not shown as lines.
    """

    def __init__(self, engine: WorkflowEngine, manner: Manner, since_seq: int = 0) -> None:
        self._engine = engine
        self._manner = manner
        self._since_seq = since_seq
        self._shown: dict[str, int] = {}
        self._signs = Signs(sys.stderr if manner == "live on stderr" else sys.stdout)
        self._console = console(on_stderr=manner == "live on stderr")
        self._live: Live | None = None

    def __enter__(self) -> Self:
        if self._manner in {"live", "live on stderr"}:
            self._live = Live(
                console=self._console,
                auto_refresh=False,
                transient=True,
                redirect_stdout=self._manner == "live",
                redirect_stderr=True,
            )
            self._live.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._live is not None:
            self._live.stop()

    async def follow(self, execution_id: str) -> ExecutionView:
        """Show an execution until it is at rest, or nobody runs it any more; return it as it is then."""
        loop = asyncio.get_running_loop()
        given_up_at: float | None = None
        while True:
            view = await read_view(self._engine, execution_id)
            await self._show([view])
            if view.at_rest:
                return view
            if not (view.interrupted or view.is_unserved):
                given_up_at = None
            elif given_up_at is None:
                given_up_at = loop.time() + _PATIENCE_SECONDS
            elif loop.time() >= given_up_at:
                return view
            await asyncio.sleep(_READ_EVERY_SECONDS)

    async def while_running(self, work: Coroutine[Any, Any, ResultT], execution_ids: Sequence[str]) -> ResultT:
        """Show executions while ``work`` runs, and once more when it has ended; return its result."""
        task = asyncio.ensure_future(work)
        try:
            while not task.done():
                await asyncio.wait([task], timeout=_READ_EVERY_SECONDS)
                views = [
                    await read_view(self._engine, execution_id)
                    for execution_id in execution_ids
                    if not self._engine.closed and await self._engine.store.load_execution(execution_id) is not None
                ]
                await self._show(views)
            return task.result()
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait([task])

    async def _show(self, views: Sequence[ExecutionView]) -> None:
        if self._live is not None:
            self._live.update(self._picture(views), refresh=True)
        elif self._manner in {"lines", "json lines"}:
            for view in views:
                await self._print_events(view)

    def _picture(self, views: Sequence[ExecutionView]) -> RenderableType:
        now = self._engine.clock.now()
        if len(views) == 1:
            # An empty line in the end: what a terminal echoes for Ctrl-C then stands on a line of its own.
            return Group(picture(views[0], self._signs, now, self._console.height), Text())
        lines = []
        going_on = [view for view in views if not view.at_rest]
        for view in going_on[:_MOST_AT_ONCE]:
            at_work = [step_id for step_id, step in view.steps.items() if step.status in _UNDER_WAY]
            status = status_of(view)
            lines.append(
                Text(
                    f"{self._signs.of(status)} {status:<11} {view.record.workflow_name}  {view.record.execution_id}  "
                    f"{', '.join(at_work)}",
                    no_wrap=True,
                    overflow="ellipsis",
                )
            )
        if len(going_on) > _MOST_AT_ONCE:
            lines.append(Text(f"  and {len(going_on) - _MOST_AT_ONCE} more", style="dim"))
        lines.append(Text(f"  {len(views) - len(going_on)} of {len(views)} at rest", style="dim"))
        return Group(*lines)

    async def _print_events(self, view: ExecutionView) -> None:
        execution_id = view.record.execution_id
        known = self._shown.get(execution_id, self._since_seq)
        if view.last_seq <= known and not view.at_rest:
            return
        name = view.record.workflow_name
        for event in await self._engine.store.workflow(name).load_events(name, execution_id, known):
            known = event.seq
            click.echo(json_text(event_data(event)) if self._manner == "json lines" else event_line(event).rstrip("\n"))
        self._shown[execution_id] = known
        with contextlib.suppress(ValueError):
            sys.stdout.flush()


_UNDER_WAY = frozenset({"running", "sleeping", "retrying"})
