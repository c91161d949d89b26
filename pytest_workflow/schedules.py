"""Which of several runnable tasks goes first: one interleaving of parallel steps and executions, as data."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from pytest_workflow.clock import VirtualClock

__all__ = ["Reorder", "Schedule"]

Reorder: TypeAlias = Callable[[deque[asyncio.Handle]], None]
"""Changes the order of what an event loop runs in its next turn."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """The order in which tasks run that became runnable in the same turn of the event loop.

    asyncio runs them in the order in which they became runnable. Programs must not depend on that order, which changes
    with every await that is added elsewhere. Only tasks change places with each other; all other callbacks stay where
    they are, because asyncio promises their order.

    Attributes:
        choices: One number for each turn in which several tasks are runnable: which permutation of them runs. 0 is
            asyncio's own order, and so is every turn after the last number.
    """

    choices: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if any(choice < 0 for choice in self.choices):
            raise ValueError(f"a schedule chooses permutations by their numbers, from 0; got {self.choices!r}")

    @contextlib.contextmanager
    def leading(self, clock: VirtualClock) -> Iterator[None]:
        """Let the schedule choose, in the ``with`` block, in the event loop of the clock's own.

        That loop runs the harness's synchronous methods; in asynchronous tests there is no such loop.
        """
        before, clock.reorder = clock.reorder, self._begin()
        try:
            yield
        finally:
            clock.reorder = before

    def _begin(self) -> Reorder | None:
        """Return what carries the schedule out, from its first number; ``None`` for asyncio's own order."""
        if not any(self.choices):
            return None
        choices = iter(self.choices)

        def reorder(ready: deque[asyncio.Handle]) -> None:
            # By index: threads may append to the queue meanwhile.
            places = [place for place in range(len(ready)) if _is_task(ready[place])]
            choice = next(choices, 0) if len(places) > 1 else 0
            if not choice:
                return
            handles = [ready[place] for place in places]
            for place in places:
                choice, index = divmod(choice, len(handles))
                ready[place] = handles.pop(index)

        return reorder


def _is_task(handle: asyncio.Handle) -> bool:
    callback: object = getattr(handle, "_callback", None)
    return isinstance(getattr(callback, "__self__", None), asyncio.Task)
