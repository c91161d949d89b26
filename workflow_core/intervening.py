"""Interventions in executions: one is resumed, restarted or cancelled, wherever it runs."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from typing import TYPE_CHECKING

from workflow_core.arguments import validated_id
from workflow_core.database.dispatch import dispatching
from workflow_core.errors import InvalidStateError, LeaseLostError
from workflow_core.events import ExecutionCancelled
from workflow_core.interception import patiently
from workflow_core.joining import as_joined
from workflow_core.models import TERMINAL_STATUSES
from workflow_core.restarting import restarted
from workflow_core.stored import complete_log, load_record, revive

if TYPE_CHECKING:
    from datetime import datetime

    from workflow_core.database.store import ExecutionRecord
    from workflow_core.engine import WorkflowEngine
    from workflow_core.execution import Execution
    from workflow_core.joining import Joining
    from workflow_core.leases import Leases
    from workflow_core.models import ExecutionResult
    from workflow_core.recovering import Recovery
    from workflow_core.running import RunningExecutions
    from workflow_core.waking import SleepingExecutions


__tracebackhide__ = True  # pytest leaves the frames of this module out
__all__ = ["Interventions"]

_CANCEL_GRACE_SECONDS = 5.0
"""How long a cancellation waits for code that does not want to end."""


class Interventions:
    """Resumes, restarts and cancels executions for one engine.

    Args:
        engine: The engine.
        running: The executions that run in it.
        leases: What is known of the processes that run others.
        sleeping: Executions that wait in the store.
        recovery: Takes executions over.
        joining: Waits for them.
    """

    def __init__(
        self,
        engine: WorkflowEngine,
        running: RunningExecutions,
        leases: Leases,
        sleeping: SleepingExecutions,
        recovery: Recovery,
        joining: Joining,
    ) -> None:
        self._engine = engine
        self._running = running
        self._leases = leases
        self._sleeping = sleeping
        self._recovery = recovery
        self._joining = joining

    async def resume(self, execution_id: str, *, detach: bool = False) -> ExecutionResult:
        """Do what `WorkflowEngine.resume` says."""
        self._engine.check_event_loop()
        execution_id = validated_id(execution_id, self._engine.settings)
        active = self._running.find(execution_id)
        if active is not None and active.execution.status != "panicked":
            if detach:
                return await self._running.status(execution_id)
            if active.loop is asyncio.get_running_loop():
                return await self._joining.first_result(active)
            return as_joined(await self._joining.poll(execution_id))
        record = await load_record(self._engine, execution_id)
        if record.status not in {"sleeping", "running", "restarting", "queued"}:
            raise InvalidStateError(
                f'Execution "{execution_id}" of workflow "{record.workflow_name}" is {record.status}; only a sleeping '
                "or interrupted execution can be resumed"
                + (", and this one can be restarted" if record.status in {"panicked", "failed"} else "")
            )
        if record.queue is not None:  # its workers go on with it
            if detach:
                return await self._running.status(execution_id)
            return as_joined(await self._joining.poll(execution_id))
        if await self._leases.is_alive_elsewhere(record):
            raise InvalidStateError(
                f'Execution "{execution_id}" of workflow "{record.workflow_name}" runs in another process; wait for it '
                "with wait()"
            )
        try:
            active = await self._recovery.take_over(record)
            return active.execution.snapshot() if detach else await active.first.wait()
        except LeaseLostError:
            if (await load_record(self._engine, execution_id)).fencing_token == record.fencing_token:
                raise
        # It changed hands, or ended, since it was read: say what it is now.
        return await self.resume(execution_id, detach=detach)

    async def restart(self, execution_id: str, *, detach: bool = False) -> ExecutionResult:
        """Do what `WorkflowEngine.restart` says."""
        self._engine.check_event_loop()
        execution_id = validated_id(execution_id, self._engine.settings)
        active = self._running.find(execution_id)
        if active is not None and active.execution.status == "panicked" and active.loop is asyncio.get_running_loop():
            await active.between_runs.wait()
            active = self._running.find(execution_id)
        if active is not None and active.execution.status == "panicked" and active.restart_now is not None:
            if active.loop is not asyncio.get_running_loop():
                active.loop.call_soon_threadsafe(active.restart_now.set)
                if detach:
                    return await self._running.status(execution_id)
                return as_joined(await self._joining.poll(execution_id))
            active.renew_first()
            active.restart_now.set()
            return active.execution.snapshot() if detach else await active.first.wait()
        record = await load_record(self._engine, execution_id)
        if record.status not in {"panicked", "failed"} or active is not None:
            raise InvalidStateError(
                f'Execution "{execution_id}" of workflow "{record.workflow_name}" is {record.status}; only a panicked '
                "or failed execution can be restarted"
            )
        async with self._running.claimed(execution_id):
            execution = await revive(self._engine, record)
            try:
                execution = await restarted(execution, by_hand=True)
            except LeaseLostError:
                raise InvalidStateError(
                    f'Execution "{execution_id}" of workflow "{record.workflow_name}" was restarted, or cancelled, by '
                    "somebody else at the same moment; wait for it with wait()"
                ) from None
            if record.queue is not None:  # its workers are to run it
                await self._hand_to_workers(execution)
            else:
                active = self._engine.launch(execution)
        if active is None:
            if detach:
                return await self._running.status(execution_id)
            return as_joined(await self._joining.poll(execution_id))
        return execution.snapshot() if detach else await active.first.wait()

    async def _hand_to_workers(self, execution: Execution) -> None:
        at, give_back = execution.now(), True
        release = functools.partial(execution.store.execution_released, execution.lease, give_back, at)
        with contextlib.suppress(LeaseLostError):  # somebody else has cancelled it, or taken it over, since
            await patiently(self._engine.store, release)

    async def cancel(self, execution_id: str) -> ExecutionResult:
        """Do what `WorkflowEngine.cancel` says."""
        self._engine.check_event_loop()
        record, at = await self._cancel_stored(execution_id)
        self._sleeping.forget(record.execution_id)
        active = self._running.find(record.execution_id)
        if active is not None and active.task is not None:
            execution = active.execution
            active.cancelled, execution.status = True, "cancelled"
            execution.doomed(asyncio.CancelledError(f"{execution} was cancelled"))
            if execution.observed:
                event = ExecutionCancelled().stamped(
                    execution.next_seq(), at, record.execution_id, record.workflow_name
                )
                await self._engine.extensions.emit(event)
            if active.loop is not asyncio.get_running_loop():
                active.loop.call_soon_threadsafe(active.task.cancel)
            elif active.task is not asyncio.current_task():
                await self._running.let_begin()
                active.task.cancel()
                await asyncio.wait([active.task], timeout=_CANCEL_GRACE_SECONDS)
        await complete_log(self._engine, record)
        return await self._running.status(execution_id)

    async def stop_cancelled(self) -> None:
        """Do what `WorkflowEngine.stop_cancelled` says."""
        running = {
            active.execution.execution_id: active
            for active in self._running
            if active.task is not None and active.execution.status not in TERMINAL_STATUSES
        }
        if not running:
            return
        for execution_id in await dispatching(self._engine.bare_store).cancelled_among(list(running)):
            active = running[execution_id]
            active.lost = True
            if active.task is not None:
                active.task.cancel()

    async def _cancel_stored(self, execution_id: str) -> tuple[ExecutionRecord, datetime]:
        while True:
            record = await load_record(self._engine, execution_id)
            if record.status in TERMINAL_STATUSES:
                raise InvalidStateError(
                    f'Execution "{execution_id}" of workflow "{record.workflow_name}" is {record.status} already'
                )
            at = self._engine.clock.now()
            try:
                await self._engine.store.workflow(record.workflow_name).execution_cancelled(record.lease, 0, at)
            except LeaseLostError:
                continue  # it changed hands since it was read; whoever has it now loses it to the next try
            return record, at
