"""What goes on outside of an event loop and is waited for: statements that a database server carries out.

Nothing in the engine needs it. A clock that does not run by itself has to know it, or it would pass over the answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["going_on", "is_going_on"]

_counts: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, list[int]] = weakref.WeakKeyDictionary()


@contextlib.contextmanager
def going_on() -> Iterator[None]:
    """Note, in a ``with`` block, that something outside of the running event loop is waited for."""
    counts = _counts.setdefault(asyncio.get_running_loop(), [0, 0])
    counts[0] += 1
    try:
        yield
    finally:
        counts[0] -= 1
        counts[1] += 1


def is_going_on(loop: asyncio.AbstractEventLoop) -> int | None:
    """Return how many such things have come to their end in an event loop; ``None`` if none is going on now."""
    counts = _counts.get(loop)
    return None if counts is None or not counts[0] else counts[1]
