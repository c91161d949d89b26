"""Calling the functions of users: those of workflows, of steps, and of steps' handlers."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from workflow_core.clock import Clock

__tracebackhide__ = True  # pytest leaves the frames of this module out
__all__ = ["invoked", "is_coroutine_function"]


def is_coroutine_function(function: Callable[..., Any]) -> bool:
    """Tell whether a function was written with ``async def``, and nothing stands around it; cheap to ask."""
    code: object = getattr(function, "__code__", None)
    # a proxy has whatever attribute it is asked for, so having a __code__ says little
    return isinstance(code, types.CodeType) and bool(code.co_flags & inspect.CO_COROUTINE)


async def invoked(function: Callable[..., Any], args: tuple[object, ...], clock: Clock, *, in_thread: bool) -> object:
    """Call a user's function of which `is_coroutine_function` is not true, in this task if it is asynchronous.

    Args:
        function: The function.
        args: What it is given.
        clock: The engine's.
        in_thread: Whether it is called in a thread if it is a plain function.
    """
    # a function without attributes is marked as nothing else than what its code says, which the caller has seen
    is_plain = type(function) is types.FunctionType and not function.__dict__
    if not is_plain and inspect.iscoroutinefunction(function):
        return await function(*args)
    if in_thread:
        result = await _called_in_thread(function, args)
    else:
        result = await _call_inline(function, args, clock)
    return await result if inspect.isawaitable(result) else result


async def _call_inline(function: Callable[..., object], args: tuple[object, ...], clock: Clock) -> object:
    """Call a plain function in the event loop's thread, with what a thread leaves room for before and after it."""
    await asyncio.sleep(0)  # tasks beside this one find the step running
    begun_at = clock.monotonic()
    try:
        return function(*args)
    finally:
        if clock.monotonic() > begun_at:
            await asyncio.sleep(0)  # the loop collects the timers that fell due meanwhile
            await asyncio.sleep(0)  # and they run: the time-out of this attempt is one


async def _called_in_thread(function: Callable[..., object], args: tuple[object, ...]) -> object:
    """Call a plain function in a thread, as `asyncio.to_thread` does."""
    job = functools.partial(contextvars.copy_context().run, _call_in_thread, function, args)
    result = asyncio.get_running_loop().run_in_executor(None, job)
    if result.done():  # a quick function has ended already, and late versions of Python 3.14 tell so at once
        await asyncio.sleep(0)  # tasks beside this one find the step running
    return await result


def _call_in_thread(function: Callable[..., object], args: tuple[object, ...]) -> object:
    """Call a plain function; no future can carry ``StopIteration``, so it leaves as it would leave a coroutine."""
    try:
        return function(*args)
    except StopIteration as error:
        raise RuntimeError("the function raised StopIteration") from error
