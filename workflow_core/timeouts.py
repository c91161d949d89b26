"""A time-out on the engine's clock, in the manner of `asyncio.timeout`."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from workflow_core.clock import Clock, TimerHandle

__all__ = ["Timeout"]


class Timeout:
    """Cancels the block inside ``async with`` after a while, and turns that cancellation into ``TimeoutError``.

    Args:
        clock: Where the time comes from.
        delay_ms: How long the block may take, in milliseconds.
    """

    def __init__(self, clock: Clock, delay_ms: float) -> None:
        self._clock = clock
        self._delay = timedelta(milliseconds=max(delay_ms, 0))
        self._task: asyncio.Task[object] | None = None
        self._handle: TimerHandle | None = None
        self._cancelling = 0
        self.expired = False

    async def __aenter__(self) -> Self:
        self._task = asyncio.current_task()
        assert self._task is not None  # noqa: S101 - a coroutine runs in a task
        self._cancelling = self._task.cancelling()
        self._handle = self._clock.call_at(self._clock.now() + self._delay, self._expire)
        return self

    def _expire(self) -> None:
        if self._task is not None:
            self.expired = True
            self._task.cancel()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        task, self._task = self._task, None
        if self._handle is not None:
            self._handle.cancel()
        ours = self.expired and task is not None and task.uncancel() <= self._cancelling
        if ours and kind is not None and issubclass(kind, asyncio.CancelledError):
            raise TimeoutError from error
