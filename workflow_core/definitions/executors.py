"""The step types that this process knows: of this library, of installed distributions, and registered ones."""

from __future__ import annotations

import importlib.metadata
import logging
import threading
from collections.abc import Callable
from typing import Any, Final, TypeVar, overload

import pydantic

from workflow_core.definitions.builtin import BUILTIN_EXECUTORS
from workflow_core.definitions.executor import Executor
from workflow_core.errors import ValidationError, shown
from workflow_core.signatures import takes

__all__ = ["ENTRY_POINT_GROUP", "broken_type", "find_executor", "known_types", "register_executor"]

ENTRY_POINT_GROUP: Final = "workflow_core.executors"
"""Installed distributions offer executors here: the entry point's name is the step type, its value an `Executor`, or a
function that takes the config as a dictionary."""

logger = logging.getLogger("workflow_core")

_FunctionT = TypeVar("_FunctionT", bound=Callable[..., object])

_lock = threading.RLock()
_executors: dict[str, Executor] = {}
_broken: dict[str, str] = {}
_looked_up = False


@overload
def register_executor(
    step_type: str,
    function: _FunctionT,
    *,
    config_model: type[pydantic.BaseModel] | None = None,
    replace: bool = False,
) -> _FunctionT: ...


@overload
def register_executor(
    step_type: str, *, config_model: type[pydantic.BaseModel] | None = None, replace: bool = False
) -> Callable[[_FunctionT], _FunctionT]: ...


def register_executor(
    step_type: str,
    function: Any = None,
    *,
    config_model: type[pydantic.BaseModel] | None = None,
    replace: bool = False,
) -> Any:
    """Make a step type known in this process; usable as a function and as a decorator.

    Args:
        step_type: What stands as ``type`` in definitions.
        function: Takes the validated config and an `ExecutorContext`, ``async def`` or ``def``. What it returns is the
            step's result, unless it is a `Success` or a `Failure`; what it raises fails the attempt.
        config_model: Validates the config: when a definition is loaded, as far as its values stand there, and again
            when the step runs and all expressions have their values. Without it the function is given a dictionary.
        replace: Take the place of an executor of that type.

    Raises:
        ValidationError: An argument is not acceptable, or the type is taken by another function; one of the same module
            and name takes its own place when the module is loaded again.
    """
    if not isinstance(step_type, str) or not step_type.strip() or not step_type.isprintable():
        raise ValidationError(f"A step type must be a printable text, not {shown(step_type)}")
    if config_model is not None and not (
        isinstance(config_model, type) and issubclass(config_model, pydantic.BaseModel)
    ):
        raise ValidationError(
            f'Executor "{step_type}": config_model must be a pydantic model, not {config_model!r:.100}'
        )

    def register(executor: _FunctionT) -> _FunctionT:
        if not callable(executor) or not takes(executor, 2):
            raise ValidationError(
                f'Executor "{step_type}": it is called with the config and an ExecutorContext; {executor!r:.100} '
                "cannot be called like that"
            )
        _add(step_type, Executor(executor, config_model), replace=replace)
        return executor

    return register if function is None else register(function)


def _add(step_type: str, executor: Executor, *, replace: bool) -> None:
    with _lock:
        known = find_executor(step_type)
        is_other = known is not None and _name_of(known.function) != _name_of(executor.function)
        if known is not None and is_other and not replace:
            raise ValidationError(
                f'The step type "{step_type}" is taken by {_name_of(known.function)}; choose another name, or pass '
                "replace=True"
            )
        _executors[step_type] = executor


def _name_of(function: object) -> str:
    return f"{getattr(function, '__module__', '?')}.{getattr(function, '__qualname__', function)}"


def find_executor(step_type: str) -> Executor | None:
    """Return how steps of a type run, or ``None``."""
    with _lock:
        _look_up()
        return _executors.get(step_type)


def known_types() -> list[str]:
    """Return the step types that can run in this process, sorted."""
    with _lock:
        _look_up()
        return sorted(_executors)


def broken_type(step_type: str) -> str | None:
    """Tell why the executor of a type, which an installed distribution offers, could not be loaded."""
    with _lock:
        _look_up()
        return _broken.get(step_type)


def _offered(entry: importlib.metadata.EntryPoint) -> Executor:
    found = entry.load()
    executor = found if isinstance(found, Executor) else Executor(found)
    if not callable(executor.function) or not takes(executor.function, 2):
        raise TypeError(f"{entry.value} is neither an Executor nor a function of a config and a context")
    return executor


def _look_up() -> None:
    """Load the executors of this library and of installed distributions, once in a process."""
    global _looked_up  # noqa: PLW0603 - what is installed does not change
    if _looked_up:
        return
    _looked_up = True
    _executors.update(BUILTIN_EXECUTORS)
    for entry in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP):
        try:
            executor = _offered(entry)
        except Exception as error:
            _broken[entry.name] = f"{type(error).__name__}: {error}"
            logger.warning(
                'The executor of step type "%s" (%s) cannot be loaded', entry.name, entry.value, exc_info=True
            )
            continue
        if entry.name in BUILTIN_EXECUTORS:
            logger.warning('Step type "%s" is ours already, so %s is not used for it', entry.name, entry.value)
        else:
            _executors[entry.name] = executor
