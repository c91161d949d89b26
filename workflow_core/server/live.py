"""Live changes: which workflows were written, by this process or another, for any number of listeners by one poller."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

from workflow_core.errors import WorkflowCoreError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Hashable, Mapping

    from workflow_core.engine import WorkflowEngine

__all__ = ["Changes", "Listener"]

logger = logging.getLogger("workflow_core.server")


class Listener:
    """Is told which workflows have changed since it asked last; it holds no more than names, however slow it is."""

    def __init__(self) -> None:
        self._changed: set[str] = set()
        self._woken = asyncio.Event()
        self.ended = False

    def tell(self, names: set[str]) -> None:
        """Note changes."""
        self._changed |= names
        self._woken.set()

    def end(self) -> None:
        """Say that nothing follows."""
        self.ended = True
        self._woken.set()

    async def next(self, patience_ms: float | None = None) -> set[str]:
        """Wait for changes, and return the workflows; none of them when time is up, or when nothing follows.

        Args:
            patience_ms: How long to wait at most, in milliseconds.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(None if patience_ms is None else patience_ms / 1_000):
                await self._woken.wait()
        if not self.ended:
            self._woken.clear()
        changed, self._changed = self._changed, set()
        return changed


class Changes:
    """Polls the change markers of an engine's databases while anybody listens.

    Args:
        engine: The engine.
        interval_ms: How often, in milliseconds.
    """

    def __init__(self, engine: WorkflowEngine, interval_ms: int) -> None:
        self._engine = engine
        self._interval_ms = interval_ms
        self._listeners: set[Listener] = set()
        self._poller: asyncio.Task[None] | None = None
        self._begun = asyncio.Event()
        self._ended = False

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[Listener]:
        """Listen in an ``async with`` block."""
        listener = Listener()
        if self._ended:
            listener.end()
        self._listeners.add(listener)
        if self._poller is None:
            self._begun = asyncio.Event()
            self._poller = asyncio.create_task(self._poll(self._begun), name="workflow server changes")
        try:
            await self._begun.wait()  # what is read from here on is compared with what changes after it
            yield listener
        finally:
            self._listeners.discard(listener)
            if not self._listeners:
                await self._stop()

    async def close(self) -> None:
        """End all listening, also what begins later; a server that stops waits for nobody who listens."""
        self.end()
        await self._stop()

    def end(self) -> None:
        """Tell all listeners that nothing follows."""
        self._ended = True
        for listener in list(self._listeners):
            listener.end()

    async def _stop(self) -> None:
        poller, self._poller = self._poller, None
        if poller is not None:
            poller.cancel()
            await asyncio.gather(poller, return_exceptions=True)

    async def _poll(self, begun: asyncio.Event) -> None:
        before = await self._markers()
        begun.set()
        while True:
            await asyncio.sleep(self._interval_ms / 1_000)
            now = await self._markers()
            changed = {name for name in {*before, *now} if before.get(name) != now.get(name)}
            before = now
            if changed:
                for listener in list(self._listeners):
                    listener.tell(changed)

    async def _markers(self) -> Mapping[str, Hashable]:
        try:
            return await self._engine.store.change_markers()
        except WorkflowCoreError as error:
            logger.debug("Changes cannot be seen: %s", error)
        except Exception:  # a store of another's making may fail in any way, and listeners wait
            logger.exception("Changes cannot be seen")
        return {}
