"""Virtual time: a clock that jumps to the next deadline when nothing is runnable.

The clock attaches itself to an event loop by standing in front of two of its parts: ``loop.time`` and the selector. A
loop asks its selector to wait only when no callback is ready; instead of waiting, the selector in front moves the
clock. Every timer of the loop, whoever set it, follows: the engine's, and ``asyncio.sleep`` in the user's code.

Time starts at 0 and the wall time is kept apart from it: a loop whose time is in the billions cannot tell a timer's
moment from the one before it (the spacing of floats near 1.7e9 is 2.4e-7).
"""

from __future__ import annotations

import asyncio
import contextlib
import numbers
import threading
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pytest_workflow.loops import RESOLUTION, Attachment, WorkflowStuckError
from pytest_workflow.own_loop import OwnLoop
from workflow_core.clock import WallTimer
from workflow_core.event_loops import running_loop
from workflow_core.timeouts import LONGEST_MS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_workflow.own_loop import SpareLoops
    from pytest_workflow.schedules import Reorder
    from workflow_core.clock import TimerHandle

__tracebackhide__ = True  # pytest leaves the frames of this module out
__all__ = ["DEFAULT_START", "Sleep", "VirtualClock", "WorkflowStuckError"]

DEFAULT_START = datetime(2025, 1, 1, tzinfo=UTC)
"""The wall time at which a test begins, unless it says otherwise."""

_MOST_JUMPS = 100_000
_MOST_JUMPS_TO_END = 1_000
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Sleep:
    """One wait that an execution made.

    Attributes:
        step_id: The sleep, or the step that backs off; empty for the wait before a restart.
        ms: Its length, in milliseconds.
        kind: ``sleep``, ``backoff`` or ``restart``.
    """

    step_id: str
    ms: int
    kind: Literal["sleep", "backoff", "restart"]


class _Advance(Awaitable[None]):
    """What `VirtualClock.advance` returns where it has done its work already."""

    def __await__(self) -> Generator[None, None, None]:
        return
        yield  # never reached: it makes this a generator, which is over at once


class VirtualClock:
    """A clock for an engine, an event loop and the user's code.

    Args:
        start: The wall time at which it begins; aware.
        automatic: Jump to the next deadline whenever nothing is runnable. Otherwise only `advance` moves the clock.
        loops: Where the clock's own event loop is from, and goes back to; without it, the clock makes and closes it.
    """

    def __init__(
        self, start: datetime = DEFAULT_START, *, automatic: bool = True, loops: SpareLoops | None = None
    ) -> None:
        self.start = start
        self.sleeps: list[Sleep] = []
        self.automatic = automatic
        self.reorder: Reorder | None = None
        self._elapsed = 0.0
        self._wall_offset = timedelta()
        self._limit = float("inf") if automatic else 0.0
        self._jumps_left = _MOST_JUMPS
        self._attached: dict[asyncio.AbstractEventLoop, Attachment] = {}
        self._own_loop = OwnLoop(self, loops)
        self._wall_timers: weakref.WeakKeyDictionary[WallTimer, asyncio.AbstractEventLoop] = weakref.WeakKeyDictionary()
        self._thread = threading.get_ident()
        self.earlier_threads = threading.enumerate()
        self._outside = 0
        self._describe: Callable[[], Iterable[str]] = list
        self._check: Callable[[], object] = list

    def __repr__(self) -> str:
        mode = "automatic" if self.automatic else "manual"
        return f"<VirtualClock {self.now().isoformat()} (+{self._elapsed:.3f} s, {mode})>"

    # The protocol that the engine uses -------------------------------------------------------------------------------

    def now(self) -> datetime:
        """Return the virtual wall time, aware and in UTC."""
        return self.start + self._wall_offset + timedelta(microseconds=round(self._elapsed * 1e6))

    def monotonic(self) -> float:
        """Return the virtual seconds since the start of the test."""
        return self._elapsed

    async def sleep(self, delay_ms: float) -> None:
        """Wait for ``delay_ms`` virtual milliseconds."""
        self.attach(asyncio.get_running_loop())
        await asyncio.sleep(max(delay_ms, 0) / 1_000)

    def call_at(self, when: datetime, callback: Callable[[], object]) -> TimerHandle:
        """Call ``callback`` at the virtual wall time ``when``."""
        loop = asyncio.get_running_loop()
        self.attach(loop)
        timer = WallTimer(self, when, callback)
        self._wall_timers[timer] = loop
        return timer

    def call_later(self, delay_ms: float, callback: Callable[[], object]) -> TimerHandle:
        """Call ``callback`` after ``delay_ms`` virtual milliseconds."""
        loop = asyncio.get_running_loop()
        self.attach(loop)
        return loop.call_later(max(delay_ms, 0) / 1_000, callback)

    # Moving ----------------------------------------------------------------------------------------------------------

    def advance(self, duration: float | timedelta) -> Awaitable[None]:
        """Let virtual time pass: what is due in it happens, in order, and all that is runnable has run afterwards.

        In a synchronous test the call returns when that is done. In an asynchronous test, await it.

        Args:
            duration: Milliseconds, or a ``timedelta``; not negative, and a century at most.

        Raises:
            TypeError: The duration is neither a number nor a ``timedelta``.
            ValueError: The duration is negative, because time does not go backwards, or too long.
            AssertionError: An assertion in a workflow failed, or nothing could go on.
        """
        __tracebackhide__ = True
        milliseconds = _milliseconds(duration, "advance")
        if milliseconds < 0:
            raise ValueError(f"cannot advance by {duration!r}: time does not go backwards")
        target = self._elapsed + milliseconds / 1_000
        if running_loop() is not None:
            return self._advance_and_check(target)
        self.run(self._advance_to(target))
        self._check()
        return _Advance()

    async def _advance_and_check(self, target: float) -> None:
        __tracebackhide__ = True
        await self._advance_to(target)
        self._check()

    async def _advance_to(self, target: float) -> None:
        loop = asyncio.get_running_loop()
        attachment = self.attach(loop)
        self._limit = max(target, self._limit)  # for good: several tasks may let time pass at once
        reached = loop.create_future()
        loop.call_at(attachment.loop_time(target), lambda: None if reached.done() else reached.set_result(None))
        await reached
        await attachment.idle()

    def jump(self, seconds: float) -> None:
        """Move the clock forwards at once, without letting anything run in between.

        Args:
            seconds: How far; not negative.
        """
        self._move_to(self._elapsed + max(seconds, 0.0))
        if not self.automatic:
            self._limit = max(self._limit, self._elapsed)

    def jump_wall(self, duration: float | timedelta) -> None:
        """Move the wall clock alone, as a time server does; waits for moments notice, time-outs do not.

        Args:
            duration: Milliseconds, or a ``timedelta``; negative is backwards.

        Raises:
            TypeError: The duration is neither a number nor a ``timedelta``.
            ValueError: The duration is infinite, or leads out of the years that Python knows.
        """
        milliseconds = _milliseconds(duration, "jump")
        try:
            offset = self._wall_offset + timedelta(milliseconds=milliseconds)
            self.start + offset + timedelta(seconds=self._elapsed)
        except OverflowError:
            raise ValueError(f"cannot jump by {duration!r}: Python knows the years 1 to 9999 alone") from None
        self._wall_offset = offset
        for timer, loop in list(self._wall_timers.items()):
            if not loop.is_closed():
                loop.call_soon(timer.look, context=timer.context)

    def jump_to(self, elapsed: float) -> None:
        """Move the clock to the next timer, as far as it may move by itself.

        Args:
            elapsed: The timer's moment, in seconds since the start.

        Raises:
            WorkflowStuckError: Only `advance` may move the clock, or it has moved too often without any event.
        """
        if elapsed > self._limit + RESOLUTION:
            raise self.stuck(
                "Time has to pass, and the clock is in manual mode: a timer is due in "
                f"{(elapsed - self._elapsed) * 1_000:.0f} ms; call workflow_clock.advance(...)"
            )
        self._jumps_left -= 1
        if self._jumps_left < 0:
            raise self.stuck(f"The clock has jumped {_MOST_JUMPS:,} times, and nothing has happened in any workflow")
        self._move_to(elapsed)

    def note_progress(self) -> None:
        """Note that something has happened in a workflow, so that the clock may go on jumping."""
        self._jumps_left = _MOST_JUMPS

    def _move_to(self, elapsed: float) -> None:
        # Whole microseconds, as datetimes have them: sums of floats would show in comparisons of tests.
        self._elapsed = max(self._elapsed, round(elapsed, 6))

    @property
    def is_held(self) -> bool:
        """Whether time stands still until something comes from outside."""
        return self._outside > 0

    @contextlib.contextmanager
    def outside_work(self) -> Iterator[None]:
        """Let time stand still in the ``with`` block whenever nothing is runnable, and wait for the outside instead.

        For what an event loop cannot know to be under way: a thread that was not started through the loop, a child
        process, the other end of a socket. Work that goes through ``asyncio.to_thread`` or ``run_in_executor`` is
        waited for without this.
        """
        self._outside += 1
        try:
            yield
        finally:
            self._outside -= 1

    def is_ours(self) -> bool:
        """Tell whether the running thread is the test's."""
        return threading.get_ident() == self._thread

    def explain_with(self, describe: Callable[[], Iterable[str]]) -> None:
        """Take the lines that a `WorkflowStuckError` shows from ``describe``."""
        self._describe = describe

    def check_with(self, check: Callable[[], object]) -> None:
        """Call ``check`` at the end of each `advance`, which raises what it raises."""
        self._check = check

    # Event loops -----------------------------------------------------------------------------------------------------

    def run(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        """Run a coroutine to its end on this clock's own event loop, from synchronous code."""
        __tracebackhide__ = True
        if running_loop() is not None:
            coroutine.close()
            raise RuntimeError(
                "this test is asynchronous: await workflow.start(...) or the methods of workflow.engine, not the "
                "harness's synchronous methods"
            )
        return self._own_loop.run(coroutine)

    def settle(self) -> None:
        """Run what is runnable in the clock's own loop, without letting time pass."""
        self._own_loop.settle()

    def bury(self, process: object, doom: BaseException) -> None:
        """Let nothing of a simulated process go on that has died.

        Args:
            process: Which one.
            doom: What its threads meet when they sleep.
        """
        for attachment in self._attached.values():
            attachment.bury(process, doom)

    @contextlib.contextmanager
    def leading_loops(self) -> Iterator[None]:
        """Attach, in the ``with`` block, every event loop of asyncio's that the test's thread runs."""
        clock, original = self, asyncio.BaseEventLoop.run_forever

        def run_forever(loop: asyncio.BaseEventLoop) -> None:
            if clock.is_ours() and not isinstance(getattr(loop, "_selector", None), Attachment):
                clock.attach(loop)
            original(loop)

        loops: Any = asyncio.BaseEventLoop
        loops.run_forever = run_forever
        try:
            yield
        finally:
            loops.run_forever = original

    def attach(self, loop: asyncio.AbstractEventLoop, *, own: bool = False) -> Attachment:
        """Make an event loop run on this clock.

        Raises:
            InvalidStateError: The loop is not one of asyncio's own, such as uvloop's.
            RuntimeError: The loop runs on another virtual clock.
        """
        attachment = self._attached.get(loop)
        if attachment is None:
            attachment = self._attached[loop] = Attachment(self, loop, own=own)
        return attachment

    def detach(self) -> None:
        """Give every event loop back its own time, and close the clock's own one.

        Raises:
            RuntimeError: Tasks of the test ignore that they are cancelled; everything is undone all the same.
        """
        self._limit = float("inf")  # what is cancelled may need time to end
        with contextlib.ExitStack() as stack:
            stack.callback(self._own_loop.close)
            stack.callback(self._attached.clear)
            for attachment in self._attached.values():
                stack.callback(attachment.detach)
            stubborn = self._own_loop.end_everything()
            if stubborn:
                raise RuntimeError(
                    "these tasks were cancelled at the end of the test and went on all the same:\n"
                    + "\n".join(f"  {line}" for line in stubborn)
                )

    def stop_soon(self) -> None:
        """Jump only a few times more unless something happens: what was cancelled has little to wait for."""
        self._jumps_left = _MOST_JUMPS_TO_END

    def pause(self) -> asyncio.Future[None]:
        """Let what is runnable in the running event loop wait until nothing else is runnable.

        Returns:
            What is done then. Whoever awaits it goes on first, then the others in their old order.
        """
        return self.attach(asyncio.get_running_loop()).pause()

    def stuck(self, reason: str, outside: Iterable[str] = ()) -> WorkflowStuckError:
        """Return the error that explains why nothing goes on.

        Args:
            reason: Why.
            outside: What goes on outside the event loop, line by line.
        """
        lines = [f"  {line}" for line in (*self._describe(), *outside)]
        return WorkflowStuckError("\n".join([f"{reason} (virtual time {self.now().isoformat()})", *lines]))


def _milliseconds(duration: object, verb: str) -> float:
    milliseconds = _number(duration, verb)
    if not abs(milliseconds) <= LONGEST_MS:
        raise ValueError(f"cannot {verb} by {duration!r}: no moment is that far away")
    return milliseconds


def _number(duration: object, verb: str) -> float:
    if isinstance(duration, timedelta):
        return duration / timedelta(milliseconds=1)
    if not isinstance(duration, numbers.Real) or isinstance(duration, bool):
        raise TypeError(f"cannot {verb} by {duration!r}: a number of milliseconds or a timedelta is needed")
    return float(duration)
