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
import functools
import threading
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

from workflow_core.clock import WallTimer

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_workflow.schedules import Reorder, Schedule
    from workflow_core.clock import TimerHandle

__all__ = ["DEFAULT_START", "Sleep", "VirtualClock", "WorkflowStuckError"]

DEFAULT_START = datetime(2025, 1, 1, tzinfo=UTC)
"""The wall time at which a test begins, unless it says otherwise."""

_RESOLUTION = 1e-6
_THREAD_GRACE_SECONDS = 0.25
_OUTSIDE_GRACE_SECONDS = 5.0
_MOST_JUMPS = 1_000_000
_T = TypeVar("_T")


class WorkflowStuckError(AssertionError):
    """Nothing is runnable and no timer is set: the test would hang. The message tells who waits for what."""


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
        yield


class VirtualClock:
    """A clock for an engine, an event loop and the user's code.

    Args:
        start: The wall time at which it begins; aware.
        automatic: Jump to the next deadline whenever nothing is runnable. Otherwise only `advance` moves the clock.
    """

    def __init__(self, start: datetime = DEFAULT_START, *, automatic: bool = True) -> None:
        self.start = start
        self.sleeps: list[Sleep] = []
        self.automatic = automatic
        self._elapsed = 0.0
        self._wall_offset = timedelta()
        self._limit = float("inf") if automatic else 0.0
        self._attached: dict[asyncio.AbstractEventLoop, _Attachment] = {}
        self._own_loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.get_ident()
        self._outside = 0
        self._describe: Callable[[], Iterable[str]] = list
        self._reorder: Reorder | None = None

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
        self.attach(asyncio.get_running_loop())
        return WallTimer(self, when, callback)

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
            duration: Milliseconds, or a ``timedelta``; not negative.

        Raises:
            ValueError: The duration is negative: time does not go backwards.
        """
        milliseconds = duration / timedelta(milliseconds=1) if isinstance(duration, timedelta) else float(duration)
        if not milliseconds >= 0:
            raise ValueError(f"cannot advance by {duration!r}: time does not go backwards")
        target = self._elapsed + milliseconds / 1_000
        if _is_running():
            return self._advance_to(target)
        self.run(self._advance_to(target))
        return _Advance()

    async def _advance_to(self, target: float) -> None:
        loop = asyncio.get_running_loop()
        attachment = self.attach(loop)
        before, self._limit = self._limit, max(target, self._limit)
        try:
            reached = loop.create_future()
            loop.call_at(attachment.loop_time(target), reached.set_result, None)
            await reached
            await attachment.idle()
        finally:
            self._limit = before if self.automatic else max(before, target)

    def jump(self, seconds: float) -> None:
        """Move the clock forwards at once, without letting anything run in between.

        Args:
            seconds: How far; not negative.
        """
        self._move_to(self._elapsed + max(seconds, 0.0))
        if not self.automatic:
            self._limit = max(self._limit, self._elapsed)

    def jump_wall(self, duration: float | timedelta) -> None:
        """Move the wall clock alone, as a time server does; timers notice as they do in production.

        Args:
            duration: Milliseconds, or a ``timedelta``; negative is backwards.
        """
        self._wall_offset += duration if isinstance(duration, timedelta) else timedelta(milliseconds=duration)

    def _move_to(self, elapsed: float) -> None:
        self._elapsed = max(self._elapsed, elapsed)

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

    @contextlib.contextmanager
    def scheduled(self, schedule: Schedule) -> Iterator[None]:
        """Let a schedule choose, in the ``with`` block, which of several runnable tasks goes first.

        It chooses in the clock's own event loop alone, which runs the harness's synchronous methods.
        """
        before, self._reorder = self._reorder, schedule.begin()
        try:
            yield
        finally:
            self._reorder = before

    def is_ours(self) -> bool:
        """Tell whether the running thread is the test's."""
        return threading.get_ident() == self._thread

    def explain_with(self, describe: Callable[[], Iterable[str]]) -> None:
        """Take the lines that a `WorkflowStuckError` shows from ``describe``."""
        self._describe = describe

    # Event loops -----------------------------------------------------------------------------------------------------

    def run(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        """Run a coroutine to its end on this clock's own event loop, from synchronous code."""
        __tracebackhide__ = True
        if _is_running():
            coroutine.close()
            raise RuntimeError(
                "this test is asynchronous: await workflow.start(...) or the methods of workflow.engine, not the "
                "harness's synchronous methods"
            )
        if self._own_loop is None:
            self._own_loop = asyncio.SelectorEventLoop()
            self.attach(self._own_loop, own=True)
        return self._own_loop.run_until_complete(coroutine)

    @contextlib.contextmanager
    def leading_loops(self) -> Iterator[None]:
        """Attach, in the ``with`` block, every event loop of asyncio's that the test's thread runs."""
        clock, original = self, asyncio.BaseEventLoop.run_forever

        def run_forever(loop: asyncio.BaseEventLoop) -> None:
            if clock.is_ours() and not isinstance(getattr(loop, "_selector", None), _Attachment):
                clock.attach(loop)
            original(loop)

        loops: Any = asyncio.BaseEventLoop
        loops.run_forever = run_forever
        try:
            yield
        finally:
            loops.run_forever = original

    def attach(self, loop: asyncio.AbstractEventLoop, *, own: bool = False) -> _Attachment:
        """Make an event loop run on this clock.

        Raises:
            TypeError: The loop is not one of asyncio's own, such as uvloop's.
            RuntimeError: The loop runs on another virtual clock.
        """
        attachment = self._attached.get(loop)
        if attachment is None:
            attachment = self._attached[loop] = _Attachment(self, loop, own=own)
        return attachment

    def detach(self) -> None:
        """Give every event loop back its own time, and close the clock's own one."""
        loop, self._own_loop = self._own_loop, None
        self._limit = float("inf")  # what is cancelled may need time to end
        if loop is not None:
            _cancel_everything(loop)
        for attachment in self._attached.values():
            attachment.detach()
        self._attached.clear()
        if loop is not None:
            loop.close()

    def _stuck(self, reason: str) -> WorkflowStuckError:
        lines = [f"  {line}" for line in self._describe()]
        return WorkflowStuckError("\n".join([f"{reason} (virtual time {self.now().isoformat()})", *lines]))


class _Attachment:
    """A clock in front of one event loop."""

    def __init__(self, clock: VirtualClock, loop: asyncio.AbstractEventLoop, *, own: bool) -> None:
        self._loop = cast("Any", loop)  # parts of it are replaced, which its type does not provide for
        self._selector: Any = getattr(loop, "_selector", None)
        if self._selector is None or not isinstance(loop, asyncio.BaseEventLoop):
            name = f"{type(loop).__module__}.{type(loop).__qualname__}"
            raise TypeError(f"{name} cannot run on virtual time; use asyncio's own event loop in tests")
        self._clock = clock
        other = self._selector._clock if isinstance(self._selector, _Attachment) else None
        if other is not None:
            raise RuntimeError(
                f"this event loop runs on {other!r} and cannot run on {clock!r} as well: one clock for all engines of "
                "an event loop"
            )
        self._own = own
        self._offset = 0.0 if own else loop.time() - clock._elapsed
        self._resolution = self._loop._clock_resolution
        self._run_in_executor = loop.run_in_executor
        self._pools: dict[object, _Pool] = {}
        self._idle: list[asyncio.Future[None]] = []
        self._jumps = 0
        self._loop.time = self.time
        self._loop._selector = self
        self._loop._clock_resolution = max(self._resolution, _RESOLUTION)
        self._loop.run_in_executor = self.run_in_executor

    def detach(self) -> None:
        """Put the loop's own parts back."""
        loop = self._loop
        loop._selector = self._selector
        loop._clock_resolution = self._resolution
        del loop.time, loop.run_in_executor
        for pool in self._pools.values():
            pool.wake_all()

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - any attribute of the selector
        return getattr(self._selector, name)

    def time(self) -> float:
        """Return the loop's time."""
        return self._offset + self._clock._elapsed

    def loop_time(self, elapsed: float) -> float:
        """Return the loop's time at ``elapsed`` seconds of the clock."""
        return self._offset + elapsed

    def run_in_executor(self, executor: Any, function: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:  # noqa: ANN401
        """Note work that goes on in a thread: virtual time stands still until it is done, or sleeps."""
        pool = self._pools.setdefault(executor, _Pool(self._loop))
        if executor is None or isinstance(executor, ThreadPoolExecutor):
            function = functools.partial(pool.run, function)
        future: asyncio.Future[Any] = self._run_in_executor(executor, function, *args)
        pool.workers = getattr(executor or self._loop._default_executor, "_max_workers", None)
        pool.submitted += 1
        future.add_done_callback(pool.done)
        return future

    async def idle(self) -> None:
        """Wait until nothing else is runnable."""
        waiter = self._loop.create_future()
        self._idle.append(waiter)
        await waiter

    def select(self, timeout: float | None = None) -> list[Any]:
        """Move the clock instead of waiting."""
        if self._own and self._clock._reorder is not None:
            self._clock._reorder(self._loop._ready)
        events: list[Any] = self._selector.select(0)
        if events or (timeout is not None and timeout <= 0):
            return events
        if self._clock._outside or not all(pool.is_waiting() for pool in self._pools.values()):
            brought: list[Any] = self._selector.select(None)
            return brought
        if self._idle:
            waiters, self._idle = self._idle, []
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)
            return []
        if timeout is None:
            return self._nothing_left()
        clock = self._clock
        target = clock._elapsed + timeout
        if target > clock._limit + _RESOLUTION:
            raise clock._stuck(
                f"Time has to pass, and the clock is in manual mode: a timer is due in {timeout * 1_000:.0f} ms; "
                "call workflow_clock.advance(...)"
            )
        self._jumps += 1
        if self._jumps > _MOST_JUMPS:
            raise clock._stuck(f"The clock has jumped {_MOST_JUMPS:,} times without an end")
        clock._move_to(target)
        return []

    def _nothing_left(self) -> list[Any]:
        """Nothing is runnable, and no timer is set: only something outside the loop can help."""
        grace = 0.0
        if len(self._selector.get_map() or ()) > 1:  # more than the loop's own wake-up pipe
            grace = _OUTSIDE_GRACE_SECONDS
        elif not self._own or threading.active_count() > 1:
            grace = _THREAD_GRACE_SECONDS
        late: list[Any] = self._selector.select(grace)
        if late:
            return late
        raise self._clock._stuck("Nothing can go on: no code is runnable, and no timer is set")


class _Pool:
    """The work that an event loop gave to one executor.

    Attributes:
        workers: How many jobs the executor runs at the same time, as far as is known.
        submitted: The jobs that are not done.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._lock = threading.Lock()
        self._running = 0
        self._asleep: set[threading.Event] = set()
        self._closed = False
        self.workers: int | None = None
        self.submitted = 0

    def run(self, function: Callable[..., Any], *args: Any) -> Any:  # noqa: ANN401 - whatever the function returns
        """Run a job, in its thread."""
        with self._lock:
            self._running += 1
        _worker.pool = self
        try:
            return function(*args)
        finally:
            _worker.pool = None
            with self._lock:
                self._running -= 1

    def done(self, future: asyncio.Future[Any]) -> None:
        """Note the end of a job, in the event loop."""
        del future
        self.submitted -= 1

    def is_waiting(self) -> bool:
        """Tell whether every job waits for virtual time, by itself or for a worker that does."""
        if not self.submitted:
            return True
        running = self._running
        return len(self._asleep) == running and running in {self.submitted, self.workers}

    def sleep(self, seconds: float) -> bool:
        """Sleep in a job's thread; tell whether that was possible."""
        awake = threading.Event()
        try:
            self._loop.call_soon_threadsafe(self._fall_asleep, awake, seconds)
        except RuntimeError:  # the loop was closed
            return False
        awake.wait()
        return True

    def _fall_asleep(self, awake: threading.Event, seconds: float) -> None:
        if self._closed:
            awake.set()
            return
        self._asleep.add(awake)
        self._loop.call_later(seconds, self._wake, awake)

    def _wake(self, awake: threading.Event) -> None:
        self._asleep.discard(awake)
        awake.set()

    def wake_all(self) -> None:
        """Let every thread go on: virtual time is over."""
        self._closed = True
        for awake in list(self._asleep):
            self._wake(awake)


_worker = threading.local()


def sleep_in_thread(seconds: float) -> bool:
    """Let virtual time pass in a thread that works for an event loop; tell whether the running one does."""
    pool: _Pool | None = getattr(_worker, "pool", None)
    return pool is not None and pool.sleep(seconds)


def _is_running() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _cancel_everything(loop: asyncio.AbstractEventLoop) -> None:
    """Let the tasks of a loop end, as `asyncio.run` does."""
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        loop.run_until_complete(asyncio.wait(tasks, timeout=60))
    loop.run_until_complete(loop.shutdown_asyncgens())
