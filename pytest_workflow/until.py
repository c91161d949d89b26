"""Stopping an execution at a place, so that the test can look at it before anything else happens."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, TypeAlias, get_args

from pytest_workflow.matching import is_expected, matches
from workflow_core.errors import ValidationError
from workflow_core.events import (
    Event,
    ExecutionCancelled,
    ExecutionCompleted,
    ExecutionFailed,
    SleepCompleted,
    StepCompleted,
    StepEvent,
    StepSkipped,
)
from workflow_core.hookspecs import hookimpl
from workflow_core.models import ExecutionStatus

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_workflow.clock import VirtualClock
    from pytest_workflow.harness import WorkflowHarness
    from workflow_core.models import ExecutionResult

__all__ = ["Stops", "Until", "validate_until"]

Until: TypeAlias = "str | Event | type[Event]"
"""Where to stop: a status, the id of a step or sleep that completes (or a glob), or an event as in a history."""

_STATUSES: frozenset[str] = frozenset(get_args(ExecutionStatus))
_COMPLETED = (StepCompleted, StepSkipped, SleepCompleted)
_LAST = (ExecutionCompleted, ExecutionFailed, ExecutionCancelled)


def validate_until(until: object, *, detach: bool = False) -> None:
    """Refuse what names no place.

    Args:
        until: The place.
        detach: Whether the caller asked not to wait at all.

    Raises:
        ValidationError: It is neither a non-empty string nor an event nor an event's class, or there is no waiting.
    """
    if detach:
        raise ValidationError("detach=True returns at once and until=... at a place: pass one of them")
    is_class = isinstance(until, type) and issubclass(until, Event)
    if not (is_class or isinstance(until, Event) or (isinstance(until, str) and until)):
        raise ValidationError(
            f"until takes a status ({', '.join(sorted(_STATUSES))}), the id of a step or sleep, a glob, or an event "
            f'such as StepFailed("charge"); not {until!r}'
        )


class Stops:
    """Holds executions where a test wants to look.

    Args:
        workflow: The harness.
        clock: Its clock.
    """

    def __init__(self, workflow: WorkflowHarness, clock: VirtualClock) -> None:
        self._workflow = workflow
        self._clock = clock
        self._stops: list[tuple[str, Until, asyncio.Future[None]]] = []

    def __dir__(self) -> list[str]:
        return ["on_event"]  # each name costs pluggy a look at every registration

    @hookimpl
    def on_event(self, event: Event) -> asyncio.Future[None] | None:
        """Hold the execution if a test waits for this event.

        The last event of an execution holds nothing: nothing is left to be held, and its result is about to come.
        """
        if isinstance(event, _LAST):
            return None
        reached = [
            stop
            for execution_id, until, stop in self._stops
            if execution_id == event.execution_id and not stop.done() and self._is_there(until, event)
        ]
        if not reached:
            return None
        paused = self._clock.pause()
        for stop in reached:
            stop.set_result(None)
        return paused

    async def reach(self, execution_id: str, until: Until) -> ExecutionResult:
        """Let an execution run until it is at a place, which may be where it is or was already.

        Args:
            execution_id: The execution.
            until: The place.

        Returns:
            What is known of the execution at the place.

        Raises:
            AssertionError: The execution came to rest and never was there, or an assertion in it failed.
            ExecutionNotFoundError: There is no such execution.
            InvalidStateError: Nobody runs it.
        """
        __tracebackhide__ = True
        self._clock.pause()  # nothing may pass the place before it is watched
        if not self._was_there(execution_id, until):
            await self._watch(execution_id, until)
        return self._workflow.status(execution_id)

    async def _watch(self, execution_id: str, until: Until) -> None:
        __tracebackhide__ = True
        with self._stop(execution_id, until) as stop:
            rest = asyncio.ensure_future(self._workflow.engine.wait(execution_id))
            try:
                either: list[asyncio.Future[Any]] = [rest, stop]
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
                if not stop.done():
                    await rest
            finally:
                rest.cancel()
        if not stop.done() and not self._was_there(execution_id, until):
            raise AssertionError(self._never_there(execution_id, until))

    @contextlib.contextmanager
    def _stop(self, execution_id: str, until: Until) -> Iterator[asyncio.Future[None]]:
        stop: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (execution_id, until, stop)
        self._stops.append(entry)
        try:
            yield stop
        finally:
            self._stops.remove(entry)

    def _is_there(self, until: Until, event: Event) -> bool:
        if isinstance(until, str) and until in _STATUSES:
            return self._workflow.status(event.execution_id).status == until
        if isinstance(until, str):
            return isinstance(event, _COMPLETED) and matches(event.step_id, until)
        return is_expected(event, until)

    def _was_there(self, execution_id: str, until: Until) -> bool:
        history = self._workflow.history(execution_id)
        if isinstance(until, str) and until in _STATUSES:
            return self._is_there(until, history[-1])
        return any(self._is_there(until, event) for event in history)

    def _never_there(self, execution_id: str, until: Until) -> str:
        result, history = self._workflow.status(execution_id), self._workflow.history(execution_id)
        completed = dict.fromkeys(event.step_id for event in history if isinstance(event, _COMPLETED))
        begun = dict.fromkeys(event.step_id for event in history if isinstance(event, StepEvent))
        lines = [
            f'execution "{execution_id}" is {result.status} and was never at until={until!r}',
            *([f"error: {result.error}"] if result.error is not None else []),
            f"completed: {', '.join(completed) or 'no step'}",
        ]
        if unfinished := [step_id for step_id in begun if step_id not in completed]:
            lines.append(f"begun, but not completed: {', '.join(unfinished)}")
        return "\n".join([*lines, str(history)])
