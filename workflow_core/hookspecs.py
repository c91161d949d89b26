"""The hooks: where a plugin watches an engine, and the few places where it may change what happens.

A plugin is any object with functions marked by `hookimpl`. It is given to an engine (``WorkflowEngine(plugins=[...])``,
``engine.register(plugin)``), or found in an installed distribution by the entry-point group ``workflow_core``. An
engine looks up once which hooks anyone implements, so hooks that nobody implements cost nothing.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import types
import weakref
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime  # noqa: TC003 - resolved at run time by dataclass users
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import pluggy

if TYPE_CHECKING:
    from pluggy._hooks import HookSpec

    from workflow_core.events import Event
    from workflow_core.models import CircuitStatus
    from workflow_core.serialization import Serializer

__all__ = [
    "ENTRY_POINT_GROUP",
    "hookimpl",
    "Attempt",
    "AttemptHandler",
    "DurablePoint",
    "Leaving",
    "Run",
    "StepDescription",
    "UnfinishedStep",
    "PluginManager",
    "WorkflowHooks",
]

ENTRY_POINT_GROUP = "workflow_core"

logger = logging.getLogger("workflow_core")

hookspec = pluggy.HookspecMarker("workflow_core")
hookimpl = pluggy.HookimplMarker("workflow_core")
"""Marks a function of a plugin as the implementation of the hook of the same name."""

AttemptHandler: TypeAlias = Callable[[], Awaitable[object]]
"""What an attempt runs: an asynchronous function without arguments that returns the step's value."""

Leaving: TypeAlias = Literal["released", "interrupted", "lost", "cancelled"]
"""Why a process has nothing more to do with a run that it did not see end."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt of a step, about to run.

    Attributes:
        attempt: Counted from 1.
        restart_attempt: 1, and one more for each restart of the execution.
        handler: The step's own function.
    """

    workflow_name: str
    execution_id: str
    step_id: str
    attempt: int
    restart_attempt: int
    handler: Callable[[], object] = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class DurablePoint:
    """One transaction of an execution.

    Attributes:
        name: What happens, one of `workflow_core.database.store.DURABLE_POINTS`.
        step_id: The step it belongs to, if any.
    """

    name: str
    workflow_name: str
    execution_id: str
    step_id: str | None


@dataclass(frozen=True, slots=True)
class StepDescription:
    """A step as the workflow's code built it, about to run.

    Attributes:
        handlers: Their names: ``"on_error:NetworkError"`` for each entry of ``on_error``, then ``"catch"``
            and ``"on_open"``.
        has_circuit: Whether it has a circuit breaker.
        max_attempts: How many attempts it has, the first one included.
        timeout_ms: Longest duration of an attempt in milliseconds; ``None`` sets no limit.
    """

    workflow_name: str
    execution_id: str
    step_id: str
    handlers: tuple[str, ...]
    has_circuit: bool
    max_attempts: int
    timeout_ms: float | None


@dataclass(frozen=True, slots=True)
class UnfinishedStep:
    """Something of a run that was under way when this process took the execution over.

    Attributes:
        kind: ``"step"``: an attempt that was cut off; ``"sleep"``: a sleep, which goes on.
        began_at: When it began, by the engine's clock; aware, UTC.
    """

    step_id: str
    kind: Literal["step", "sleep"]
    attempt: int
    began_at: datetime


@dataclass(frozen=True, slots=True)
class Run:
    """A run of a workflow's handler, as this process begins it or goes on with it.

    A restart makes a new run. A process that takes an execution over goes on with the run that was under way.

    Attributes:
        restart_attempt: 1, and one more for each restart of the execution.
        started_at: When the execution was started, by the engine's clock; aware, UTC.
        began_at: When this run began, in whatever process.
        beginning: How it came here.
        is_over: It panicked before this process took it over; all there is to do is wait for its restart.
        has_failed: The execution had failed for good before, and was restarted by hand.
        unfinished: What was under way in it.
        now: Returns the engine's time.
    """

    workflow_name: str
    execution_id: str
    restart_attempt: int
    started_at: datetime
    began_at: datetime
    beginning: Literal["started", "recovered", "restarted"]
    is_over: bool
    has_failed: bool
    unfinished: tuple[UnfinishedStep, ...]
    now: Callable[[], datetime] = field(repr=False, compare=False)


class PluginManager(pluggy.PluginManager):
    """pluggy's manager with the specifications below, made so that an engine is cheap.

    The specifications are read once in a process, and only public names are looked at as implementations.
    """

    def __init__(self) -> None:
        super().__init__("workflow_core")
        for name, specification in _specifications().items():
            caller = pluggy.HookCaller(name, self._hookexec)
            caller.spec = specification
            setattr(self.hook, name, caller)

    def calls(self, observers: Mapping[str, str]) -> dict[str, Callable[..., Any]]:
        """Return, for each hook that anybody implements, what calls its present implementations by position.

        The results are pluggy's: those that are not ``None``, of the plugin registered last first; where the
        specification says so, the first of them alone. pluggy itself makes a dictionary, three lists and three calls of
        each call, which takes longer than most implementations of what is called several times a step.

        Args:
            observers: For each hook whose implementations cannot fail what calls them, what is logged of one that has
                failed: the end of a sentence, formatted with the arguments. The other implementations are called then
                as well.
        """
        hooks = ((getattr(self.hook, name), specification) for name, specification in _specifications().items())
        return {
            hook.name: _direct(hook, specification, observers.get(hook.name))
            for hook, specification in hooks
            if hook.get_hookimpls()
        }

    def parse_hookimpl_opts(self, plugin: object, name: str) -> pluggy.HookimplOpts | None:
        """Read the options of an implementation; those of a class's functions once for all its objects."""
        if name.startswith("_"):
            return None
        cls = type(plugin)
        if isinstance(plugin, (type, types.ModuleType)) or name in getattr(plugin, "__dict__", {}):
            return super().parse_hookimpl_opts(plugin, name)
        known = _options.setdefault(cls, {})
        if name not in known:
            if isinstance(inspect.getattr_static(cls, name, None), types.MemberDescriptorType):
                return super().parse_hookimpl_opts(plugin, name)  # a slot holds what its object was given
            known[name] = super().parse_hookimpl_opts(plugin, name)
        options = known[name]
        return None if options is None else options.copy()


_options: weakref.WeakKeyDictionary[type, dict[str, pluggy.HookimplOpts | None]] = weakref.WeakKeyDictionary()
"""What `PluginManager.parse_hookimpl_opts` has read, by class and name."""


def _direct(hook: pluggy.HookCaller, specification: HookSpec, failure: str | None) -> Callable[..., Any]:
    """Return what calls a hook; implementations that wrap the others are left to pluggy."""
    implementations, names = hook.get_hookimpls()[::-1], specification.argnames
    if any(each.wrapper or each.hookwrapper for each in implementations):
        all_of_them = _guarded(lambda *args: hook(**dict(zip(names, args, strict=True))), failure)
        return all_of_them if failure is None else lambda *args: all_of_them(*args) or []
    functions = [_guarded(_by_position(each, names), failure) for each in implementations]

    def every(*args: object) -> list[object]:
        results = []
        for function in functions:
            result = function(*args)
            if result is not None:
                results.append(result)
        return results

    def first(*args: object) -> object:
        return next((result for function in functions if (result := function(*args)) is not None), None)

    return first if specification.opts.get("firstresult") else every


def _guarded(function: Callable[..., object], failure: str | None) -> Callable[..., object]:
    """Return a function that logs what it raises, and returns ``None`` then; the same one without words for that."""
    if failure is None:
        return function

    def call(*args: object) -> object:
        try:
            return function(*args)
        except (Exception, asyncio.CancelledError):  # nothing is awaited in it: this task is not cancelled
            logger.exception("A plugin failed while it was %s", failure.format(*args))
            return None

    return call


def _by_position(implementation: pluggy.HookImpl, names: tuple[str, ...]) -> Callable[..., object]:
    """Return the function of an implementation, which may take some of its hook's arguments, as one of all of them."""
    function = implementation.function
    if implementation.argnames == names:
        return function
    taken = [names.index(name) for name in implementation.argnames]
    return lambda *args: function(*[args[place] for place in taken])


@functools.cache
def _specifications() -> dict[str, HookSpec]:
    """Return the specifications by name."""
    manager = pluggy.PluginManager("workflow_core")
    manager.add_hookspecs(WorkflowHooks)
    callers: dict[str, pluggy.HookCaller] = vars(manager.hook)
    return {name: caller.spec for name, caller in callers.items() if caller.spec is not None}


class WorkflowHooks:
    """The hook specifications."""

    @hookspec
    def on_event(self, event: Event) -> Awaitable[object] | None:
        """Watch every event of every execution, after it was committed.

        What it returns is awaited before the execution goes on, so it may be ``async def``. An error raised here is
        logged and does not disturb the execution.
        """

    @hookspec
    def on_step(self, step: StepDescription) -> None:
        """Watch every step that is about to run: not those whose stored result is returned.

        A step that goes on after a crash or a restart is announced again. An error raised here is logged and does not
        disturb the execution.
        """

    @hookspec
    def on_handler(self, attempt: Attempt, handler: str, error: Exception | None) -> None:
        """Watch every handler of a step that is about to be called, whatever it will return or raise.

        ``handler`` is named as in `StepDescription.handlers`; ``error`` is what it is given, ``None`` for ``on_open``.
        An error raised here is logged and does not disturb the execution.
        """

    @hookspec
    def wrap_attempt(self, attempt: Attempt) -> Callable[[AttemptHandler], AttemptHandler] | None:
        """Return a wrapper around what an attempt runs, or ``None`` to leave it.

        The wrapper may run something before or after, run something else, raise, or wait. Of several plugins, the one
        registered last wraps outermost.
        """

    @hookspec
    def wrap_handler(
        self, attempt: Attempt, handler: str, error: Exception | None
    ) -> Callable[[AttemptHandler], AttemptHandler] | None:
        """Return a wrapper around a handler of a step, or ``None`` to leave it.

        Arguments are those of ``on_handler``, wrappers work as those of ``wrap_attempt``.
        """

    @hookspec
    def wrap_run(self, run: Run) -> Callable[[AttemptHandler], AttemptHandler] | None:
        """Return a wrapper around a run of a workflow's handler, or ``None`` to leave it.

        Called when this process begins a run or goes on with one, before the event that tells of it. The wrapper is not
        used if the handler is not called after all. An error raised here is logged and does not disturb the execution.
        """

    @hookspec
    def on_run_left(self, run: Run, leaving: Leaving) -> None:
        """Watch every run that this process has nothing more to do with, although it saw no event end it.

        ``leaving`` is ``"released"`` if the engine stopped in order and gave the attempts in flight back,
        ``"interrupted"`` if something broke out of it, which uses them up, ``"lost"`` if another process has the
        execution now, and ``"cancelled"`` if another process cancelled it. An error raised here is logged and does not
        disturb the execution.
        """

    @hookspec
    def log_fields(self) -> Mapping[str, str] | None:
        """Return further fields for what is being logged here with ``ctx.logger``, such as the ids of a trace."""

    @hookspec
    def before_durable_point(self, point: DurablePoint) -> None:
        """Called before a transaction, each time that it is tried; an error raised here prevents it."""

    @hookspec
    def after_durable_point(self, point: DurablePoint) -> None:
        """Called after a transaction was committed; an error raised here reaches the engine after the fact."""

    @hookspec
    def panic_indicators(self) -> Iterable[str]:  # type: ignore[empty-body]
        """Return further texts that make an error a panic, wherever they stand in its message."""

    @hookspec
    def serializers(self) -> Iterable[Serializer[Any]]:  # type: ignore[empty-body]
        """Return how further types are stored."""

    @hookspec(firstresult=True)
    def is_fatal(self, error: BaseException) -> bool | None:
        """Return ``True`` for an error that ends the execution at once: no handler, no retry, no restart.

        Whoever waits for the execution is raised the error itself, also where a result is returned whatever its status.
        """

    @hookspec(firstresult=True)
    def force_circuit(self, attempt: Attempt) -> CircuitStatus | None:
        """Return the status to set a step's circuit to before it is asked whether the attempt may run."""
