"""An engine's plugins: which hooks they implement, and how each of those is called.

Who is about to call a hook asks first whether anybody implements it, so hooks that nobody implements cost nothing.
"""

from __future__ import annotations

import asyncio
import copy
import functools
import importlib.metadata
import inspect
import logging
from typing import TYPE_CHECKING, Any, Final, cast

from workflow_core.errors import PanicError, ValidationError, shown
from workflow_core.hookspecs import (
    ENTRY_POINT_GROUP,
    Attempt,
    AttemptHandler,
    Leaving,
    PluginManager,
    Run,
    StepDescription,
)
from workflow_core.panic import find_panic_indicator
from workflow_core.timeouts import cancelled_from_outside

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

    from workflow_core.events import Event
    from workflow_core.models import CircuitStatus
    from workflow_core.serialization import Serializer

__tracebackhide__ = True  # pytest leaves the frames of this module out
__all__ = ["Extensions", "provide", "withdraw"]

logger = logging.getLogger("workflow_core")

_OBSERVERS: Final = {
    "on_event": "told of {0!r}",
    "on_step": "told of {0!r}",
    "on_handler": "told of the handler {1} of {0!r}",
    "wrap_run": "told of {0!r}",
    "on_run_left": "told of leaving {0!r}",
    "log_fields": "asked for the fields of a log record",
}
"""The hooks whose implementations disturb neither an execution nor each other, and what a failed one was called for."""


class Extensions:
    """The plugins of one engine, with those of installed distributions.

    Args:
        plugins: Objects with implementations of the hooks in `workflow_core.hookspecs`.

    Attributes:
        observed: Whether anybody watches events.
        intercepts: Whether anybody watches durable points.
        announces_steps: Whether anybody watches steps.
        announces_handlers: Whether anybody watches the handlers of steps.
        wraps_attempts: Whether anybody puts something around attempts.
        wraps_handlers: Whether anybody puts something around the handlers of steps.
        wraps_runs: Whether anybody puts something around runs of workflows' handlers.
        adds_log_fields: Whether anybody adds fields to what ``ctx.logger`` logs.
        indicators: The plugins' texts that make an error a panic.
        serializers: How the plugins store further types.
        before_durable_point: Calls that hook.
        after_durable_point: Calls that hook.
    """

    def __init__(self, plugins: Iterable[object]) -> None:
        self._plugins = PluginManager()
        given = tuple(plugins)
        kinds = {type(plugin) for plugin in given}
        provided = (plugin for plugin in [make() for make in _provided] if type(plugin) not in kinds)
        for plugin in (*_installed_plugins(), *provided, *given):
            self._plugins.register(plugin)
        self._look()

    def __iter__(self) -> Iterator[object]:
        return iter(list(self._plugins.get_plugins()))

    def __contains__(self, plugin: object) -> bool:
        return self._plugins.is_registered(plugin)

    def register(self, plugin: object) -> None:
        """Add a plugin.

        Raises:
            pluggy.PluginValidationError: A marked function is no hook, or takes an argument that the hook has not.
        """
        self._plugins.register(plugin)
        self._look()

    def unregister(self, plugin: object) -> None:
        """Take a plugin away.

        Raises:
            ValidationError: It was not registered.
        """
        if plugin not in self:
            raise ValidationError(f"The engine has no such plugin: {shown(plugin)}")
        self._plugins.unregister(plugin)
        self._look()

    def drop(self) -> None:
        """Call nobody any more."""
        self._call({})

    def handed_over(self, plugins: Collection[object]) -> Extensions:
        """Drop these, and return those of an engine that takes this one's place.

        What both have stays registered, which takes a fraction of the time that registering it takes.

        Args:
            plugins: The plugins of that engine.
        """
        self.drop()
        if _provided:  # of these each engine has one of its own, registered before the others
            return Extensions(plugins)
        heir = copy.copy(self)
        kept = {id(plugin) for plugin in (*_installed_plugins(), *plugins)}
        for plugin in self:
            if id(plugin) not in kept:
                heir._plugins.unregister(plugin)
        for plugin in plugins:
            if plugin not in heir:
                heir._plugins.register(plugin)
        heir._look()
        return heir

    def _look(self) -> None:
        """See which hooks anybody implements."""
        self._plugins.check_pending()
        self._call(self._plugins.calls(_OBSERVERS))

    def _call(self, calls: Mapping[str, Callable[..., Any]]) -> None:
        """Call those hooks from now on, and ask now what is asked once."""

        def answers(name: str) -> Callable[..., Any]:
            return calls.get(name, _nobody)

        self._on_event = answers("on_event")
        self._on_step = answers("on_step")
        self._on_handler = answers("on_handler")
        self._on_run_left = answers("on_run_left")
        self._wrap_attempt = answers("wrap_attempt")
        self._wrap_handler = answers("wrap_handler")
        self._wrap_run = answers("wrap_run")
        self._log_fields = answers("log_fields")
        self._is_fatal = calls.get("is_fatal")
        self._force_circuit = calls.get("force_circuit")
        self.before_durable_point = answers("before_durable_point")
        self.after_durable_point = answers("after_durable_point")
        self.observed = "on_event" in calls
        self.intercepts = "before_durable_point" in calls or "after_durable_point" in calls
        self.announces_steps = "on_step" in calls
        self.announces_handlers = "on_handler" in calls
        self.wraps_attempts = "wrap_attempt" in calls
        self.wraps_handlers = "wrap_handler" in calls
        self.wraps_runs = "wrap_run" in calls
        self.adds_log_fields = "log_fields" in calls
        self.indicators: list[str] = [text for texts in answers("panic_indicators")() for text in texts]
        self.serializers: list[Serializer[Any]] = [
            serializer for offered in answers("serializers")() for serializer in offered
        ]

    async def emit(self, event: Event) -> None:
        """Tell the observers of an event, and await what they return."""
        for answer in self._on_event(event):
            if inspect.isawaitable(answer):
                try:
                    await answer
                except asyncio.CancelledError:
                    if cancelled_from_outside():
                        raise
                    logger.exception("Something that a plugin awaited was cancelled while it was told of %r", event)
                except Exception:
                    logger.exception("A plugin failed while it was %s", _OBSERVERS["on_event"].format(event))

    def announce_step(self, step: StepDescription) -> None:
        """Tell the observers of a step that is about to run."""
        self._on_step(step)

    def announce_handler(self, attempt: Attempt, handler: str, error: Exception | None) -> None:
        """Tell the observers of a step's handler that is about to be called."""
        self._on_handler(attempt, handler, error)

    def attempt_wrappers(self, attempt: Attempt) -> list[Callable[[AttemptHandler], AttemptHandler]]:
        """Return the plugins' wrappers around an attempt, the innermost first."""
        wrappers: list[Callable[[AttemptHandler], AttemptHandler]] = self._wrap_attempt(attempt)
        return wrappers[::-1]

    def handler_wrappers(
        self, attempt: Attempt, handler: str, error: Exception | None
    ) -> list[Callable[[AttemptHandler], AttemptHandler]]:
        """Return the plugins' wrappers around a handler of a step, the innermost first."""
        wrappers: list[Callable[[AttemptHandler], AttemptHandler]]
        wrappers = self._wrap_handler(attempt, handler, error)
        return wrappers[::-1]

    def run_wrappers(self, run: Run) -> list[Callable[[AttemptHandler], AttemptHandler]]:
        """Tell the plugins of a run, and return their wrappers around its handler, the innermost first."""
        wrappers: list[Callable[[AttemptHandler], AttemptHandler]] = self._wrap_run(run)
        return wrappers[::-1]

    def announce_leaving(self, run: Run, leaving: Leaving) -> None:
        """Tell the observers of a run that this process has nothing more to do with."""
        self._on_run_left(run, leaving)

    def log_fields(self) -> dict[str, str]:
        """Return what the plugins add to what is being logged."""
        found: dict[str, str] = {}
        for fields in self._log_fields():
            try:
                found.update(fields)
            except Exception:
                logger.exception("A plugin failed while it was %s", _OBSERVERS["log_fields"])
        return found

    def forced_circuit(self, attempt: Attempt) -> CircuitStatus | None:
        """Return the status that a plugin forces a circuit to."""
        return None if self._force_circuit is None else cast("CircuitStatus | None", self._force_circuit(attempt))

    def is_fatal(self, error: BaseException) -> bool:
        """Tell whether an error ends its execution at once."""
        return self._is_fatal is not None and self._is_fatal(error) is True

    def panic_indicator(self, error: BaseException) -> str | None:
        """Return what makes an error a panic, or ``None``."""
        if isinstance(error, PanicError):
            return error.indicator or "panic"
        return find_panic_indicator(error, self.indicators)


def _nobody(*args: object) -> list[Any]:
    """Call a hook that nobody implements."""
    del args
    return []


@functools.cache
def _installed_plugins() -> tuple[object, ...]:
    """Load, once in a process, the plugins of installed distributions."""
    return tuple(entry.load() for entry in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP))


_provided: list[Callable[[], object]] = []
"""What makes a plugin for every engine of this process."""


def provide(make: Callable[[], object]) -> None:
    """Give each engine that is made from now on a plugin, unless it is given one of the same class itself.

    Args:
        make: Makes the plugin of one engine.
    """
    _provided.append(make)


def withdraw(make: Callable[[], object]) -> None:
    """Give no further engine such a plugin; engines that have one keep it."""
    if make in _provided:
        _provided.remove(make)
