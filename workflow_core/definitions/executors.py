"""The step types of declarative workflows, and the functions that run them."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar, overload

import pydantic

from workflow_core.errors import ValidationError
from workflow_core.signatures import takes

if TYPE_CHECKING:
    from datetime import datetime

    from workflow_core.context import WorkflowContext

__all__ = ["ENTRY_POINT_GROUP", "Executor", "ExecutorContext", "find_executor", "known_types", "register_executor"]

ENTRY_POINT_GROUP: Final = "workflow_core.executors"
"""Installed distributions offer executors here: the entry point's name is the step type, its value an `Executor`, or a
function that takes the config as a dictionary."""

logger = logging.getLogger("workflow_core")

_FunctionT = TypeVar("_FunctionT", bound=Callable[..., object])

ExecutorFunction: TypeAlias = Callable[[Any, "ExecutorContext"], object]
"""Takes the validated config and an `ExecutorContext`, ``async def`` or ``def``; returns the step's value or a
`Result`."""


@dataclass(frozen=True, slots=True)
class ExecutorContext:
    """One attempt of a declarative step, as its executor sees it.

    Attributes:
        ctx: The execution's context.
        step_id: The step.
        attempt: Counted from 1.
        logger: For what the step has to tell; secrets that the step uses are blotted out in it.
    """

    ctx: WorkflowContext[Any]
    step_id: str
    attempt: int
    logger: logging.LoggerAdapter[logging.Logger]

    @property
    def workflow_name(self) -> str:
        """The workflow's name."""
        return self.ctx.workflow_name

    @property
    def execution_id(self) -> str:
        """The execution's id."""
        return self.ctx.execution_id

    @property
    def input(self) -> Any:  # noqa: ANN401 - whatever the execution was started with
        """The execution's input."""
        return self.ctx.input

    def now(self) -> datetime:
        """Return the engine's time, which is virtual in tests."""
        return self.ctx._execution.now()


@dataclass(frozen=True, slots=True)
class Executor:
    """How steps of one type run.

    Attributes:
        function: Takes the config and an `ExecutorContext`.
        config_model: The model of its config; without one it is given a dictionary, and every config is accepted.
        takes_secrets: Whether ``${secrets...}`` may stand in its config.
        sleeps: It is a durable sleep rather than a step: it has no attempts, so no time-out and no retries.
        module: A module that it needs.
        extra: The extra of this distribution that installs the module.
    """

    function: ExecutorFunction = field(repr=False)
    config_model: type[pydantic.BaseModel] | None = None
    takes_secrets: bool = True
    sleeps: bool = False
    module: str | None = None
    extra: str | None = None

    def what_is_missing(self) -> str | None:
        """Tell what has to be installed before it can run; ``None`` if nothing is."""
        if self.module is None or _is_installed(self.module):
            return None
        return f'needs the package {self.module}: pip install "pytest-workflow-core[{self.extra}]"'


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # whoever keeps it away, or has loaded it in an odd manner
        return module in sys.modules and sys.modules[module] is not None


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
        raise ValidationError(f"A step type must be a printable text, not {step_type!r:.100}")
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
    from workflow_core.definitions.builtin import BUILTIN_EXECUTORS  # noqa: PLC0415 - they need this module

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
