"""A store that tells plugins of every durable point before and after its transaction."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, cast

from workflow_core.database.store import DURABLE_POINTS, Lease, NewExecution, StepRecord
from workflow_core.errors import StorageError
from workflow_core.hookspecs import DurablePoint

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import pluggy

    from workflow_core.database.store import Store, WorkflowStore

__all__ = ["intercepted"]


def intercepted(store: Store, hooks: pluggy.HookRelay) -> Store:
    """Return a store that behaves as ``store`` and calls ``before_durable_point`` and ``after_durable_point``."""
    return cast("Store", _Intercepted(store, hooks))


class _Intercepted:
    """Passes everything through; durable points by way of the hooks."""

    def __init__(self, inner: Store | WorkflowStore, hooks: pluggy.HookRelay) -> None:
        self._inner = inner
        self._hooks = hooks

    def workflow(self, workflow_name: str) -> _Intercepted:
        """Return the store of one workflow, intercepted as well."""
        return _Intercepted(cast("Store", self._inner).workflow(workflow_name), self._hooks)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - any attribute of a store
        attribute = getattr(self._inner, name)
        return functools.partial(self._pass, name, attribute) if name in DURABLE_POINTS else attribute

    async def _pass(self, name: str, method: Callable[..., Awaitable[object]], *args: object) -> object:
        point = _describe(name, args)
        try:
            self._hooks.before_durable_point(point=point)
            result = await method(*args)
            self._hooks.after_durable_point(point=point)
        except StorageError as error:
            if error.location is None:  # a plugin speaks for the database
                error.location = self._inner.location(point.workflow_name)
            raise
        return result


def _describe(name: str, args: tuple[object, ...]) -> DurablePoint:
    first, second = args[0], args[1] if len(args) > 1 else None
    step_id = second.step_id if isinstance(second, StepRecord) else second if name == "circuit_admitted" else None
    if isinstance(first, (Lease, NewExecution)):
        return DurablePoint(name, first.workflow_name, first.execution_id, cast("str | None", step_id))
    return DurablePoint(name, str(first), "", str(second))
