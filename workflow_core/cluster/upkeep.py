"""What a worker does for all executions of its database: it wakes those that are due, and mends what accidents left.

What is due is looked for by each worker by itself, with a statement that writes nothing where nothing is due. A job of
the queue each second would be half a dozen transactions for every database that is idle, would wait where no worker has
room, and would be there many times over after an outage. What is looked for less often is a scheduled job of the queue,
which one worker does for all.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from typing import TYPE_CHECKING, Final

from procrastinate import exceptions

from workflow_core.database.dispatch import MISSED_HEARTBEATS
from workflow_core.errors import StorageError

if TYPE_CHECKING:
    from datetime import datetime

    from procrastinate.manager import JobManager

    from workflow_core.cluster.connector import PatientConnector
    from workflow_core.cluster.settings import WorkerSettings
    from workflow_core.database.postgres.store import PostgresStore
    from workflow_core.engine import WorkflowEngine

__all__ = ["FIRST", "OVERDUE", "SWEEP_TASK", "Upkeep"]

logger = logging.getLogger("workflow_core")

FIRST: Final = 2**31 - 1
"""The priority of the jobs that keep the others going."""

SWEEP_TASK: Final = "workflow_core.wake"
"""The name of the scheduled job; workers of earlier versions know it as well."""

OVERDUE: Final = """
DELETE FROM procrastinate_jobs WHERE id IN (
    SELECT id FROM procrastinate_jobs WHERE status = 'todo' AND priority = %(priority)s AND task_name = %(task)s
    ORDER BY priority DESC, id FOR UPDATE SKIP LOCKED
) RETURNING id
"""

_LATE_SECONDS: Final = 5.0
"""How long it takes a worker that lives to find out that the database is back: what is tried again waits two seconds at
most, and so long does a connection."""

_FORGOTTEN_SECONDS: Final = 3_600
"""For how long a worker that gives no sign of life is shown as lost; others run its executions long before."""

_TICK_MS: Final = 1_000
_JITTER: Final = 0.2
"""By which part the ticks of workers differ, so that they do not look at the same moment."""
_LEAST_PAUSE_MS: Final = 50
"""The shortest time between two looks at what rate limits let begin."""
_ORPHANED_MS: Final = 60_000
"""How long nothing must have happened in an execution without a job before it gets another one."""
_LONGEST_SWEEP_SECONDS: Final = 30


class Upkeep:
    """Keeps the executions of a database going.

    Args:
        engine: The worker's engine.
        store: Its store.
        connector: Procrastinate's connections.
        settings: The settings of the worker.
    """

    def __init__(
        self, engine: WorkflowEngine, store: PostgresStore, connector: PatientConnector, settings: WorkerSettings
    ) -> None:
        self._engine = engine
        self._store = store
        self._connector = connector
        self._settings = settings
        self._told: str | None = None
        self._watched: dict[int, tuple[datetime, float]] = {}
        self._looked_at = engine.clock.monotonic()

    @property
    def schedule(self) -> str:
        """When the scheduled job is due, as a line of cron that ends with seconds: with each heartbeat, or earlier."""
        seconds = min(_LONGEST_SWEEP_SECONDS, max(1, self._settings.heartbeat_ms // 1_000))
        return f"* * * * * */{seconds}"

    @property
    def forgotten_seconds(self) -> float:
        """For how long a worker that gives no sign of life is kept, in seconds."""
        return max(_FORGOTTEN_SECONDS, self._settings.stalled_seconds)

    async def tick(self) -> None:
        """Queue what may go on as soon as it may, and stop what was cancelled elsewhere; without an end."""
        while True:
            pause_ms: float = _TICK_MS * random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311 - it hides nothing
            try:
                await self._engine.stop_cancelled()
                while await self._store.wake_due():
                    pass
                starts_in_ms = await self._store.next_start_ms()
                if starts_in_ms is not None:
                    pause_ms = min(pause_ms, max(starts_in_ms, _LEAST_PAUSE_MS))
            except StorageError as error:
                self._tell(error)
            else:
                self._told = None
            await self._engine.clock.sleep(pause_ms)

    def _tell(self, error: StorageError) -> None:
        """Say once what keeps this worker from waking others; that the database is away is said elsewhere."""
        if error.is_transient or str(error) == self._told:
            return
        self._told = str(error)
        logger.error("What sleeps, or waits for a limit, cannot be woken: %s", error)

    async def sweep(self, manager: JobManager) -> None:
        """Let the jobs of workers that give no sign of life be fetched again, and those that have disappeared."""
        await self._connector.execute_query_all_async(OVERDUE, priority=FIRST, task=SWEEP_TASK)  # this one does for all
        for job_id, worker_id in await self._store.left_jobs(await self.look_for_the_dead()):
            await self._connector.put_back([job_id], worker_id)
        await manager.prune_stalled_workers(self.forgotten_seconds)
        await self._store.wake_due()
        await self._store.queue_orphans(_ORPHANED_MS)
        await self._store.admit_missed()

    async def look_for_the_dead(self) -> list[int]:
        """Return the workers that have missed three of their heartbeats, and one of them while this one looked.

        When the database was away for long, all workers have missed theirs, and those that live give one as soon as
        they can. Whoever is answered first must not take the others for dead. So who could not look, because it was
        not answered or stood still, begins anew.
        """
        now, before = self._engine.clock.monotonic(), self._watched
        if now - self._looked_at > self._settings.stalled_seconds:
            before = {}
        self._watched, self._looked_at, dead = {}, now, []
        for sign in await self._store.signs_of_life(self._settings.heartbeat_ms):
            given_at, since = before.get(sign.worker_id, (None, now))
            if given_at != sign.given_at:
                since = now
            self._watched[sign.worker_id] = (sign.given_at, since)
            grace = sign.heartbeat_seconds + min(_LATE_SECONDS, MISSED_HEARTBEATS * sign.heartbeat_seconds)
            if sign.is_silent and now - since >= grace:
                dead.append(sign.worker_id)
        return dead

    async def look_for_lost_jobs(self, worker_id: int) -> None:
        """Let jobs be fetched again that were given to this worker, which was not told: the answer was lost."""
        suspects: set[int] = set()
        while True:
            await asyncio.sleep(self._settings.heartbeat_ms / 1_000)
            with contextlib.suppress(StorageError, exceptions.ConnectorException):
                given = await self._store.jobs_of_worker(worker_id)
                unknown = given - self._connector.held
                if lost := unknown & suspects:
                    await self._connector.put_back(sorted(lost), worker_id)
                suspects = unknown - suspects

    async def heed_the_clock(self, manager: JobManager) -> None:
        """See with each heartbeat who lives, and that a clock which is set back holds nothing up; without an end.

        While that of this machine is behind where it was, no job that sweeps is scheduled here.
        """
        latest: datetime | None = None
        latest_here = self._engine.clock.now()
        while True:
            await self._sleep_for_a_heartbeat()
            with contextlib.suppress(StorageError):
                await self.look_for_the_dead()
            with contextlib.suppress(StorageError, exceptions.ConnectorException):
                latest = await self._store.mend_future(latest)
                now = self._engine.clock.now()
                if now < latest_here:
                    await self.sweep(manager)
                latest_here = max(latest_here, now)

    async def _sleep_for_a_heartbeat(self) -> None:
        """Wait until the next heartbeat is due, and say so if that came so late that others took this one for dead."""
        began = self._engine.clock.monotonic()
        await asyncio.sleep(self._settings.heartbeat_ms / 1_000)
        seconds = self._engine.clock.monotonic() - began
        if seconds > self._settings.stalled_seconds:
            logger.warning(
                "This worker stood still for %.1f s, which is longer than three heartbeats, so others took it for dead "
                "and went on with its executions: code that blocks the event loop belongs in a thread, where steps run "
                "that are no async functions; or the process, or its machine, was stopped",
                seconds,
            )
