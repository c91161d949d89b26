"""Time as the engine sees it: one protocol, and the clock of the machine."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["EPOCH", "Clock", "SystemClock", "TimerHandle", "WallTimer", "as_utc", "from_epoch_ms", "to_epoch_ms"]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)

_LONGEST_TIMER_MS = 3_600_000
"""A long wait is cut into pieces of this length, so that a moved wall clock is noticed after an hour at the latest."""


def to_epoch_ms(moment: datetime) -> int:
    """Return the first whole millisecond since 1970 that is not before ``moment``."""
    return -((EPOCH - moment) // _MILLISECOND)


def from_epoch_ms(milliseconds: int) -> datetime:
    """Return the aware UTC datetime of a number of milliseconds since 1970."""
    return EPOCH + timedelta(milliseconds=milliseconds)


def as_utc(moment: datetime) -> datetime:
    """Return a moment in UTC.

    Raises:
        ValueError: It has no time zone, so nobody knows which moment it is.
    """
    if moment.utcoffset() is None:
        raise ValueError(f"{moment} has no time zone; write datetime(..., tzinfo=UTC)")
    return moment.astimezone(UTC)


class TimerHandle(Protocol):
    """Something scheduled that can be called off."""

    def cancel(self) -> None:
        """Call it off; does nothing if it has run."""


class Clock(Protocol):
    """The only source of time for an engine."""

    def now(self) -> datetime:
        """Return the wall time, aware and in UTC."""

    def monotonic(self) -> float:
        """Return seconds since an arbitrary start, never going backwards."""

    async def sleep(self, delay_ms: float) -> None:
        """Wait for ``delay_ms`` milliseconds; 0 or less lets other tasks run once."""

    def call_at(self, when: datetime, callback: Callable[[], object]) -> TimerHandle:
        """Call ``callback`` in the running event loop at the wall time ``when``, or soon if that has passed."""

    def call_later(self, delay_ms: float, callback: Callable[[], object]) -> TimerHandle:
        """Call ``callback`` in the running event loop after ``delay_ms`` milliseconds, whatever the wall clock does."""


class SystemClock:
    """The machine's own clock, and the timers of the running event loop."""

    def now(self) -> datetime:
        """Return the wall time, aware and in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Return seconds since an arbitrary start, never going backwards."""
        return time.monotonic()

    async def sleep(self, delay_ms: float) -> None:
        """Wait for ``delay_ms`` milliseconds."""
        await asyncio.sleep(max(delay_ms, 0) / 1_000)

    def call_at(self, when: datetime, callback: Callable[[], object]) -> TimerHandle:
        """Call ``callback`` at the wall time ``when``; a wall clock moved meanwhile is followed within an hour."""
        return WallTimer(self, when, callback)

    def call_later(self, delay_ms: float, callback: Callable[[], object]) -> TimerHandle:
        """Call ``callback`` after ``delay_ms`` milliseconds, whatever the wall clock does."""
        return asyncio.get_running_loop().call_later(max(delay_ms, 0) / 1_000, callback)


class WallTimer:
    """A timer on wall time, built from shorter timers that the wall clock does not move.

    Args:
        clock: Where both times come from.
        when: The wall time; a clock that was moved meanwhile is followed within an hour.
        callback: What is called.
    """

    __slots__ = ("_callback", "_clock", "_handle", "_when")

    def __init__(self, clock: Clock, when: datetime, callback: Callable[[], object]) -> None:
        self._clock = clock
        self._when = when
        self._callback = callback
        self._handle = self._schedule()

    def _schedule(self) -> TimerHandle:
        remaining_ms = (self._when - self._clock.now()) / _MILLISECOND
        return self._clock.call_later(min(remaining_ms, _LONGEST_TIMER_MS), self._fire)

    def _fire(self) -> None:
        if self._clock.now() < self._when:
            self._handle = self._schedule()
        else:
            self._callback()

    def cancel(self) -> None:
        """Call it off."""
        self._handle.cancel()
