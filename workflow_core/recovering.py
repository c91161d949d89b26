"""Going on with what other processes have left: executions are taken over, the suspicious ones last, one at a time."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from workflow_core.clock import to_epoch_ms
from workflow_core.crash_loops import deaths_until, in_peace, interrupted_too_often
from workflow_core.database.store import HistoryEnd
from workflow_core.errors import LeaseLostError, StorageError, WorkflowCoreError
from workflow_core.events import ExecutionRecovered, ExecutionStarted
from workflow_core.stored import load_record, revive

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workflow_core.database.dispatch import Claim
    from workflow_core.database.rows import UnfinishedExecution
    from workflow_core.database.store import ExecutionRecord, WholeExecution
    from workflow_core.engine import WorkflowEngine
    from workflow_core.leases import Leases
    from workflow_core.models import ExecutionStatus
    from workflow_core.ownership import Owner
    from workflow_core.running import Active, RunningExecutions
    from workflow_core.summaries import Position
    from workflow_core.waking import SleepingExecutions


__tracebackhide__ = True  # pytest leaves the frames of this module out
__all__ = ["Recovery"]

logger = logging.getLogger("workflow_core")

_RECOVER_AGAIN_MS = 5_000

_RECOVERY_PAGE = 100
"""How many executions `Recovery.recover` reads at a time."""


@dataclass(slots=True)
class _SoFar:
    """What one recovery has come upon so far.

    Attributes:
        taken: The ids of the executions that this engine has now.
        suspects: Those that may have ended their process, each with how many deaths count against it.
        unknown: How many there are of workflows that are not defined in this process.
        hindered: The databases that could not be used.
    """

    taken: list[str] = field(default_factory=list)
    suspects: list[tuple[int, ExecutionRecord]] = field(default_factory=list)
    unknown: Counter[str] = field(default_factory=Counter)
    hindered: set[str] = field(default_factory=set)


class Recovery:
    """What an engine takes over.

    Args:
        engine: The engine.
        running: The executions that run in it.
        leases: Its leases, and what is known of those of others.
        sleeping: Where executions go that have to wait.

    Attributes:
        trials: Takes suspects over; ``None`` as long as there were none.
    """

    trials: asyncio.Task[None] | None = None

    def __init__(
        self, engine: WorkflowEngine, running: RunningExecutions, leases: Leases, sleeping: SleepingExecutions
    ) -> None:
        self._engine = engine
        self._running = running
        self._leases = leases
        self._sleeping = sleeping
        self._recoveries: set[asyncio.Task[list[str]]] = set()
        self._suspects: dict[str, ExecutionRecord] = {}

    def forked(self) -> None:
        """What the parent process is about to take over is not taken over in its child."""
        self._suspects, self.trials = {}, None

    def stop(self) -> None:
        """Take no suspect over any more."""
        self._suspects.clear()

    def suspects(self, execution_id: str) -> bool:
        """Tell whether an execution is about to be taken over, when its turn comes."""
        return execution_id in self._suspects

    async def recover(self) -> list[str]:
        """Do what `WorkflowEngine.recover` says."""
        self._engine.check_event_loop()
        store = self._engine.store
        so_far = _SoFar()
        after: Position | None = None
        hindered = None if self._engine.settings.storage_patience_ms is None else so_far.hindered
        while True:
            page = await store.unfinished_executions(after, _RECOVERY_PAGE, hindered)
            living: dict[Owner | None, bool] = {}  # a page has many executions of few owners
            left: list[UnfinishedExecution] = []
            for found in page:
                if self._runs_somewhere(found, living) or store.location(found.workflow_name) in so_far.hindered:
                    continue
                if not found.is_declarative and self._engine.known_definition(found.workflow_name) is None:
                    so_far.unknown[found.workflow_name] += 1
                    continue
                left.append(found)
                if len(left) == store.concurrency:
                    await self._recover_some(left, so_far)
                    left.clear()
            await self._recover_some(left, so_far)
            if len(page) < _RECOVERY_PAGE:
                break
            after = page[-1].position
            await asyncio.sleep(0)  # what was taken over begins, and others have their turn
        for name, count in so_far.unknown.items():
            logger.warning(
                'Executions of workflow "%s" wait to be recovered (%d), but it is not defined in this process',
                name,
                count,
            )
        if so_far.hindered:
            logger.warning("Executions of %s are recovered when it works again", ", ".join(sorted(so_far.hindered)))
            self._engine.clock.call_later(_RECOVER_AGAIN_MS, self._recover_in_background)
        return so_far.taken + self._suspect(so_far.suspects)

    def _suspect(self, suspects: list[tuple[int, ExecutionRecord]]) -> list[str]:
        """Let executions be taken over one at a time, in the background; return their ids."""
        suspects.sort(key=lambda suspect: (suspect[0], suspect[1].started_at, suspect[1].execution_id))
        self._suspects.update((record.execution_id, record) for _, record in suspects)
        trials = self.trials
        if suspects and (trials is None or trials.done() or trials.get_loop() is not asyncio.get_running_loop()):
            self.trials = self._engine.create_task(self._try_suspects(), "workflow recovery")
        return [record.execution_id for _, record in suspects]

    async def _try_suspects(self) -> None:
        """Take executions over that may have ended their process, the least suspicious first, one at a time."""
        latest = None
        while self._suspects:
            await in_peace(latest, self._engine.running, self._engine.clock)
            execution_id = next(iter(self._suspects), None)
            if execution_id is None:
                return  # the engine was closed meanwhile
            try:
                latest = (await self.take_over(self._suspects[execution_id])).execution
            except LeaseLostError:
                continue  # another process was faster
            except WorkflowCoreError:
                logger.exception('Execution "%s" cannot be recovered', execution_id)
                continue
            finally:
                self._suspects.pop(execution_id, None)

    def _recover_in_background(self) -> None:
        """Recover again what a database did not let be recovered."""
        if not self._engine.closed:
            task = self._engine.create_task(self._engine.recover(), "workflow recovery")
            self._recoveries.add(task)
            task.add_done_callback(self._recovered)

    def _recovered(self, task: asyncio.Task[list[str]]) -> None:
        self._recoveries.discard(task)
        if not task.cancelled() and task.exception() is not None and not self._engine.closed:
            logger.error("Executions cannot be recovered", exc_info=task.exception())

    def _runs_somewhere(self, found: UnfinishedExecution, living: dict[Owner | None, bool]) -> bool:
        if found.owner not in living:
            living[found.owner] = self._leases.lives(found.owner, found.lease_expires_at)
        return (
            living[found.owner]
            or self._running.find(found.execution_id) is not None
            or found.execution_id in self._sleeping
        )

    async def _recover_some(self, some: Sequence[UnfinishedExecution], so_far: _SoFar) -> None:
        """Take executions over at the same time."""
        before = len(so_far.taken)
        recoveries = [self._recover_one(found, before + number, so_far) for number, found in enumerate(some)]
        if len(recoveries) == 1:
            if await recoveries[0]:
                so_far.taken.append(some[0].execution_id)
            return
        tasks = [self._engine.create_task(recovery, "workflow recovery") for recovery in recoveries]
        try:
            ours = await asyncio.gather(*tasks)
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise
        so_far.taken += [found.execution_id for found, is_ours in zip(some, ours, strict=True) if is_ours]

    async def _recover_one(self, found: UnfinishedExecution, taken: int, so_far: _SoFar) -> bool:
        """Take an execution over when ``taken`` others are; return whether this engine has it now.

        One that may have ended its process is put to the suspects, and a database that cannot be used to the hindered.
        """
        try:
            waits = found.due_at is not None and found.due_at > to_epoch_ms(self._engine.clock.now())
            if found.due_at is not None and waits and taken >= self._engine.settings.resident_sleepers:
                await self._sleeping.let_sleep(found, found.due_at)
                return True
            workflow = self._engine.store.workflow(found.workflow_name)
            whole = await workflow.load_whole(found.workflow_name, found.execution_id)
            if whole is None or whole.record.fencing_token != found.fencing_token:  # it was removed, or changed hands
                return False
            if not waits and (deaths := await self._deaths_of(whole.record, whole)):
                so_far.suspects.append((deaths, whole.record))
                return False
            await self.take_over(whole.record, whole)
        except LeaseLostError:
            return False  # another process was faster
        except Exception as error:  # one damaged row must not keep the others from being recovered
            logger.exception('Execution "%s" cannot be recovered', found.execution_id)
            if (
                self._engine.settings.storage_patience_ms is not None
                and isinstance(error, StorageError)
                and error.is_transient
            ):
                so_far.hindered.add(error.location or "")
            return False
        return True

    async def take_over(self, record: ExecutionRecord, whole: WholeExecution | None = None) -> Active:
        """Go on with an interrupted execution, unless another thread of this engine does so already.

        Args:
            record: The execution.
            whole: The rest of it, if it was read together with its row.

        Raises:
            LeaseLostError: It changed hands, or ended, since it was read.
        """
        async with self._running.claimed(record.execution_id):
            return (
                self._running.find(record.execution_id)
                or await self._sleeping.woken(record.execution_id)
                or await self._taken_over(record, whole)
            )

    async def go_on(self, claim: Claim) -> Active:
        """Do what `WorkflowEngine.run_claimed` says."""
        record = claim.record
        async with self._running.claimed(record.execution_id):
            active = self._running.find(record.execution_id)
            if active is not None and active.execution.lease.fencing_token < record.fencing_token:
                active = await self._running.without(active)
            if active is not None:
                return active
            if claim.kind == "abandoned":
                return await self._taken_over(record)
            execution = await revive(self._engine, record, is_new=claim.kind == "begun")
            if claim.kind == "begun":
                execution.opens_with(ExecutionStarted(), 1, record.started_at)
            else:
                execution.opens_with(ExecutionRecovered(), execution.last_seq, execution.now())
            return self._engine.launch(execution)

    async def _taken_over(self, record: ExecutionRecord, whole: WholeExecution | None = None) -> Active:
        execution = await revive(self._engine, record, whole=whole)
        deaths = await self._deaths_of(record, whole)
        seq, at = execution.next_seq(), self._engine.clock.now()
        lease = await execution.store.execution_recovered(
            execution.lease, self._engine.owner, self._engine.lease_expiry(), seq, at
        )
        place = lease.recovered or HistoryEnd(seq, at, execution.changes_read)
        if (place.seq, place.changes) != (seq, execution.changes_read):  # its last owner lives, and wrote meanwhile
            record = await load_record(self._engine, record.execution_id)
            execution = await revive(self._engine, record)
        status: ExecutionStatus = record.status if record.status in {"sleeping", "panicked"} else "running"
        execution.taken_over(lease, status)
        if self._engine.settings.max_recoveries is not None and deaths >= self._engine.settings.max_recoveries:
            execution.hopeless = interrupted_too_often(execution, deaths)
        execution.opens_with(ExecutionRecovered(), place.seq, place.at)
        return self._engine.launch(execution)

    async def _deaths_of(self, record: ExecutionRecord, whole: WholeExecution | None) -> int:
        """Return how many deaths of processes count against an execution; see `workflow_core.crash_loops`."""
        if self._engine.settings.max_recoveries is None or record.owner_id is None:
            return 0
        now = self._engine.clock.now()
        if whole is not None:
            return deaths_until(now, whole.recoveries, record)
        store = self._engine.store.workflow(record.workflow_name)
        return deaths_until(now, await store.load_recoveries(record.workflow_name, record.execution_id), record)
