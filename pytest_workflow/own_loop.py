"""The event loop of a clock's own, in which synchronous tests run coroutines, and spare ones for the runs to come."""

from __future__ import annotations

import asyncio
import contextlib
import copy
from collections import deque
from typing import TYPE_CHECKING, Any, TypeVar, cast

from pytest_workflow.loops import WorkflowStuckError

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import Self

    from pytest_workflow.clock import VirtualClock
    from pytest_workflow.loops import Attachment

__tracebackhide__ = True  # pytest leaves the frames of this module out
__all__ = ["OwnLoop", "SpareLoops"]

_SECONDS_TO_END = 60
_MOST_EXITS = 100
_T = TypeVar("_T")


class OwnLoop:
    """An event loop that runs while a synchronous call lasts; made at the first one.

    Args:
        clock: The clock that it runs on.
        spare: Where the loop is from, and goes back to; without it, the loop is made and closed here.
    """

    def __init__(self, clock: VirtualClock, spare: SpareLoops | None) -> None:
        self._clock = clock
        self._spare = spare
        self._attached: tuple[asyncio.AbstractEventLoop, Attachment] | None = None

    def run(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        """Run a coroutine to its end."""
        __tracebackhide__ = True
        if self._attached is None:
            loop = asyncio.SelectorEventLoop() if self._spare is None else self._spare.take()
            self._attached = loop, self._clock.attach(loop, own=True)
        loop, _ = self._attached
        task = loop.create_task(coroutine)
        try:
            return loop.run_until_complete(task)
        finally:
            self._give_up(task)

    def _give_up(self, task: asyncio.Task[Any]) -> None:
        """Leave nothing of a call behind that an error of the loop's has cut off, such as `SystemExit` in a task."""
        if task.done():
            return
        task.cancel()
        self.settle()
        if task.done() and not task.cancelled():
            task.exception()

    def settle(self) -> None:
        """Run what is runnable, without letting time pass."""
        if self._attached is None:
            return
        loop, attachment = self._attached
        for _ in range(_MOST_EXITS):
            try:
                loop.run_until_complete(attachment.settled())
            except SystemExit:  # of a task that was cut off; it has been raised where it happened
                continue
            return

    def end_everything(self) -> list[str]:
        """Let the tasks end, as `asyncio.run` does; describe those that do not."""
        if self._attached is None:
            return []
        loop, attachment = self._attached
        self.settle()
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        self._clock.stop_soon()
        stubborn: list[str] = []
        if tasks:
            with contextlib.suppress(WorkflowStuckError, SystemExit):
                loop.run_until_complete(asyncio.wait(tasks, timeout=_SECONDS_TO_END))
            self.settle()
            stubborn = attachment.end(tasks)
            self.settle()
        if attachment.has_asynchronous_generators():
            loop.run_until_complete(loop.shutdown_asyncgens())
        return stubborn

    def close(self) -> None:
        """Let go of the loop, which runs on its own time again."""
        if self._attached is None:
            return
        loop, _ = self._attached
        self._attached = None
        if self._spare is None:
            loop.close()
        else:
            self._spare.give_back(loop)


class SpareLoops:
    """Event loops for runs that follow each other: to make one and to close it are a dozen system calls.

    A loop is used again only if every attribute of it is as it was when it was made: nothing is left of the run before.
    Closed as a context manager.
    """

    def __init__(self) -> None:
        self._spare: list[asyncio.AbstractEventLoop] = []
        self._new: dict[asyncio.AbstractEventLoop, dict[str, object]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        for loop in self._spare:
            loop.close()

    def take(self) -> asyncio.AbstractEventLoop:
        """Return a loop of which nothing was used, as far as can be seen."""
        if self._spare:
            return self._spare.pop()
        loop = asyncio.SelectorEventLoop()
        self._new[loop] = _state(loop)
        return loop

    def give_back(self, loop: asyncio.AbstractEventLoop) -> None:
        """Keep a loop for the next run, or close it."""
        if _state(loop) == self._new.get(loop):
            self._spare.append(loop)
        else:
            self._new.pop(loop, None)
            loop.close()


def _state(loop: asyncio.AbstractEventLoop) -> dict[str, object]:
    """Return what can be seen of a loop, with copies of what changes in place."""
    state: dict[str, object] = {
        name: copy.copy(value) if isinstance(value, (list, dict, deque)) else value
        for name, value in vars(loop).items()
        if name not in {"_asyncgens", "_transports"}
    }
    known = cast("Any", loop)
    state["in use"] = len(known._asyncgens), len(known._transports), len(known._selector.get_map())
    return state
