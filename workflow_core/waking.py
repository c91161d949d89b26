"""Executions that were recovered and wait in the store: they are read when they are due, or asked for."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

from workflow_core.clock import to_epoch_ms
from workflow_core.database.store import Lease
from workflow_core.errors import StorageError
from workflow_core.events import ExecutionRecovered
from workflow_core.stored import revive

if TYPE_CHECKING:
    from workflow_core.database.rows import UnfinishedExecution
    from workflow_core.engine import WorkflowEngine
    from workflow_core.leases import Leases
    from workflow_core.running import Active, RunningExecutions
    from workflow_core.sleepers import Sleeper, Sleepers


__tracebackhide__ = True  # pytest leaves the frames of this module out
__all__ = ["SleepingExecutions"]

logger = logging.getLogger("workflow_core")

_WAKING_BUNCH = 100
"""How many sleepers go on before other tasks of the event loop have their turn."""

_WAKE_AGAIN_MS = 1_000
"""After which time a sleeper is tried again whose database could not be read."""


class SleepingExecutions:
    """The executions that an engine owns and has not read yet.

    Args:
        engine: The engine.
        running: The executions that run in it.
        leases: Its leases.
        sleepers: The sleepers themselves.

    Attributes:
        waking: Goes on with them when they are due; ``None`` as long as there were none.
    """

    waking: asyncio.Task[None] | None = None

    def __init__(self, engine: WorkflowEngine, running: RunningExecutions, leases: Leases, sleepers: Sleepers) -> None:
        self._engine = engine
        self._running = running
        self._leases = leases
        self._sleepers = sleepers

    def __contains__(self, execution_id: object) -> bool:
        return execution_id in self._sleepers

    def forked(self) -> None:
        """What the parent process waits for is not waited for in its child."""
        self.waking = None
        self._sleepers.clear()

    def forget(self, execution_id: str) -> None:
        """Let an execution go on no more, if it sleeps here."""
        self._sleepers.take(execution_id)

    async def let_sleep(self, found: UnfinishedExecution, due_at: int) -> None:
        """Take a sleeping execution over without reading it; it is read when it is due, or asked for."""
        async with self._running.claimed(found.execution_id):
            if self._running.find(found.execution_id) is not None:
                return
            lease, at = Lease(found.workflow_name, found.execution_id, found.fencing_token), self._engine.clock.now()
            lease = await self._engine.store.workflow(found.workflow_name).execution_recovered(
                lease, self._engine.owner, self._engine.lease_expiry(), 0, at
            )
            self._sleepers.add(lease, due_at, at)
        self._leases.keep()
        if self.waking is None or self.waking.done() or self.waking.get_loop().is_closed():
            self.waking = self._engine.create_task(self._wake_when_due(), "workflow sleepers")

    async def wake(self, execution_id: str) -> Active | None:
        """Go on with a sleeper; ``None`` if it is none."""
        if execution_id not in self._sleepers:
            return None
        async with self._running.claimed(execution_id):
            return self._running.find(execution_id) or await self.woken(execution_id)

    async def woken(self, execution_id: str) -> Active | None:
        """Go on with a sleeper; ``None`` if it is none, or not any more. It must be claimed."""
        sleeper = self._sleepers.take(execution_id)
        if sleeper is None:
            return None
        try:
            record = await self._engine.store.workflow(sleeper.lease.workflow_name).load_execution(execution_id)
            if record is None or record.fencing_token != sleeper.lease.fencing_token:
                return None  # it was cancelled, or taken over when this process seemed dead
            execution = await revive(self._engine, record)
        except BaseException:
            self._sleepers.add(sleeper.lease, sleeper.due_at, sleeper.recovered_at)
            raise
        execution.opens_with(ExecutionRecovered(), execution.last_seq, sleeper.recovered_at)
        return self._engine.launch(execution)

    async def release(self) -> None:
        """Give the sleepers back for another engine, or another event loop of this one, to recover."""
        by_workflow: dict[str, list[Lease]] = {}
        for sleeper in self._sleepers.clear():
            by_workflow.setdefault(sleeper.lease.workflow_name, []).append(sleeper.lease)
        for name, leases in by_workflow.items():
            with contextlib.suppress(StorageError):
                await self._engine.store.workflow(name).executions_released(leases, self._engine.clock.now())

    async def _wake_when_due(self) -> None:
        """Go on with sleepers when they are due, and let others have their turn between bunches of them."""
        try:
            while self._sleepers and not self._engine.closed:
                await self._sleepers.until_due()
                for _ in range(_WAKING_BUNCH):
                    sleeper = self._sleepers.first_due()
                    if sleeper is None:
                        break
                    await self._wake_due(sleeper)
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            if not self._engine.closed:  # else the owner is retired as a whole
                await self.release()
            raise

    async def _wake_due(self, sleeper: Sleeper) -> None:
        lease = sleeper.lease
        try:
            await self.wake(lease.execution_id)
        except StorageError:
            logger.exception('Execution "%s" is due, but cannot be read; it is tried again', lease.execution_id)
            again_at = to_epoch_ms(self._engine.clock.now()) + _WAKE_AGAIN_MS
            self._sleepers.add(lease, again_at, sleeper.recovered_at)
        except Exception:  # one damaged row must not keep the others asleep
            logger.exception('Execution "%s" is due, but cannot go on', lease.execution_id)
            self._sleepers.take(lease.execution_id)
            with contextlib.suppress(StorageError):
                store = self._engine.store.workflow(lease.workflow_name)
                await store.executions_released([lease], self._engine.clock.now())
