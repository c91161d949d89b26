"""Cancellations that come while a durable point is being committed: its task hears of the commit first.

The engine knows what is in the database because nothing comes between a write and its acknowledgement. So a store that
waits brings its write to an end, and lets the task meet the cancellation where it waits next.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

__all__ = ["deliver_later", "late_cancellations", "meet_late_cancellation"]

late_cancellations: Final[set[asyncio.Task[Any]]] = set()
"""Tasks that were cancelled during a commit, and may not have met that yet."""


def deliver_later(cancellation: asyncio.CancelledError) -> None:
    """Let the current task, which has caught a cancellation, meet it again where it waits next."""
    task = asyncio.current_task()
    if task is None:
        return
    task.uncancel()
    task.cancel(*cancellation.args)
    late_cancellations.add(task)
    task.add_done_callback(late_cancellations.discard)


async def meet_late_cancellation() -> None:
    """Let a cancellation that came during a commit be raised now, inside the time-out or task group that asked for it.

    Up to Python 3.12 a time-out that ends without having seen its cancellation leaves it behind, for whatever the task
    does later.
    """
    task = asyncio.current_task()
    if task in late_cancellations:
        late_cancellations.discard(task)
        await asyncio.sleep(0)
