"""The store as the engine uses it: plugins are told of every durable point, and transient failures are waited out."""

from __future__ import annotations

import functools
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from workflow_core.database.store import DURABLE_POINTS, Lease, NewExecution, StepRecord
from workflow_core.errors import StorageError
from workflow_core.hookspecs import DurablePoint

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from workflow_core.database.store import Store, WorkflowStore
    from workflow_core.extensions import Extensions
    from workflow_core.patience import Patience, Tenacious

__tracebackhide__ = True  # pytest leaves the frames of this module out
__all__ = ["guarded", "guarded_for", "patiently", "undriven"]

_T = TypeVar("_T")

_READS: Final = frozenset(
    {
        "count_executions",
        "executions_to_remove",
        "find_execution_ids",
        "list_executions",
        "list_workflows",
        "load_circuits",
        "load_definition",
        "load_errors",
        "load_events",
        "load_execution",
        "load_owner",
        "load_recoveries",
        "load_steps",
        "load_whole",
        "search_executions",
        "space",
        "unfinished_executions",
        "workflows_with_executions",
    }
)
_REMOVAL: Final = frozenset({"executions_removed", "removal_finished", "shrunk"})
_WAITED_FOR: Final = (frozenset(DURABLE_POINTS) | _READS | _REMOVAL | {"workflow_defined"}) - {"execution_released"}
"""What is tried again. An execution is released when its process has no time left for it."""


def guarded(store: Store, extensions: Extensions, patience: Patience | None) -> Store:
    """Return a store that behaves as ``store``, tells the plugins and is patient.

    Args:
        store: The store.
        extensions: Whose ``before_durable_point`` and ``after_durable_point`` are called, if anybody has them.
        patience: How transient failures are waited out; ``None`` for not at all.
    """
    if extensions.intercepts:
        return cast("Store", _Observed(store, patience, None, extensions))
    return store if patience is None else cast("Store", _Guarded(store, patience, None))


def guarded_for(store: Store, workflow_name: str, execution: Tenacious) -> WorkflowStore:
    """Return the store of one workflow, which goes on trying for as long as the execution keeps trying."""
    if isinstance(store, _Guarded):
        return cast("WorkflowStore", store.workflow(workflow_name, execution))
    return store.workflow(workflow_name)


def undriven(store: WorkflowStore) -> None:
    """Let the store of an execution that has ended know nothing of it any more, and be no more patient than others."""
    if isinstance(store, _Guarded):
        store._execution = None


async def patiently(store: Store, work: Callable[[], Awaitable[_T]]) -> _T:
    """Do what a store has no durable point for, and wait for the database as with one.

    Args:
        store: The store as an engine uses it.
        work: What to do; it may be begun again from the start.

    Raises:
        StorageError: The patience is over, or waiting would not help.
    """
    return cast("_T", await _tried(store, work)) if isinstance(store, _Guarded) else await work()


class _Guarded:
    """Passes everything through; what can be tried again, by way of patience.

    Each execution has one, so its methods are made once for all, below.
    """

    def __init__(self, inner: Store | WorkflowStore, patience: Patience | None, execution: Tenacious | None) -> None:
        self._inner = inner
        self._patience = patience
        self._execution = execution

    def workflow(self, workflow_name: str, execution: Tenacious | None = None) -> _Guarded:
        """Return the store of one workflow, guarded as well, for an execution of it if one is given."""
        return _Guarded(cast("Store", self._inner).workflow(workflow_name), self._patience, execution)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - any attribute of a store
        return getattr(self._inner, name)


async def _tried(
    guarded_store: _Guarded,
    method: Callable[..., Awaitable[object]],
    args: tuple[object, ...] = (),
    kwargs: Mapping[str, object] = MappingProxyType({}),
) -> object:
    patience = guarded_store._patience
    try:
        return await method(*args, **kwargs)
    except StorageError as error:
        if patience is None or not error.is_transient:
            raise
        failure = error
    return await patience.again(failure, functools.partial(method, *args, **kwargs), guarded_store._execution)


def _patient(name: str) -> Callable[..., Awaitable[object]]:
    def method(self: _Guarded, *args: object, **kwargs: object) -> Awaitable[object]:
        return _tried(self, getattr(self._inner, name), args, kwargs)

    return method


for _name in _WAITED_FOR:
    setattr(_Guarded, _name, _patient(_name))


class _Observed(_Guarded):
    """Tells the plugins of durable points besides."""

    def __init__(
        self,
        inner: Store | WorkflowStore,
        patience: Patience | None,
        execution: Tenacious | None,
        observers: Extensions,
    ) -> None:
        super().__init__(inner, patience, execution)
        self._observers = observers

    def workflow(self, workflow_name: str, execution: Tenacious | None = None) -> _Observed:
        """Return the store of one workflow, guarded as well, for an execution of it if one is given."""
        inner = cast("Store", self._inner).workflow(workflow_name)
        return _Observed(inner, self._patience, execution, self._observers)

    async def _attempt(self, name: str, point: DurablePoint, args: tuple[object, ...]) -> object:
        try:
            self._observers.before_durable_point(point)
            return await getattr(self._inner, name)(*args)
        except StorageError as error:
            self._locate(error, point)
            raise

    def _locate(self, error: StorageError, point: DurablePoint) -> None:
        """Give an error the place of the database: a plugin speaks for it."""
        if error.location is None:
            error.location = self._inner.location(point.workflow_name)


def _observed(name: str) -> Callable[..., Awaitable[object]]:
    is_waited_for = name in _WAITED_FOR

    async def method(self: _Observed, *args: object) -> object:
        point = _describe(name, args)
        attempt = functools.partial(self._attempt, name, point, args)
        result = await (_tried(self, attempt) if is_waited_for else attempt())
        try:
            self._observers.after_durable_point(point)
        except StorageError as error:
            self._locate(error, point)
            raise
        return result

    return method


for _name in DURABLE_POINTS:
    setattr(_Observed, _name, _observed(_name))


def _describe(name: str, args: tuple[object, ...]) -> DurablePoint:
    first, second = args[0], args[1] if len(args) > 1 else None
    step_id = second.step_id if isinstance(second, StepRecord) else second if name == "circuit_admitted" else None
    if isinstance(first, (Lease, NewExecution)):
        return DurablePoint(name, first.workflow_name, first.execution_id, cast("str | None", step_id))
    return DurablePoint(name, str(first), "", str(second))
