"""Counting for many clients: executions are counted anew only so often that counting takes a tenth of the time."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from workflow_core.database.store import Store
    from workflow_core.models import ExecutionStatus

__all__ = ["Counts", "CountingStore"]

_SHORT_SECONDS: Final = 0.02
"""What takes less is counted each time, and so is always what is stored now."""

_SHARE: Final = 10


class Counts:
    """The latest counts, for the threads that share them."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.known: dict[str | None, tuple[float, dict[str, dict[ExecutionStatus, int]]]] = {}


class CountingStore:
    """A store for reading whose counts may be some moments old, if it takes long to count.

    Args:
        store: The store.
        counts: What was counted before.
    """

    def __init__(self, store: Store, counts: Counts) -> None:
        self._store = store
        self._counts = counts

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - any attribute of a store
        return getattr(self._store, name)

    async def count_executions(self, workflow_name: str | None = None) -> Mapping[str, Mapping[ExecutionStatus, int]]:
        """Count the executions by workflow and status; who asks while somebody counts gets what that one finds."""
        with self._counts.lock:
            good_until, found = self._counts.known.get(workflow_name, (0.0, {}))
            began = time.monotonic()
            if began < good_until:
                return found
            found = await self._store.count_executions(workflow_name)
            took = time.monotonic() - began
            self._counts.known.pop(workflow_name, None)
            if took >= _SHORT_SECONDS:
                self._counts.known[workflow_name] = began + took + _SHARE * took, found
            return found
