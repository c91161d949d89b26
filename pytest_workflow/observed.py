"""What a workflow's handler asks for: each step and each sleep, noted before the engine answers it.

The engine answers a completed step from its record without telling anyone. An observed handler is therefore given a
context of its own, which is the engine's in everything else.
"""

from __future__ import annotations

import asyncio
import contextvars
import dataclasses
import functools
import itertools
import math
import sys
import weakref
from dataclasses import dataclass, field
from datetime import timedelta
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pytest_workflow.frames import users_frame
from workflow_core.context import WorkflowContext
from workflow_core.definition import SHARED_DEFINITIONS, Definition, Definitions
from workflow_core.errors import ValidationError
from workflow_core.serialization import Codec
from workflow_core.step import StepBuilder, validate_step_id

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
    from types import CellType

    from workflow_core.engine import WorkflowEngine
    from workflow_core.execution import Execution
    from workflow_core.serialization import ReturnType

__all__ = [
    "Ask",
    "Captured",
    "ObservedDefinitions",
    "OwnHandlers",
    "Observer",
    "Site",
    "plain_captures",
    "unobserved",
]

_PLAIN = Codec()


@dataclass(frozen=True, slots=True)
class Site:
    """A place in the user's code."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class Captured:
    """A plain value that a step's function brings along.

    Attributes:
        text: The value as JSON text.
        value: The value itself.
        cell: The closure's cell that holds it, if one does.
    """

    text: str
    value: object
    cell: CellType | None

    def is_shared_with(self, other: Captured) -> bool:
        """Tell whether two runs of a handler were given the very same object: then neither run has made it."""
        return self.value is other.value or (self.cell is not None and self.cell is other.cell)


@dataclass(frozen=True, slots=True)
class Ask:
    """One step or sleep that a handler asked for.

    Attributes:
        step_id: Its id.
        kind: ``step`` or ``sleep``.
        site: Where ``ctx.step`` or ``ctx.sleep`` was called.
        duration_ms: Length of a sleep, in milliseconds.
        returns: Declared type of a step's result.
        captured: What the step's function brings along, by name: its closure's variables, its defaults and the
            arguments of ``functools.partial``, as far as they are plain data.
        code: The function's name, which tells whether a step of another id does the same.
        nests: Whether the function holds a context, so that it may ask for steps itself.
        tasks: The task that asked, as a number, after those that it was started from, as far as they asked before.
    """

    step_id: str
    kind: Literal["step", "sleep"]
    site: Site
    duration_ms: int | None = None
    returns: ReturnType | None = None
    captured: Mapping[str, Captured] = field(default_factory=dict)
    code: str = ""
    nests: bool = False
    tasks: tuple[int, ...] = ()

    def is_ordered_with(self, other: Ask) -> bool:
        """Tell whether the same task asked for both, or one task and another that was started from it."""
        return all(mine == theirs for mine, theirs in zip(self.tasks, other.tasks, strict=False))

    def __str__(self) -> str:
        length = f" of {self.duration_ms} ms" if self.duration_ms is not None else ""
        return f'{self.kind} "{self.step_id}"{length}'


class Observer(Protocol):
    """Sees what handlers ask for."""

    async def asked(self, execution: Execution, ask: Ask) -> None:
        """Called before the engine answers; the handler's task waits for it."""

    async def returned(self, execution: Execution) -> None:
        """Called when a handler has returned, before its output is recorded."""


class ObservedDefinitions(Definitions):
    """The workflows of an engine, with observed handlers; assign it to ``engine.definitions``.

    Args:
        inner: The engine's own workflows; what is defined later is put there.
        observers: Who sees what is asked for, in this order.
    """

    def __init__(self, inner: Definitions | None = None, observers: Sequence[Observer] = ()) -> None:
        super().__init__()
        self._inner = inner or Definitions()
        self._observers = tuple(observers)

    @property
    def inner(self) -> Definitions:
        """The engine's own workflows, unobserved."""
        return self._inner

    def add(self, definition: Definition, stacklevel: int) -> None:
        """Add a workflow to the engine's own."""
        self._inner.add(definition, stacklevel + 1)

    def get(self, name: str) -> Definition | None:
        """Return a workflow whose handler is observed, or ``None``."""
        found = self._inner.get(name) or SHARED_DEFINITIONS.get(name)
        return None if found is None else dataclasses.replace(found, handler=self._observed(found))

    def names(self) -> list[str]:
        """Return the names of the engine's own workflows, sorted."""
        return self._inner.names()

    def _observed(self, definition: Definition) -> Callable[[WorkflowContext[Any]], Coroutine[Any, Any, object]]:
        observers = self._observers

        async def observed(context: WorkflowContext[Any]) -> object:
            execution = context._execution
            _tasks()
            execution.context = _ObservedContext(execution, observers)
            output = await execution.engine.invoke(definition.handler, execution.context)
            for observer in observers:
                await observer.returned(execution)
            return output

        return observed


def unobserved(engine: WorkflowEngine, name: str) -> Definition | None:
    """Return a workflow that an engine knows, with its own handler; ``None`` if it knows none of that name."""
    definitions = engine.definitions
    while isinstance(definitions, ObservedDefinitions):
        definitions = definitions.inner
    return definitions.get(name) or SHARED_DEFINITIONS.get(name)


class OwnHandlers(Definitions):
    """The workflows of another engine, unobserved."""

    def __init__(self, today: WorkflowEngine) -> None:
        super().__init__()
        self._today = today

    def get(self, name: str) -> Definition | None:
        """Return a workflow, or ``None``."""
        return unobserved(self._today, name)


class _ObservedContext(WorkflowContext[Any]):
    """A context that tells observers of every step and sleep."""

    def __init__(self, execution: Execution, observers: Sequence[Observer]) -> None:
        super().__init__(execution)
        self._observers = observers

    def step(
        self,
        step_id: str,
        handler: Callable[[], object],
        *,
        returns: object = None,
        timeout_ms: int | None = None,
    ) -> StepBuilder[Any]:
        """Describe a step, as `WorkflowContext.step` does."""
        builder = _ObservedStep(self._execution, step_id, handler, returns=returns, timeout_ms=timeout_ms)
        builder.site, builder.observers = _site(), self._observers
        return builder

    def sleep(self, step_id: str, duration: float | timedelta) -> Coroutine[Any, Any, None]:
        """Sleep durably, as `WorkflowContext.sleep` does."""
        return self._sleep(step_id, duration, _site())

    async def _sleep(self, step_id: str, duration: float | timedelta, site: Site) -> None:
        duration_ms = _milliseconds(duration)
        longest = self._execution.engine.settings.max_sleep_ms
        if duration_ms is not None and 0 <= duration_ms <= longest:
            validate_step_id(step_id)
            self._execution.check_alive()
            ask = Ask(step_id, "sleep", site, duration_ms, tasks=_tasks())
            for observer in self._observers:
                await observer.asked(self._execution, ask)
        await super().sleep(step_id, duration)


class _ObservedStep(StepBuilder[Any]):
    """A step that tells observers when it is asked for."""

    __slots__ = ("observers", "site")

    site: Site
    observers: Sequence[Observer]

    async def execute(self) -> Any:  # noqa: ANN401 - the step's result
        """Run the step, or return its stored result."""
        self._execution.not_begun.pop(self, None)  # it is awaited, even if an observer never lets it begin
        self._execution.check_alive()
        captured = dict(plain_captures(self._handler))
        code, nests = _name_of(self._handler), _holds_context(self._handler)
        ask = Ask(self.step_id, "step", self.site, None, self._returns, captured, code, nests, _tasks())
        for observer in self.observers:
            await observer.asked(self._execution, ask)
        return await super().execute()


_numbers: weakref.WeakKeyDictionary[asyncio.Task[Any], int] = weakref.WeakKeyDictionary()
_next_number = itertools.count(1)
_lineage: contextvars.ContextVar[tuple[int, ...]] = contextvars.ContextVar("workflow_tasks", default=())


def _tasks() -> tuple[int, ...]:
    """Return the running task's number after those of the tasks that it was started from."""
    task = asyncio.current_task()
    if task is None:
        return ()
    if task not in _numbers:
        _numbers[task] = next(_next_number)
        _lineage.set((*_lineage.get(), _numbers[task]))
    return _lineage.get()


def _milliseconds(duration: object) -> int | None:
    """Return a sleep's length in milliseconds; ``None`` for what the engine refuses."""
    length = duration / timedelta(milliseconds=1) if isinstance(duration, timedelta) else duration
    if isinstance(length, bool) or not isinstance(length, (int, float)) or not math.isfinite(length):
        return None
    return round(length)


def _site() -> Site:
    frame = users_frame(sys._getframe(1))
    return Site("?", 0) if frame is None else Site(frame.f_code.co_filename, frame.f_lineno)


# What a step's function brings along ---------------------------------------------------------------------------------


def plain_captures(function: object) -> Iterator[tuple[str, Captured]]:
    """Yield, with its name, each plain value that a function brings along.

    Args:
        function: A step's function: its closure's variables, its defaults and the arguments of ``functools.partial``
            are read; all other values, such as clients and models, are passed over.
    """
    for name, value, cell in _brought(function):
        try:
            text, _ = _PLAIN.encode(value, name)
        except ValidationError:
            continue
        yield name, Captured("null" if text is None else text, value, cell)


def _brought(function: object) -> Iterator[tuple[str, object, CellType | None]]:
    if isinstance(function, functools.partial):
        yield from ((f"argument {place}", value, None) for place, value in enumerate(function.args, start=1))
        yield from ((name, value, None) for name, value in function.keywords.items())
        yield from _brought(function.func)
        return
    if isinstance(function, MethodType):
        function = function.__func__
    if not isinstance(function, FunctionType):
        return
    code = function.__code__
    defaults = function.__defaults__ or ()
    names = code.co_varnames[: code.co_argcount][code.co_argcount - len(defaults) :]
    yield from ((name, value, None) for name, value in zip(names, defaults, strict=True))
    yield from ((name, value, None) for name, value in (function.__kwdefaults__ or {}).items())
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents, cell
        except ValueError:  # assigned later
            continue


def _holds_context(function: object) -> bool:
    return any(isinstance(value, WorkflowContext) for _, value, _ in _brought(function))


def _name_of(function: object) -> str:
    while isinstance(function, functools.partial):
        function = function.func
    name: str = getattr(function, "__qualname__", type(function).__qualname__)
    return "" if name.endswith("<lambda>") else name
