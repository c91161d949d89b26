"""A virtual clock in front of an event loop."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, cast

from pytest_workflow.threads import OUTSIDE_GRACE_SECONDS, Patience, Threads, Work, process, processor_time
from workflow_core import outside
from workflow_core.errors import InvalidStateError
from workflow_core.suspended import where
from workflow_core.timeouts import LONGEST_MS

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Iterator
    from concurrent.futures import Executor

    from pytest_workflow.clock import VirtualClock

__all__ = ["RESOLUTION", "Attachment", "WorkflowStuckError", "background"]

RESOLUTION = 1e-6
_POLL_SECONDS = 0.1

_HORIZON_SECONDS = 2 * LONGEST_MS / 1_000
"""What sleeps for longer than any wait of the engine, as ``asyncio.sleep(math.inf)`` does, waits for something else."""

_MOST_TASKS = 20
_REPLACED = ("time", "run_in_executor", "shutdown_default_executor", "create_task", "_make_subprocess_transport")

background: contextvars.ContextVar[bool] = contextvars.ContextVar("pytest_workflow_background", default=False)
"""Whether timers that are set now bring nothing that anybody could wait for, such as the renewal of a lease."""


class WorkflowStuckError(AssertionError):
    """Nothing is runnable and no timer is set: the test would hang. The message tells who waits for what."""


class Attachment:
    """Stands in front of an event loop's time, selector, threads and child processes.

    Args:
        clock: Tells the time.
        loop: One of asyncio's own event loops.
        own: Whether the loop is the clock's own, whose time begins with the clock's.

    Raises:
        InvalidStateError: The loop is not one of asyncio's own, such as uvloop's.
        RuntimeError: The loop runs on another virtual clock.
    """

    def __init__(self, clock: VirtualClock, loop: asyncio.AbstractEventLoop, *, own: bool) -> None:
        self._loop = cast("Any", loop)  # parts of it are replaced, which its type does not provide for
        self._selector: Any = getattr(loop, "_selector", None)
        if self._selector is None or not isinstance(loop, asyncio.BaseEventLoop):
            name = f"{type(loop).__module__}.{type(loop).__qualname__}"
            raise InvalidStateError(f"{name} cannot run on virtual time; use asyncio's own event loop in tests")
        self._clock = clock
        other = self._selector._clock if isinstance(self._selector, Attachment) else None
        if other is not None:
            raise RuntimeError(
                f"this event loop runs on {other!r} and cannot run on {clock!r} as well: one clock for all engines of "
                "an event loop"
            )
        self._is_own = own
        self._offset = 0.0 if own else loop.time() - clock.monotonic()
        self._resolution = self._loop._clock_resolution
        self._threads = Threads(loop, clock.earlier_threads)
        self._children: weakref.WeakSet[asyncio.SubprocessTransport] = weakref.WeakSet()
        self._patience = Patience()
        self._owners: weakref.WeakKeyDictionary[asyncio.Task[Any], object] = weakref.WeakKeyDictionary()
        self._paused: list[Callable[[], None]] = []
        self._settling: list[Callable[[], None]] = []
        self._idle: list[Callable[[], None]] = []
        self._create_task = loop.create_task
        self._make_subprocess_transport = self._loop._make_subprocess_transport
        self._shutdown_default_executor = loop.shutdown_default_executor
        self._loop._selector = self
        self._loop._clock_resolution = RESOLUTION  # the system's may be coarse, 16 ms on Windows
        self._loop.time = self.time
        self._loop.run_in_executor = self.run_in_executor
        self._loop.shutdown_default_executor = self.shutdown_default_executor
        self._loop.create_task = self.create_task
        self._loop._make_subprocess_transport = self.make_subprocess_transport

    def detach(self) -> None:
        """Put the loop's own parts back."""
        loop = self._loop
        loop._selector = self._selector
        loop._clock_resolution = self._resolution
        for name in _REPLACED:
            vars(loop).pop(name, None)
        self._threads.wake_all()
        if not loop.is_closed():
            _call_all(self._paused)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - any attribute of the selector
        return getattr(self._selector, name)

    # In the loop's place ---------------------------------------------------------------------------------------------

    def time(self) -> float:
        """Return the loop's time."""
        return self._offset + self._clock.monotonic()

    def loop_time(self, elapsed: float) -> float:
        """Return the loop's time at ``elapsed`` seconds of the clock."""
        return self._offset + elapsed

    def create_task(self, coroutine: Coroutine[Any, Any, Any], **options: Any) -> asyncio.Task[Any]:  # noqa: ANN401
        """Note whose task it is."""
        task: asyncio.Task[Any] = self._create_task(coroutine, **options)
        context: contextvars.Context | None = options.get("context")
        owner = process.get() if context is None else context.get(process)
        if owner is not None:
            self._owners[task] = owner
        return task

    def run_in_executor(
        self,
        executor: Executor | None,
        function: Callable[..., Any],
        *args: Any,  # noqa: ANN401
    ) -> asyncio.Future[Any]:
        """Note work that goes on in a thread: virtual time stands still until it is done, or sleeps."""
        loop = self._loop
        loop._check_closed()
        if executor is None:
            loop._check_default_executor()
            executor = loop._default_executor
        if executor is None:
            executor = ThreadPoolExecutor(thread_name_prefix="asyncio")
            loop.set_default_executor(executor)
        return self._threads.run(executor, function, args)

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - asyncio's own
        """Wait for threads as long as they show signs of life: a limit of virtual time would be over at once."""
        del timeout
        await self._shutdown_default_executor()

    async def make_subprocess_transport(self, *args: Any, **options: Any) -> asyncio.SubprocessTransport:  # noqa: ANN401
        """Note a child process: virtual time stands still while it works."""
        transport: asyncio.SubprocessTransport = await self._make_subprocess_transport(*args, **options)
        self._children.add(transport)
        return transport

    # Waiting until the loop is quiet ---------------------------------------------------------------------------------

    async def idle(self) -> None:
        """Wait until nothing is runnable, and no work is under way in threads."""
        await self._resolved_by(self._idle)

    async def settled(self) -> None:
        """Wait until nothing is runnable in the event loop itself."""
        await self._resolved_by(self._settling)

    async def _resolved_by(self, waiters: list[Callable[[], None]]) -> None:
        quiet = self._loop.create_future()
        waiters.append(lambda: None if quiet.done() else quiet.set_result(None))
        await quiet

    def pause(self) -> asyncio.Future[None]:
        """Set aside what is runnable; see `VirtualClock.pause`."""
        loop, aside = self._loop, []
        while loop._ready:  # one by one, because a thread may add to it meanwhile
            aside.append(loop._ready.popleft())
        for _ in aside:  # the loop has counted what it runs in this turn
            loop.call_soon(_do_nothing)
        paused: asyncio.Future[None] = loop.create_future()
        paused.add_done_callback(lambda _: loop._ready.extend(aside))
        self._paused.append(lambda: None if paused.done() else paused.set_result(None))
        return paused

    def bury(self, owner: object, doom: BaseException) -> None:
        """Let go on nothing of a simulated process that has died.

        Its tasks are cancelled. What does not end by that as soon as nothing else is runnable is dropped where it
        waits, before time moves.
        """
        self._threads.doom(owner, doom)
        tasks = [task for task, whose in self._owners.items() if whose is owner and not task.done()]
        for task in tasks:
            task.cancel()

        def drop() -> None:
            for handle in list(self._loop._scheduled):
                if handle._context.get(process) is owner:
                    handle.cancel()
            self.drop(task for task, whose in list(self._owners.items()) if whose is owner)

        self._settling.append(drop)

    def drop(self, tasks: Iterable[asyncio.Task[Any]]) -> None:
        """End tasks where they wait, whatever they do about their cancellation."""
        for task in tasks:
            coroutine = task.get_coro()
            if task.done() or coroutine is None:
                continue
            with contextlib.suppress(Exception, SystemExit):  # what its own clean-up raises, or that it awaits again
                coroutine.close()
            task.add_done_callback(_seen)
            task.cancel()

    def has_asynchronous_generators(self) -> bool:
        """Tell whether asynchronous generators are left that were begun in the loop, and not run to their end."""
        return bool(self._loop._asyncgens)

    def end(self, tasks: Iterable[asyncio.Task[Any]]) -> list[str]:
        """Log the errors of tasks that were cancelled; drop those that went on all the same, and describe these."""
        stubborn = [task for task in tasks if not task.done()]
        for task in tasks:
            error = task.exception() if task.done() and not task.cancelled() else None
            if isinstance(error, Exception):
                self._loop.call_exception_handler(
                    {"message": "a task failed when the test ended", "exception": error, "task": task}
                )
        described = [f"{task.get_name()}{where(task.get_coro())}" for task in stubborn]
        self.drop(stubborn)
        return described

    # In the selector's place -----------------------------------------------------------------------------------------

    def select(self, timeout: float | None = None) -> list[Any]:
        """Move the clock instead of waiting."""
        if self._is_own and self._clock.reorder is not None:
            self._clock.reorder(self._loop._ready)
        events: list[Any] = self._selector.select(0)
        if events:
            self._patience.renew()
        if events or (timeout is not None and timeout <= 0):
            return events
        if self._paused:
            return _call_all(self._paused)
        if self._settling:
            return _call_all(self._settling)
        if self._clock.is_held:
            brought: list[Any] = self._selector.select(None)
            return brought
        # what a job has told the loop just before it was no longer seen at work came after the first look
        brought = self._wait_for(self._at_work) or self._selector.select(0)
        if brought:
            return brought
        if self._idle:
            return _call_all(self._idle)
        if timeout is None or self._has_background_timers_only():
            return self._nothing_left()
        # asyncio asks for a day at most, but nothing can happen before the first timer
        first = self._loop._scheduled[0].when() - self._loop.time() if self._loop._scheduled else 0.0
        self._clock.jump_to(self._clock.monotonic() + max(timeout, first))
        self._patience.look_again()
        return []

    def _wait_for(self, works: Callable[[], list[Work]]) -> list[Any]:
        """Wait, in real time, for what goes on outside, as long as that shows signs of life."""
        while (seconds := self._patience.left(works())) > 0:
            brought: list[Any] = self._selector.select(min(seconds, _POLL_SECONDS))
            if brought:
                self._patience.renew()
                return brought
        return []

    def _at_work(self) -> list[Work]:
        works = self._threads.at_work()
        for child in self._children:
            if child.get_returncode() is None:
                pid = child.get_pid()
                works.append(Work(child, processor_time(pid), OUTSIDE_GRACE_SECONDS, f"child process {pid}"))
        answered = outside.is_going_on(self._loop)
        if answered is not None:
            works.append(Work("outside", answered, OUTSIDE_GRACE_SECONDS, "a database server"))
        return works

    def _has_background_timers_only(self) -> bool:
        horizon = self._loop.time() + _HORIZON_SECONDS
        return all(
            timer.cancelled() or timer.when() > horizon or timer._context.get(background, False)
            for timer in self._loop._scheduled
        )

    def _nothing_left(self) -> list[Any]:
        """Nothing is runnable, and no timer is set: only something outside the loop can help."""
        if self._patience.overtaken:
            self._patience.renew()
        # what a thread has told the loop just before it ended came after the first look
        late: list[Any] = self._wait_for(self._outside) or self._selector.select(0)
        if late:
            return late
        waiting = [*self._users_tasks(), *self.outside()]
        raise self._clock.stuck("Nothing can go on: no code is runnable, and no timer is set", waiting)

    def _users_tasks(self) -> Iterator[str]:
        """Describe where the tasks wait that the test or its steps made, and the task that an asynchronous test is."""
        from pytest_workflow.frames import users_frame  # noqa: PLC0415 - only where a test is stuck

        tasks = sorted(asyncio.all_tasks(self._loop), key=asyncio.Task.get_name)
        for task in tasks[:_MOST_TASKS]:
            coroutine = task.get_coro()
            frame = getattr(coroutine, "cr_frame", None)
            if frame is not None and users_frame(frame) is frame:
                yield f'the task "{task.get_name()}" waits{where(coroutine)}'

    def _outside(self) -> list[Work]:
        works = [*self._at_work(), *self._threads.elsewhere()]
        sockets = self._open_sockets()
        if sockets > 0:
            works.append(Work(self, "", OUTSIDE_GRACE_SECONDS, f"{sockets} open sockets or pipes"))
        return works

    def _open_sockets(self) -> int:
        """Return what the loop waits for besides its own wake-up pipe; Windows' loop has a cache of operations."""
        waiting = self._selector.get_map() if hasattr(self._selector, "get_map") else self._selector._cache
        return len(waiting or ()) - 1

    def outside(self) -> Iterator[str]:
        """Describe what goes on outside the loop, line by line."""
        described = [work.description for work in self._outside() if work.description]
        if described:
            yield "outside the event loop, nothing has come for a while from:"
            yield from (f"  {line}" for line in described)
            yield "use `with workflow_clock.outside_work():` around what has to wait longer for it"


def _do_nothing() -> None:
    """Stand in a loop's queue for what was set aside."""


def _call_all(waiters: list[Callable[[], None]]) -> list[Any]:
    called, waiters[:] = list(waiters), []
    for call in called:
        call()
    return []


def _seen(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()
