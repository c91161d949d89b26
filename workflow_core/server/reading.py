"""Reading for the server, in a thread and by connections of its own: no query keeps executions waiting."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

    from workflow_core.engine import WorkflowEngine

__all__ = ["Reader"]

ResultT = TypeVar("ResultT")


class Reader:
    """Runs functions that read the databases of an engine.

    A store that gives another one `for_reading` is read in a thread with an event loop of its own. With any other, a
    database in memory for example, the functions run here.

    Args:
        engine: Whose databases are read; what it defines and masks, the functions find defined and masked.
    """

    def __init__(self, engine: WorkflowEngine) -> None:
        self._engine = engine
        self._mirror: WorkflowEngine | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: ThreadPoolExecutor | None = None

    def open(self) -> None:
        """Begin."""
        store = self._engine.bare_store.for_reading()
        if store is None:
            return
        without = {"recover_on_start": False, "log_files": False, "storage_patience_ms": None}
        self._mirror = self._engine.mirror(store, self._engine.settings.model_copy(update=without))
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="workflow server reads")
        self._loop = asyncio.new_event_loop()

    async def __call__(self, function: Callable[[WorkflowEngine], Coroutine[Any, Any, ResultT]]) -> ResultT:
        """Return what a function returns that is given an engine to read from.

        Raises:
            StorageError: The database cannot be read.
        """
        mirror, reading = self._mirror, self._loop
        if mirror is None or reading is None:
            return await function(self._engine)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, lambda: reading.run_until_complete(function(mirror)))

    async def close(self) -> None:
        """Let go of the connections; functions that run come to their end."""
        mirror, reading, thread = self._mirror, self._loop, self._thread
        self._mirror = self._loop = self._thread = None
        if mirror is None or reading is None or thread is None:
            return
        await asyncio.get_running_loop().run_in_executor(thread, mirror.close)
        thread.shutdown()
        reading.close()
