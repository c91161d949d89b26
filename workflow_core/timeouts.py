"""A time-out on the engine's clock, in the manner of `asyncio.timeout`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from workflow_core.errors import ValidationError, shown

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from workflow_core.clock import Clock, TimerHandle

__tracebackhide__ = True  # pytest leaves the frames of this module out
__all__ = ["LONGEST_MS", "Timeout", "cancelled_from_outside", "validate_timeout"]

LONGEST_MS = 100 * 366 * 24 * 3_600_000
"""A century: longer waits are mistakes, and calendars end."""


def validate_timeout(what: str, timeout_ms: object) -> None:
    """Refuse what cannot be a time-out; ``None`` sets none.

    Args:
        what: What is limited, for the error message.
        timeout_ms: Milliseconds.

    Raises:
        ValidationError: It is not a positive number, or longer than a century.
    """
    if timeout_ms is None:
        return
    if isinstance(timeout_ms, bool) or not isinstance(timeout_ms, (int, float)) or not 0 < timeout_ms <= LONGEST_MS:
        raise ValidationError(
            f"{what}: timeout_ms must be a positive number of milliseconds, at most {LONGEST_MS}, not "
            f"{shown(timeout_ms)}"
        )


def cancelled_from_outside() -> bool:
    """Tell whether a cancellation caught in this task was meant for it, rather than for something it awaited."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


class Timeout:
    """Cancels the block inside ``async with`` after a while, and turns that cancellation into ``TimeoutError``.

    Args:
        clock: Where the time comes from.
        delay_ms: How long the block may take, in milliseconds.
    """

    def __init__(self, clock: Clock, delay_ms: float) -> None:
        self._clock = clock
        self._delay_ms = max(delay_ms, 0)
        self.expired = False

    async def __aenter__(self) -> Self:
        self._task: asyncio.Task[object] | None = asyncio.current_task()
        assert self._task is not None  # noqa: S101 - a coroutine runs in a task
        self._cancelling = self._task.cancelling()
        self._handle: TimerHandle = self._clock.call_later(self._delay_ms, self._expire)
        return self

    def _expire(self) -> None:
        if self._task is not None:
            self.expired = True
            self._task.cancel()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        task, self._task = self._task, None
        self._handle.cancel()
        ours = self.expired and task is not None and task.uncancel() <= self._cancelling
        if ours and kind is not None and issubclass(kind, asyncio.CancelledError):
            raise TimeoutError from error
