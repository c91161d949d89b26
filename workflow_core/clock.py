"""Time as the engine sees it: one protocol, and the clock of the machine."""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import itertools
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "EPOCH",
    "Clock",
    "SystemClock",
    "TimerHandle",
    "WallTimer",
    "WallTimers",
    "as_utc",
    "from_epoch_ms",
    "stored_moment",
    "to_epoch_ms",
]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)

_LOOK_MS = 1_000
"""How long a wall clock that was set forward, or a machine that was suspended, goes unnoticed at most."""

_FEWEST_SWEPT = 64
"""So few cancelled timers are left in the heap until their time comes."""


def to_epoch_ms(moment: datetime) -> int:
    """Return the first whole millisecond since 1970 that is not before ``moment``."""
    return -((EPOCH - moment) // _MILLISECOND)


def from_epoch_ms(milliseconds: int) -> datetime:
    """Return the aware UTC datetime of a number of milliseconds since 1970."""
    return EPOCH + timedelta(milliseconds=milliseconds)


def stored_moment(milliseconds: int | None) -> datetime | None:
    """Return the aware UTC datetime of a stored number of milliseconds since 1970, if one is stored."""
    return None if milliseconds is None else from_epoch_ms(milliseconds)


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
    """The machine's own clock, and the timers of the running event loop.

    Wall-clock timers of one event loop share a `WallTimers`: however many wait, the loop has one timer for them.
    """

    def __init__(self) -> None:
        self._timers: dict[asyncio.AbstractEventLoop, WallTimers] = {}

    def now(self) -> datetime:
        """Return the wall time, aware and in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Return seconds since an arbitrary start, never going backwards; the same for all processes of the machine."""
        return time.monotonic()

    async def sleep(self, delay_ms: float) -> None:
        """Wait for ``delay_ms`` milliseconds."""
        await asyncio.sleep(max(delay_ms, 0) / 1_000)

    def call_at(self, when: datetime, callback: Callable[[], object]) -> TimerHandle:
        """Call ``callback`` when the wall clock shows ``when``, never before.

        A wall clock that was set forward, or a machine that was suspended, is noticed within a second of running time.
        """
        loop = asyncio.get_running_loop()
        timers = self._timers.get(loop)
        if timers is None:
            for closed in [known for known in list(self._timers) if known.is_closed()]:
                self._timers.pop(closed, None)
            timers = self._timers[loop] = WallTimers(self)
        return timers.call_at(when, callback)

    def call_later(self, delay_ms: float, callback: Callable[[], object]) -> TimerHandle:
        """Call ``callback`` after ``delay_ms`` milliseconds, whatever the wall clock does."""
        return asyncio.get_running_loop().call_later(max(delay_ms, 0) / 1_000, callback)


class _Entry:
    """One callback in a `WallTimers`."""

    __slots__ = ("callback", "context", "timers")

    def __init__(self, timers: WallTimers, callback: Callable[[], object]) -> None:
        self.callback: Callable[[], object] | None = callback
        self.context = contextvars.copy_context()
        self.timers: WallTimers | None = timers

    def run(self) -> None:
        """Call the callback, unless it was called off since it fell due."""
        callback, self.callback = self.callback, None
        if callback is not None:
            callback()

    def cancel(self) -> None:
        """Call it off; does nothing if it has run."""
        if self.callback is not None:
            self.callback = None
            if self.timers is not None:
                self.timers.cancelled()


class WallTimers:
    """Any number of timers on the wall clock, in one heap, driven by one timer of the event loop.

    An event loop's timers run on the monotonic clock, which does not follow a wall clock that is set and, on Linux,
    stands still while the machine is suspended. So the wall clock is looked at when the next timer ought to be due,
    and at least every ``look_ms`` while any timer waits: once for all of them.

    Args:
        clock: Where the wall time comes from, and the timer that drives these.
        look_ms: Longest time between two looks, in milliseconds.
    """

    def __init__(self, clock: Clock, look_ms: float = _LOOK_MS) -> None:
        self._clock = clock
        self._look_ms = look_ms
        self._heap: list[tuple[datetime, int, _Entry]] = []
        self._numbers = itertools.count()
        self._cancelled = 0
        self._handle: TimerHandle | None = None
        self._next_look: datetime | None = None

    def __len__(self) -> int:
        return len(self._heap) - self._cancelled

    def call_at(self, when: datetime, callback: Callable[[], object]) -> TimerHandle:
        """Call ``callback``, in this call's context, when the wall clock shows ``when``; never before."""
        entry = _Entry(self, callback)
        heapq.heappush(self._heap, (when, next(self._numbers), entry))
        if self._next_look is None or when < self._next_look:
            self._look_later()
        return entry

    def cancelled(self) -> None:
        """Count an entry that was called off; sweep the heap when most of it is of that kind."""
        self._cancelled += 1
        if not len(self):
            self._heap.clear()
            self._cancelled = 0
            self._stop_looking()
        elif self._cancelled > max(_FEWEST_SWEPT, len(self._heap) // 2):
            self._heap = [item for item in self._heap if item[2].callback is not None]
            heapq.heapify(self._heap)
            self._cancelled = 0

    def _stop_looking(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._handle = self._next_look = None

    def _look_later(self) -> None:
        self._stop_looking()
        now = self._clock.now()
        wait_ms = min(max((self._heap[0][0] - now) / _MILLISECOND, 0), self._look_ms)
        self._next_look = now + wait_ms * _MILLISECOND
        self._handle = self._clock.call_later(wait_ms, self._look)

    def _look(self) -> None:
        self._handle = self._next_look = None
        now = self._clock.now()
        due: list[_Entry] = []
        while self._heap and self._heap[0][0] <= now:
            entry = heapq.heappop(self._heap)[2]
            if entry.callback is None:
                self._cancelled -= 1
            else:
                entry.timers = None
                due.append(entry)
        if len(self):
            self._look_later()
        else:
            self._heap.clear()
            self._cancelled = 0
        loop = asyncio.get_running_loop()
        for entry in due:
            loop.call_soon(entry.run, context=entry.context)


class WallTimer:
    """A timer on wall time of its own, for clocks that know when their wall time is moved and `look` then.

    Args:
        clock: Where both times come from.
        when: The wall time.
        callback: What is called.
    """

    __slots__ = ("__weakref__", "_callback", "_clock", "_handle", "_when", "context")

    def __init__(self, clock: Clock, when: datetime, callback: Callable[[], object]) -> None:
        self._clock = clock
        self._when = when
        self._callback = callback
        self.context = contextvars.copy_context()
        self._handle: TimerHandle | None = self._schedule()

    def _schedule(self) -> TimerHandle:
        remaining_ms = (self._when - self._clock.now()) / _MILLISECOND
        return self._clock.call_later(remaining_ms, self._fire)

    def _fire(self) -> None:
        if self._clock.now() < self._when:
            self._handle = self._schedule()
        else:
            self._handle = None
            self._callback()

    def look(self) -> None:
        """Look at the wall clock again, which was moved; does nothing if the callback has run or was called off."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = self._schedule()

    def cancel(self) -> None:
        """Call it off."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
