"""What works for an event loop outside it: threads, above all, that may sleep on virtual time or show signs of life."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import sys
import threading
import time
import weakref
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_workflow.frames import users_frame

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator
    from concurrent.futures import Executor
    from types import FrameType

__all__ = ["LOCK_GRACE_SECONDS", "OUTSIDE_GRACE_SECONDS", "Patience", "Threads", "Work", "process", "sleep_in_thread"]

LOCK_GRACE_SECONDS = 1.0
"""How long a thread may wait for another one, in real seconds, until virtual time goes on without it."""

OUTSIDE_GRACE_SECONDS = 5.0
"""How long a thread, a child process or a socket may show no sign of life, in real seconds."""

_EARLIER_GRACE_SECONDS = 0.25
_LONGEST_SECONDS = 60.0
_WAKING_SECONDS = 0.05

_real_monotonic = time.monotonic

process: contextvars.ContextVar[object | None] = contextvars.ContextVar("pytest_workflow_process", default=None)
"""The simulated process whose code runs; ``None`` in the test's own code."""


# Signs of life -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Work:
    """Something that goes on outside an event loop, as it looks now.

    Attributes:
        key: What it is.
        sign: Another value than before shows that it lives.
        grace: How long it may show no sign of life, in real seconds.
        description: For whoever wonders what is waited for; empty for what is not worth telling.
    """

    key: Hashable
    sign: object
    grace: float
    description: str


class Patience:
    """Knows how long each work has shown no sign of life.

    Attributes:
        overtaken: Whether time has moved since something came from outside.
    """

    def __init__(self) -> None:
        self._seen: dict[Hashable, tuple[object, float, float]] = {}
        self.overtaken = False

    def renew(self) -> None:
        """Begin anew: something came from outside."""
        self._seen.clear()
        self.overtaken = False

    def look_again(self) -> None:
        """Time moves, which may wake what stands still."""
        if self._seen:
            soon = _real_monotonic() + _WAKING_SECONDS
            self._seen = {key: (sign, max(until, soon), end) for key, (sign, until, end) in self._seen.items()}
            self.overtaken = True

    def left(self, works: Iterable[Work]) -> float:
        """Return how many real seconds one of the works deserves to be waited for; 0 when all had their time."""
        now, longest = _real_monotonic(), 0.0
        seen = {}
        for work in works:
            sign, until, end = self._seen.get(work.key, (None, now, now + _LONGEST_SECONDS))
            until = until if sign == work.sign else now + work.grace
            seen[work.key] = work.sign, until, end
            longest = max(longest, min(until, end) - now)
        self._seen = seen
        return longest


def processor_time(identifier: int | None, *, thread: bool = False) -> str:
    """Return how much work the processor did for a process, or for a thread of this one; empty where it is unknown.

    Args:
        identifier: The system's number of the process or thread.
        thread: Whether it is a thread.
    """
    file = f"/proc/self/task/{identifier}/stat" if thread else f"/proc/{identifier}/stat"
    try:
        fields = Path(file).read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return ""
    return ":".join(fields[11:13])  # utime and stime of proc_pid_stat(5), counted from the field after the name


# Threads -------------------------------------------------------------------------------------------------------------


class _Job:
    """A function that an event loop gave to an executor.

    Attributes:
        owner: The simulated process that asked for it.
        thread: Where it runs, once it does.
        doom: What every further sleep in it raises.
    """

    def __init__(self, threads: Threads, executor: Executor, function: Callable[..., Any], arguments: Any) -> None:  # noqa: ANN401
        self.threads = threads
        self.executor = executor
        self.owner = process.get()
        self.thread: threading.Thread | None = None
        self.doom: BaseException | None = None
        self._function = function
        self._arguments = arguments

    def __repr__(self) -> str:
        function = self._function
        if isinstance(function, functools.partial) and function.args:  # asyncio.to_thread's, around the user's own
            function = function.args[0]
        return getattr(function, "__qualname__", None) or repr(function)

    def __call__(self) -> Any:  # noqa: ANN401 - whatever the function returns
        _worker.job = self
        self.thread = threading.current_thread()
        try:
            return self._function(*self._arguments)
        finally:
            _worker.job = None

    def note_end(self, future: asyncio.Future[Any]) -> None:
        """Let nobody ask how a job of a dead process ended."""
        if self.doom is not None and not future.cancelled():
            future.exception()


class _Sleeper:
    """A thread that sleeps on virtual time.

    Attributes:
        timer: Set once the event loop knows of the sleep.
    """

    def __init__(self, owner: object) -> None:
        self.owner = owner
        self.awake = threading.Event()
        self.timer: asyncio.TimerHandle | None = None
        self.doom: BaseException | None = None

    def wake(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
        self.awake.set()


class Threads:
    """The threads that work for one event loop.

    Args:
        loop: The event loop.
        earlier: Threads that lived before the test began; little is to be expected of them.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, earlier: Iterable[threading.Thread]) -> None:
        self._loop = loop
        self._earlier = weakref.WeakSet(earlier)
        self._lock = threading.Lock()
        self._jobs: set[_Job] = set()
        self._sleepers: dict[threading.Thread, _Sleeper] = {}
        self._closed = False
        _threads_of[loop] = self

    def run(self, executor: Executor, function: Callable[..., Any], arguments: tuple[Any, ...]) -> asyncio.Future[Any]:
        """Give work to an executor, and note it until it has ended, whether or not anybody still waits for it."""
        job = _Job(self, executor, function, arguments)
        with self._lock:
            self._jobs.add(job)
        try:
            is_pool = isinstance(executor, ThreadPoolExecutor)  # others may have to pickle what they are given
            begun = executor.submit(job) if is_pool else executor.submit(function, *arguments)
        except BaseException:
            self._forget(job)
            raise
        future = asyncio.wrap_future(begun, loop=self._loop)
        begun.add_done_callback(lambda _: self._forget(job))  # after the loop was told, or time would move in between
        future.add_done_callback(job.note_end)
        return future

    def _forget(self, job: _Job) -> None:
        with self._lock:
            self._jobs.discard(job)

    def at_work(self) -> list[Work]:
        """Return the jobs that do not wait for virtual time, by themselves or for a worker that does."""
        with self._lock:
            jobs = list(self._jobs)
        borrowed = list(self._borrowed())
        if not jobs and not borrowed:
            return []
        frames, foreign = sys._current_frames(), any(work.description for work in self.elsewhere())
        running = {job.thread: repr(job) for job in jobs if job.thread is not None and job.doom is None}
        running |= dict.fromkeys(borrowed, "a job")
        works = [
            self._seen(thread, name, frames.get(thread.ident or 0), foreign=foreign)
            for thread, name in running.items()
            if not self._is_asleep(thread)
        ]
        occupied = Counter(job.executor for job in jobs if job.thread is not None)
        for job in jobs:
            if not isinstance(job.executor, ThreadPoolExecutor):
                children = tuple(getattr(job.executor, "_processes", None) or ())
                sign = tuple(processor_time(child) for child in children)
                works.append(Work(job, sign, OUTSIDE_GRACE_SECONDS, f"{job!r} in {type(job.executor).__name__}"))
            elif job.thread is None and occupied[job.executor] < job.executor._max_workers:
                works.append(Work(job, "", LOCK_GRACE_SECONDS, f"{job!r}, which no thread has begun"))
        return works

    def _seen(self, thread: threading.Thread, name: str, frame: FrameType | None, *, foreign: bool) -> Work:
        # A thread that waits for a lock waits for another thread, or for what the event loop will do: no need to give
        # it as much time as one that may be waiting for the world.
        waits_for_threads = frame is not None and frame.f_globals.get("__name__") == "threading"
        between_threads = (waits_for_threads or any(map(self._is_asleep, list(self._sleepers)))) and not foreign
        sign = (id(frame), frame and frame.f_lasti, processor_time(thread.native_id, thread=True))
        grace = LOCK_GRACE_SECONDS if between_threads else OUTSIDE_GRACE_SECONDS
        return Work(thread, sign, grace, f'{name} in thread "{thread.name}"{_place(frame)}')

    def _is_asleep(self, thread: threading.Thread) -> bool:
        sleeper = self._sleepers.get(thread)
        return sleeper is not None and sleeper.timer is not None

    def _borrowed(self) -> Iterator[threading.Thread]:
        """Find the workers of anyio's that work for this event loop."""
        for thread in threading.enumerate() if threading.active_count() > 1 else ():
            if _anyio_loop(thread) is self._loop and getattr(thread, "queue").unfinished_tasks:  # noqa: B009 - anyio's own class
                yield thread

    def elsewhere(self) -> Iterator[Work]:
        """Find the threads that neither work for this event loop nor wait for work."""
        if threading.active_count() == 1:
            return
        with self._lock:
            ours = {job.thread for job in self._jobs}
        frames = sys._current_frames()
        for thread in threading.enumerate():
            frame = frames.get(thread.ident or 0)
            if (
                _waits_for_work(frame)
                or thread is threading.current_thread()
                or thread in ours
                or _anyio_loop(thread) is not None
            ):
                continue
            if thread in self._earlier:
                yield Work(thread, "", _EARLIER_GRACE_SECONDS, "")
            else:
                yield Work(thread, "", OUTSIDE_GRACE_SECONDS, f'thread "{thread.name}"{_place(frame)}')

    # Sleeping --------------------------------------------------------------------------------------------------------

    def sleep(self, seconds: float, job: _Job | None) -> bool:
        """Sleep in a thread that works for the event loop; tell whether that was possible."""
        if job is not None and job.doom is not None:
            raise job.doom
        thread = threading.current_thread()
        sleeper = self._sleepers[thread] = _Sleeper(process.get() if job is None else job.owner)
        try:
            if not self._closed:
                self._loop.call_soon_threadsafe(self._fall_asleep, sleeper, seconds)
                sleeper.awake.wait()
        except RuntimeError:  # the loop was closed
            return False
        finally:
            del self._sleepers[thread]
        if sleeper.doom is not None:
            raise sleeper.doom
        return True

    def _fall_asleep(self, sleeper: _Sleeper, seconds: float) -> None:
        if not sleeper.awake.is_set():
            sleeper.timer = self._loop.call_later(seconds, self._wake, sleeper)

    @staticmethod
    def _wake(sleeper: _Sleeper) -> None:
        sleeper.timer = None
        sleeper.awake.set()

    def doom(self, owner: object, error: BaseException) -> None:
        """Let the jobs of a simulated process end in their next sleep, and wait for them no longer."""
        with self._lock:
            jobs = list(self._jobs)
        for job in jobs:
            if job.owner is owner:
                job.doom = error
        for sleeper in list(self._sleepers.values()):
            if sleeper.owner is owner:
                sleeper.doom = error
                sleeper.wake()

    def wake_all(self) -> None:
        """Let every thread go on: virtual time is over."""
        self._closed = True
        _threads_of.pop(self._loop, None)
        for sleeper in list(self._sleepers.values()):
            sleeper.wake()


_worker = threading.local()
_threads_of: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Threads] = weakref.WeakKeyDictionary()


def sleep_in_thread(seconds: float) -> bool:
    """Let virtual time pass in a thread that works for an event loop; tell whether the running one does."""
    job: _Job | None = getattr(_worker, "job", None)
    if job is not None:
        return job.threads.sleep(seconds, job)
    loop = _anyio_loop(threading.current_thread())
    threads = None if loop is None else _threads_of.get(loop)
    return threads is not None and threads.sleep(seconds, None)


def _anyio_loop(thread: threading.Thread) -> asyncio.AbstractEventLoop | None:
    """Return the event loop that a worker of anyio's works for; ``None`` for other threads."""
    if not type(thread).__module__.startswith("anyio."):
        return None
    loop: asyncio.AbstractEventLoop | None = getattr(thread, "loop", None)
    return loop


def _waits_for_work(frame: FrameType | None) -> bool:
    """Tell whether a thread is an idle worker of a pool; one that shuts the pool down is in the same module."""
    if frame is None or frame.f_globals.get("__name__") != "concurrent.futures.thread":
        return False
    return frame.f_code.co_name == "_worker"


def _place(frame: FrameType | None) -> str:
    frame = users_frame(frame)
    return f", at {frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}" if frame is not None else ""
