"""Reading for the server, in threads and by connections of its own: no query keeps executions waiting."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar, cast

from workflow_core.server.counting import CountingStore, Counts

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

    from workflow_core.database.store import Store
    from workflow_core.engine import WorkflowEngine

__all__ = ["Reader"]

ResultT = TypeVar("ResultT")

_THREADS: Final = 3
"""A search that takes its time must not keep the other readers waiting; each thread opens every database anew."""


@dataclass(frozen=True)
class _Place:
    """What one thread reads with."""

    mirror: WorkflowEngine
    loop: asyncio.AbstractEventLoop


class Reader:
    """Runs functions that read the databases of an engine.

    A store that gives another one `for_reading` is read in threads, each with an event loop and connections of its own.
    With any other, a database in memory for example, the functions run here.

    Args:
        engine: Whose databases are read; what it defines and masks, the functions find defined and masked.
    """

    def __init__(self, engine: WorkflowEngine) -> None:
        self._engine = engine
        self._threads: ThreadPoolExecutor | None = None
        self._reads_here = True
        self._places: list[_Place] = []
        self._local = threading.local()
        self._counts = Counts()

    def open(self) -> None:
        """Begin."""
        probe = self._engine.bare_store.for_reading()
        self._reads_here = probe is None
        if probe is not None:
            probe.close()
        self._local = threading.local()
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="workflow server reads")

    async def __call__(self, function: Callable[[WorkflowEngine], Coroutine[Any, Any, ResultT]]) -> ResultT:
        """Return what a function returns that is given an engine to read from.

        Raises:
            StorageError: The database cannot be read.
        """
        if self._threads is None or self._reads_here:
            return await function(self._engine)

        def read() -> ResultT:
            place = self._place()
            return place.loop.run_until_complete(function(place.mirror))

        return await self.in_thread(read)

    async def in_thread(self, function: Callable[[], ResultT]) -> ResultT:
        """Return what a plain function returns, without waiting for threads that steps of executions block."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, function)

    def _place(self) -> _Place:
        """Return what this thread reads with, made at its first use."""
        place: _Place | None = getattr(self._local, "place", None)
        if place is None:
            store = self._engine.bare_store.for_reading()
            without = {"recover_on_start": False, "log_files": False, "storage_patience_ms": None}
            settings = self._engine.settings.model_copy(update=without)
            mirror = self._engine.mirror(store or self._engine.bare_store, settings)
            mirror.store = cast("Store", CountingStore(mirror.store, self._counts))
            place = self._local.place = _Place(mirror, asyncio.new_event_loop())
            self._places.append(place)
        return place

    async def close(self) -> None:
        """Let go of the connections; functions that run come to their end first."""
        threads, self._threads = self._threads, None
        if threads is not None:
            await asyncio.get_running_loop().run_in_executor(None, threads.shutdown)
        while self._places:
            place = self._places.pop()
            place.mirror.close()
            place.loop.close()
