"""Waiting for executions, wherever they run: here, in another event loop of this engine, or in another process."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from workflow_core.arguments import validated_id
from workflow_core.errors import InvalidStateError, LeaseLostError
from workflow_core.stored import is_at_rest, load_record

if TYPE_CHECKING:
    from workflow_core.database.store import ExecutionRecord
    from workflow_core.engine import WorkflowEngine
    from workflow_core.leases import Leases
    from workflow_core.models import ExecutionResult
    from workflow_core.recovering import Recovery
    from workflow_core.running import Active, RunningExecutions
    from workflow_core.waking import SleepingExecutions


__tracebackhide__ = True  # pytest leaves the frames of this module out
__all__ = ["Ended", "Joining", "as_joined"]


@dataclass(frozen=True, slots=True)
class Ended:
    """An execution that is at rest already.

    Attributes:
        result: Its result.
        joined: Whether it ran when it was asked for, and was waited for.
    """

    result: ExecutionResult
    joined: bool


def as_joined(result: ExecutionResult) -> ExecutionResult:
    """Return a result that was waited for from elsewhere, or raise what ended the execution, as `start` does."""
    return result if result.status == "cancelled" else result.raise_for_status()


class Joining:
    """The waiting for executions that are asked for in one engine.

    Args:
        engine: The engine.
        running: The executions that run in it.
        leases: What is known of the processes that run others.
        sleeping: Executions that go on as soon as they are waited for.
        recovery: Takes over what nobody runs any more.
    """

    def __init__(
        self,
        engine: WorkflowEngine,
        running: RunningExecutions,
        leases: Leases,
        sleeping: SleepingExecutions,
        recovery: Recovery,
    ) -> None:
        self._engine = engine
        self._running = running
        self._leases = leases
        self._sleeping = sleeping
        self._recovery = recovery

    async def wait(self, execution_id: str) -> ExecutionResult:
        """Do what `WorkflowEngine.wait` says."""
        self._engine.check_event_loop()
        execution_id = validated_id(execution_id, self._engine.settings)
        active = self._running.find(execution_id)
        if active is not None and active.loop is asyncio.get_running_loop():
            return await self.final_result(active)
        if active is None and (active := await self._sleeping.wake(execution_id)) is not None:
            return await self.final_result(active)
        return await self.poll(execution_id)

    async def found(self, record: ExecutionRecord, *, detach: bool = False) -> Active | Ended:
        """Answer a start whose id was known already: join what runs, go on with what was interrupted."""
        joined = False
        while True:
            active = self._running.find(record.execution_id)
            if active is not None and active.loop is asyncio.get_running_loop():
                return active
            if active is None:
                if is_at_rest(record):
                    return Ended(await self._running.status(record.execution_id), joined)
                if record.queue is None and not await self._leases.is_alive_elsewhere(record):
                    with contextlib.suppress(LeaseLostError):  # it changed hands, or ended, since it was read
                        return await self._recovery.take_over(record)
            if detach:
                return Ended(await self._running.status(record.execution_id), joined)
            joined = True
            await self._engine.clock.sleep(self._engine.settings.poll_interval_ms)
            record = await load_record(self._engine, record.execution_id)

    async def first_result(self, active: Active) -> ExecutionResult:
        """Wait for the end of a run; if another process takes the execution over meanwhile, for what comes of it there.

        Raises:
            Exception: What ended the execution, as `start` raises it.
        """
        try:
            return await active.first.wait()
        except LeaseLostError as error:
            if error.execution_id != active.execution.execution_id or self._engine.closed:
                raise
        return as_joined(await self._result_elsewhere(active.execution.execution_id))

    async def final_result(self, active: Active) -> ExecutionResult:
        """As `first_result`, for the final result, whatever its status."""
        try:
            return await active.final.wait()
        except LeaseLostError as error:
            if error.execution_id != active.execution.execution_id or self._engine.closed:
                raise
        return await self._result_elsewhere(active.execution.execution_id)

    async def _result_elsewhere(self, execution_id: str) -> ExecutionResult:
        """Wait for an execution that another process has taken over, and go on with it if that one dies as well."""
        found = await self.found(await load_record(self._engine, execution_id))
        return found.result if isinstance(found, Ended) else await self.final_result(found)

    async def poll(self, execution_id: str) -> ExecutionResult:
        """Wait for an execution that another process, or another event loop, runs."""
        while True:
            record = await load_record(self._engine, execution_id)
            if is_at_rest(record):
                return await self._running.status(execution_id)
            is_here = record.queue is None and self._is_nobodys(execution_id)
            if is_here and not await self._leases.is_alive_elsewhere(record):
                again = await load_record(self._engine, execution_id)
                if again != record:
                    continue  # it ended, or changed hands, while it was looked at
                raise InvalidStateError(
                    f'Execution "{execution_id}" of workflow "{record.workflow_name}" is {record.status}, but no '
                    "process runs it: it was interrupted; start() with its id, resume() or recover() goes on with it"
                )
            active = self._running.find(execution_id)
            if active is not None and active.trouble is not None:
                raise active.trouble
            await self._engine.clock.sleep(self._engine.settings.poll_interval_ms)

    def _is_nobodys(self, execution_id: str) -> bool:
        """Tell whether an execution neither runs in this engine nor is about to be taken over by it."""
        return self._running.find(execution_id) is None and not self._recovery.suspects(execution_id)
