"""Synchronous code in asynchronous tests: coroutines that never wait, and functions that run an event loop."""

from __future__ import annotations

import concurrent.futures
from typing import TYPE_CHECKING, Any, TypeVar

from workflow_core.event_loops import running_loop

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

__tracebackhide__ = True  # pytest leaves the frames of this module out
__all__ = ["at_once", "outside_loops"]

_T = TypeVar("_T")


def at_once(coroutine: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine that never waits, as those do that only read a test's database.

    Raises:
        RuntimeError: It waits for something.
    """
    try:
        coroutine.send(None)
    except StopIteration as done:
        result: _T = done.value
        return result
    coroutine.close()
    raise RuntimeError("this needs an event loop; in an asynchronous test await the engine's method instead")


def outside_loops(function: Callable[[], _T]) -> _T:
    """Call a function that runs an event loop of its own; from asynchronous code in a thread."""
    if running_loop() is None:
        return function()
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        return thread.submit(function).result()
