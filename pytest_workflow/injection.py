"""One fault at work: how often it struck, and what it does to an attempt."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

import pydantic_core

from pytest_workflow.plan import (
    ClockJump,
    Custom,
    Delay,
    Fault,
    FaultRule,
    Panic,
    Raise,
    Return,
    TimeOut,
    imported,
)
from workflow_core.errors import ValidationError
from workflow_core.hookspecs import Attempt, AttemptHandler
from workflow_core.serialization import class_path

if TYPE_CHECKING:
    from pytest_workflow.clock import VirtualClock

__tracebackhide__ = True  # pytest leaves the frames of this module out
__all__ = [
    "ArmedFault",
    "AttemptWrapper",
    "CustomFault",
    "answering",
    "check_callable",
    "described_error",
    "is_json",
    "make_wrapper",
    "raising",
]

AttemptWrapper: TypeAlias = Callable[[Attempt, AttemptHandler], AttemptHandler]
"""Puts something around what an attempt runs, or in its place."""

CustomFault: TypeAlias = Callable[[Custom], AttemptWrapper]
"""Makes the wrapper of a fault that a plugin carries out."""

_HANG_MS = 3_600_000


@dataclass(slots=True, eq=False)
class ArmedFault:
    """A rule of a plan at work.

    Attributes:
        rule: The rule.
        description: What it does, as it was asked for.
        portable: Whether the rule says everything; a function or an error that JSON cannot hold does not travel.
        matched: How many places matched, apart from their number.
        fired: How often it struck.
        explores: Whether it is a place of crash exploration, which counts what is committed alone.
    """

    rule: FaultRule
    description: str
    wrap: AttemptWrapper | None = None
    portable: bool = True
    matched: int = 0
    fired: int = 0
    explores: bool = False


# What a fault does ---------------------------------------------------------------------------------------------------


def make_wrapper(fault: Fault, clock: VirtualClock, custom: CustomFault | None) -> AttemptWrapper | None:
    """Return what carries a fault out in an attempt; ``None`` for a fault that strikes elsewhere.

    Args:
        fault: The fault.
        clock: What it moves or waits on.
        custom: Makes the wrapper of a custom fault.

    Raises:
        ValidationError: An error class cannot be imported.
        ValueError: No plugin carries a custom fault out.
    """
    match fault:
        case Raise(error=path, args=args):
            cls = imported(path)
            return raising(_tried(cls, args))
        case Panic(message=message):
            return raising(lambda: RuntimeError(message))
        case Return(value=value):
            return answering(lambda: value)
        case Delay(ms=milliseconds):
            return beforehand(lambda: clock.sleep(milliseconds))
        case TimeOut():
            return beforehand(lambda: _hang(clock))
        case ClockJump(ms=milliseconds):
            return beforehand(lambda: _jump(clock, milliseconds))
        case Custom(name=name):
            if custom is None:
                raise ValueError(f'no plugin carries out the custom fault "{name}"')
            return custom(fault)
    return None


def raising(make: Callable[[], BaseException]) -> AttemptWrapper:
    """Return what raises an error in the place of an attempt."""

    def wrap(attempt: Attempt, call: AttemptHandler) -> AttemptHandler:
        del attempt, call

        async def failing() -> object:
            raise make()

        return failing

    return wrap


def answering(function: Callable[[], object]) -> AttemptWrapper:
    """Return what calls a function in the place of an attempt."""

    def wrap(attempt: Attempt, call: AttemptHandler) -> AttemptHandler:
        del attempt, call

        async def answering() -> object:
            result = function()
            return await result if isinstance(result, Awaitable) else result

        return answering

    return wrap


def check_callable(function: object) -> None:
    """Refuse what cannot stand for the function of a step.

    Raises:
        TypeError: It is no function, or needs arguments.
    """
    problem = "" if callable(function) else "it cannot be called"
    if callable(function):
        try:
            inspect.signature(function).bind()
        except TypeError as error:
            problem = str(error)
        except ValueError:  # built in, without a signature to look at
            return
    if problem:
        raise TypeError(f"a step runs a function without arguments, not {function!r}: {problem}")


def beforehand(first: Callable[[], Awaitable[Any]]) -> AttemptWrapper:
    """Return what awaits something before an attempt."""

    def wrap(attempt: Attempt, call: AttemptHandler) -> AttemptHandler:
        del attempt

        async def later() -> object:
            await first()
            return await call()

        return later

    return wrap


async def _hang(clock: VirtualClock) -> NoReturn:
    await clock.sleep(_HANG_MS)
    raise TimeoutError("injected: no answer within an hour")


async def _jump(clock: VirtualClock, milliseconds: float) -> None:
    clock.jump_wall(milliseconds)


# Describing errors ---------------------------------------------------------------------------------------------------


def described_error(
    error: BaseException | type[BaseException] | str,
) -> tuple[Callable[[], BaseException], Raise, bool]:
    """Return what makes the error, the fault that stands for it, and whether that fault says everything."""
    if isinstance(error, str):
        return lambda: RuntimeError(error), Raise(error="builtins:RuntimeError", args=(error,)), True
    if isinstance(error, type) and issubclass(error, BaseException):
        return _tried(error), Raise(error=class_path(error)), _is_importable(error)
    if isinstance(error, BaseException):
        described, portable = _portable(error)
        return lambda: error.with_traceback(None), described, portable
    raise TypeError(f"a step can fail with an error, an error class or a message; not with {error!r}")


def _tried(cls: type[BaseException], args: tuple[object, ...] = ()) -> Callable[[], BaseException]:
    """Return what makes an error of a class, which was tried once.

    Raises:
        ValidationError: The class cannot be called like this.
    """
    try:
        made = cls(*args)
    except (Exception, SystemExit) as problem:  # noqa: BLE001 - a class of the user's may refuse arguments in any way
        way_out = "" if args else "; give an error instead of its class"
        raise ValidationError(
            f"{cls.__qualname__} cannot be made with arguments {args!r}: {problem}{way_out}"
        ) from None
    if not isinstance(made, BaseException):
        raise ValidationError(f"{cls.__qualname__}{args!r} makes {made!r}, which is no error")
    return lambda: cls(*args)


def _portable(error: BaseException) -> tuple[Raise, bool]:
    cls, args = type(error), error.args
    bare = Raise(error=class_path(cls))
    if not (_is_importable(cls) and all(is_json(item) for item in args)):
        return bare, False
    try:
        again = cls(*args)
    except Exception:  # noqa: BLE001 - a class of the user's may refuse its own args in any way
        return bare, False
    return Raise(error=bare.error, args=args), (again.args, vars(again)) == (args, vars(error))


def _is_importable(cls: type) -> bool:
    return "<" not in cls.__qualname__ and cls.__module__ != "__main__"


def is_json(value: object) -> bool:
    """Tell whether a value comes back equal from JSON."""
    try:
        return bool(pydantic_core.from_json(pydantic_core.to_json(value)) == value)
    except (ValueError, TypeError):
        return False
