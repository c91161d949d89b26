"""Ctrl-C and SIGTERM: asynchronous code that they stop in an orderly way."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from workflow_core.cli.failures import INTERRUPTED, TERMINATED

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

__all__ = ["Interrupted", "run_stoppable", "run_until_stopped", "was_stopped"]

ResultT = TypeVar("ResultT")

_AT_MOST_SECONDS = 3.0
"""How long the end of what a second signal has stopped may take."""


class Interrupted(Exception):  # noqa: N818 - it is no error
    """The code was stopped.

    Attributes:
        exit_code: What the command ends with.
    """

    def __init__(self, exit_code: int) -> None:
        super().__init__()
        self.exit_code = exit_code


def run_stoppable(work: Coroutine[Any, Any, ResultT]) -> ResultT:
    """Run asynchronous code to its end.

    Raises:
        Interrupted: It was stopped by a signal.
    """
    received: list[int] = []
    executor = _Executor(thread_name_prefix="workflow step")
    try:
        return asyncio.run(_stoppable(work, received, executor))
    except (KeyboardInterrupt, asyncio.CancelledError):
        raise Interrupted(TERMINATED if signal.SIGTERM in received else INTERRUPTED) from None


class _Executor(ThreadPoolExecutor):
    """Runs plain steps, and is not waited for once the command was interrupted: a step may block for long.

    Attributes:
        interrupted: Whether it was.
    """

    interrupted = False

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002 - its base's
        """Let go of the threads."""
        super().shutdown(wait and not self.interrupted, cancel_futures=cancel_futures)


async def _stoppable(work: Coroutine[Any, Any, ResultT], received: list[int], executor: _Executor) -> ResultT:
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    loop.set_default_executor(executor)

    def stop() -> None:
        received.append(signal.SIGTERM)
        if task is not None:
            task.cancel()

    with contextlib.suppress(NotImplementedError, ValueError, RuntimeError):  # Windows, or not the main thread
        loop.add_signal_handler(signal.SIGTERM, stop)
    try:
        return await work
    except asyncio.CancelledError:
        executor.interrupted = True
        raise


_stopped = False


def was_stopped() -> bool:
    """Tell whether a signal has stopped what `run_until_stopped` ran; its threads are not waited for."""
    return _stopped


def run_until_stopped(work: Callable[[asyncio.Event], Coroutine[Any, Any, None]], *, passed_on: bool = False) -> None:
    """Run asynchronous code that ends by itself, in an orderly way, when an event is set: Ctrl-C and SIGTERM set it.

    A second signal cancels it. If it has not ended three seconds later, because code does not let itself be cancelled
    or a server does not answer, the process ends all the same.

    Args:
        work: What to run; it is given the event.
        passed_on: Whether Ctrl-C comes twice: from the terminal, and from a process that passes it on.

    Raises:
        Interrupted: A second signal has cut the end short.
    """
    received: list[int] = []
    executor = _Executor(thread_name_prefix="workflow step")
    try:
        asyncio.run(_until_stopped(work, received, executor, 2 if passed_on else 1))
    except (KeyboardInterrupt, asyncio.CancelledError):
        raise Interrupted(_code_of(received)) from None


def _code_of(received: list[int]) -> int:
    return TERMINATED if received[-1:] == [signal.SIGTERM] else INTERRUPTED


def _end_at_once(code: int) -> None:
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write("Stopped at once; what did not let itself be stopped has ended with the process.\n")
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


async def _until_stopped(
    work: Callable[[asyncio.Event], Coroutine[Any, Any, None]], received: list[int], executor: _Executor, orderly: int
) -> None:
    loop, task, stop = asyncio.get_running_loop(), asyncio.current_task(), asyncio.Event()
    loop.set_default_executor(executor)

    def signalled(number: int) -> None:
        global _stopped  # noqa: PLW0603 - the process was stopped, which is a fact about the process
        received.append(number)
        if len(received) > orderly and task is not None:
            loop.set_exception_handler(lambda loop, context: None)  # noqa: ARG005 - what is cut off may end in any way
            task.cancel()
            end = threading.Timer(_AT_MOST_SECONDS, _end_at_once, [_code_of(received)])
            end.daemon = True
            end.start()
        executor.interrupted = _stopped = True
        stop.set()

    with contextlib.suppress(NotImplementedError, ValueError, RuntimeError):  # Windows, or not the main thread
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, signalled, number)
    await work(stop)
