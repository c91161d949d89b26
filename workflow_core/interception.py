"""The store as the engine uses it: plugins are told of every durable point, and transient failures are waited out."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Final, cast

from workflow_core.database.store import DURABLE_POINTS, Lease, NewExecution, StepRecord
from workflow_core.errors import StorageError
from workflow_core.hookspecs import DurablePoint

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import pluggy

    from workflow_core.database.store import Store, WorkflowStore
    from workflow_core.patience import Patience, Tenacious

__tracebackhide__ = True  # pytest leaves the frames of this module out
__all__ = ["guarded", "guarded_for"]

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
        "search_executions",
        "space",
        "unfinished_executions",
        "workflows_with_executions",
    }
)
_REMOVAL: Final = frozenset({"executions_removed", "removal_finished", "shrunk"})
_WAITED_FOR: Final = (frozenset(DURABLE_POINTS) | _READS | _REMOVAL | {"workflow_defined"}) - {"execution_released"}
"""What is tried again. An execution is released when its process has no time left for it."""


def guarded(store: Store, hooks: pluggy.HookRelay | None, patience: Patience | None) -> Store:
    """Return a store that behaves as ``store``, calls the hooks and is patient.

    Args:
        store: The store.
        hooks: Where ``before_durable_point`` and ``after_durable_point`` are called; ``None`` for nowhere.
        patience: How transient failures are waited out; ``None`` for not at all.
    """
    return store if hooks is None and patience is None else cast("Store", _Guarded(store, hooks, patience, None))


def guarded_for(store: Store, workflow_name: str, execution: Tenacious) -> WorkflowStore:
    """Return the store of one workflow, which goes on trying for as long as the execution keeps trying."""
    if isinstance(store, _Guarded):
        return cast("WorkflowStore", store.workflow(workflow_name, execution))
    return store.workflow(workflow_name)


class _Guarded:
    """Passes everything through; durable points by way of the hooks, and what can be tried again by way of patience."""

    def __init__(
        self,
        inner: Store | WorkflowStore,
        hooks: pluggy.HookRelay | None,
        patience: Patience | None,
        execution: Tenacious | None,
    ) -> None:
        self._inner = inner
        self._hooks = hooks
        self._before = _implemented(hooks, "before_durable_point")
        self._after = _implemented(hooks, "after_durable_point")
        self._patience = patience
        self._execution = execution

    def workflow(self, workflow_name: str, execution: Tenacious | None = None) -> _Guarded:
        """Return the store of one workflow, guarded as well, for an execution of it if one is given."""
        return _Guarded(cast("Store", self._inner).workflow(workflow_name), self._hooks, self._patience, execution)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - any attribute of a store
        attribute = getattr(self._inner, name)
        if self._hooks is not None and name in DURABLE_POINTS:
            attribute = functools.partial(self._observed, name, attribute)
        elif self._patience is not None and name in _WAITED_FOR:
            attribute = functools.partial(self._tried, self._patience, attribute)
        else:
            return attribute
        self.__dict__[name] = attribute
        return attribute

    async def _tried(
        self, patience: Patience, method: Callable[..., Awaitable[object]], *args: object, **kwargs: object
    ) -> object:
        try:
            return await method(*args, **kwargs)
        except StorageError as error:
            if not error.is_transient:
                raise
            failure = error
        return await patience.again(failure, functools.partial(method, *args, **kwargs), self._execution)

    async def _observed(self, name: str, method: Callable[..., Awaitable[object]], *args: object) -> object:
        point = _describe(name, args)
        before, after = self._before, self._after

        async def attempt() -> object:
            try:
                if before is not None:
                    before(point=point)
                return await method(*args)
            except StorageError as error:
                self._locate(error, point)
                raise

        if self._patience is not None and name in _WAITED_FOR:
            result = await self._tried(self._patience, attempt)
        else:
            result = await attempt()
        if after is None:
            return result
        try:
            after(point=point)
        except StorageError as error:
            self._locate(error, point)
            raise
        return result

    def _locate(self, error: StorageError, point: DurablePoint) -> None:
        """Give an error the place of the database: a plugin speaks for it."""
        if error.location is None:
            error.location = self._inner.location(point.workflow_name)


def _implemented(hooks: pluggy.HookRelay | None, name: str) -> pluggy.HookCaller | None:
    """Return a hook that a plugin implements: calling one that nobody does costs as much as a short step."""
    hook: pluggy.HookCaller | None = getattr(hooks, name, None)
    return hook if hook is not None and hook.get_hookimpls() else None


def _describe(name: str, args: tuple[object, ...]) -> DurablePoint:
    first, second = args[0], args[1] if len(args) > 1 else None
    step_id = second.step_id if isinstance(second, StepRecord) else second if name == "circuit_admitted" else None
    if isinstance(first, (Lease, NewExecution)):
        return DurablePoint(name, first.workflow_name, first.execution_id, cast("str | None", step_id))
    return DurablePoint(name, str(first), "", str(second))
