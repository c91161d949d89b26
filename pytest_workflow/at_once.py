"""Coroutines that never wait, run without an event loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

__tracebackhide__ = True  # pytest leaves the frames of this module out
__all__ = ["at_once"]

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
