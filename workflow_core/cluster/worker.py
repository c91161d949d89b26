"""A worker: it fetches executions from the queues of a database, and runs them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any, Final

import procrastinate
from procrastinate.worker import Worker as QueueWorker

from workflow_core.arguments import MAINTENANCE_QUEUE, validated_queue
from workflow_core.clock import to_epoch_ms
from workflow_core.cluster.connector import PatientConnector
from workflow_core.cluster.settings import WorkerSettings
from workflow_core.cluster.telling import Teller
from workflow_core.database.dispatch import dispatching
from workflow_core.database.postgres.dispatch_schema import RUN_TASK
from workflow_core.database.postgres.store import PostgresStore
from workflow_core.errors import LeaseLostError, StorageError, ValidationError, WorkflowCoreError

if TYPE_CHECKING:
    from collections.abc import Callable

    from procrastinate.jobs import Job

    from workflow_core.database.dispatch import Claim
    from workflow_core.engine import WorkflowEngine
    from workflow_core.running import Active

__all__ = ["Worker", "dispatching_store"]

logger = logging.getLogger("workflow_core")

_FIRST: Final = 2**31 - 1
"""The priority of the jobs that keep the others going."""

_SECONDLY: Final = "* * * * * *"
_WAKE_TASK: Final = "workflow_core.wake"
_OVERDUE: Final = """
DELETE FROM procrastinate_jobs WHERE id IN (
    SELECT id FROM procrastinate_jobs WHERE status = 'todo' AND priority = %(priority)s AND task_name = %(task)s
    ORDER BY priority DESC, id FOR UPDATE SKIP LOCKED
) RETURNING (args ->> 'timestamp')::bigint AS timestamp
"""
_TICK_MS: Final = 1_000
_LEAST_PAUSE_MS: Final = 50
"""The shortest time between two looks at what rate limits let begin."""
_ORPHANED_MS: Final = 60_000
"""How long nothing must have happened in an execution without a job before it gets another one."""

_FORGOTTEN_SECONDS: Final = 3_600
"""For how long a worker that gives no sign of life is shown as lost; others run its executions long before."""

_NOT_DEFINED_SECONDS: Final = 10
"""After what time another worker is to try an execution whose workflow is not defined in this one."""

_UNREADABLE_MS: Final = 30_000
"""After what time an execution is tried again that cannot be read."""

_CONNECTIONS: Final = 4
_LOOK_SECONDS: Final = 0.01
_LEAVING_SECONDS: Final = 1.0
"""How long a worker that ends waits for a database that is away."""


class _NotDefinedHereError(WorkflowCoreError):
    """A job's workflow is not defined in this process."""


class _Again(procrastinate.BaseRetryStrategy):
    """No job of an execution is ever given up: the execution itself knows when it has failed."""

    def get_retry_decision(self, *, exception: BaseException, job: Job) -> procrastinate.RetryDecision:
        """Return when a job is tried again."""
        del job
        seconds = _NOT_DEFINED_SECONDS if isinstance(exception, _NotDefinedHereError) else 1
        return procrastinate.RetryDecision(retry_in={"seconds": seconds})


def dispatching_store(engine: WorkflowEngine) -> PostgresStore:
    """Return an engine's store, if executions can be handed to workers there.

    Raises:
        ValidationError: They cannot.
    """
    store = engine.bare_store
    dispatching(store)
    if not isinstance(store, PostgresStore):
        raise ValidationError(f"Workers need the store of PostgreSQL, and this one is {type(store).__name__}")
    return store


class Worker:
    """Runs executions of an engine's database.

    Args:
        engine: The engine; it knows the workflows.
        settings: Everything else.

    Raises:
        ValidationError: The engine's database has no workers.
    """

    def __init__(self, engine: WorkflowEngine, settings: WorkerSettings | None = None) -> None:
        self._engine = engine
        self.settings = settings or WorkerSettings()
        for queue in self.settings.queues:
            validated_queue(queue)
        self._store = dispatching_store(engine)
        self._forgotten_seconds = max(_FORGOTTEN_SECONDS, self.settings.stalled_seconds)
        self._parking = engine.let_go_after(self.settings.rest_ms)
        self._worker_id: int | None = None
        self._waking: asyncio.Task[None] | None = None
        self._teller = Teller(engine.clock)
        self._app = self._make_app()
        self._worker = QueueWorker(
            self._app,
            queues=[MAINTENANCE_QUEUE, *self.settings.queues],
            concurrency=self.settings.concurrency,
            fetch_job_polling_interval=self.settings.poll_ms / 1_000,
            abort_job_polling_interval=60,
            shutdown_graceful_timeout=self.settings.grace_ms / 1_000,
            delete_jobs="always",
            install_signal_handlers=False,
            update_heartbeat_interval=self.settings.heartbeat_ms / 1_000,
            stalled_worker_timeout=self._forgotten_seconds,
        )

    async def run(self, stop: asyncio.Event, when_ready: Callable[[], None] = lambda: None) -> None:
        """Work until told to stop; then end what runs, or hand it over.

        Args:
            stop: When it is set, no further execution is begun.
            when_ready: Called once, when the worker is about to look for work.

        Raises:
            StorageError: The database cannot be used at the beginning, or refuses what the queue needs. When it is
                away later, its return is waited for.
        """
        await self._store.make_queue()
        await self._declare_limits(stop)
        async with self._app.open_async():
            run = asyncio.create_task(self._work(), name="workflow worker")
            tasks: list[asyncio.Task[Any]] = [
                run,
                asyncio.create_task(self._look_for_lost_jobs(), name="workflow worker's lost jobs"),
            ]
            stopped = asyncio.create_task(stop.wait(), name="workflow worker's stop")
            tasks.append(stopped)
            try:
                await self._announce(run)
                when_ready()
                await asyncio.wait([run, stopped], return_when=asyncio.FIRST_COMPLETED)
                self._parking.after_ms = 0
                self._parking.consider_all()
                tasks.append(asyncio.create_task(self._stay_alive(), name="workflow worker's signs of life"))
                self._worker.stop()  # type: ignore[no-untyped-call]
                seconds = self.settings.grace_ms / 1_000 + _LEAVING_SECONDS
                asyncio.get_running_loop().call_later(seconds, self._connector.hurry)
                try:
                    await self._connector.hand_back(self._worker_id)
                    await run
                except procrastinate.exceptions.ConnectorException as error:
                    if not stop.is_set():
                        raise self._refused() from error
                    logger.warning("The worker ends while the database is away; others go on with what it leaves")
                if not stop.is_set():
                    raise self._refused()
            finally:
                await self._end(tasks)

    def _refused(self) -> StorageError:
        """Return why the queue has ended by itself."""
        what = "the worker's queue has stopped"
        if self._connector.refusal is not None:
            return self._store.failure(self._connector.refusal, what)
        location = self._store.location()
        return StorageError(f"{location}: {what}: its log says why, with LOG_LEVEL=debug", location)

    async def _declare_limits(self, stop: asyncio.Event) -> None:
        """Let the limits hold that the workflows have here, also for executions that were enqueued before.

        Workers that begin at the same time wait for the one that applies new limits to all that wait.
        """
        for name in self._engine.workflow_names():
            definition = self._engine.definition(name)
            while not stop.is_set():
                try:
                    await self._store.limits_noted(name, definition.limits, definition.age_ms)
                    break
                except StorageError as error:
                    if error.reason != "locked":
                        raise
                    logger.warning('The limits of workflow "%s" are waited for: %s', name, error)
                    await self._engine.clock.sleep(_TICK_MS)

    async def _work(self) -> None:
        await self._worker.run()  # type: ignore[no-untyped-call]

    async def _stay_alive(self) -> None:
        """Give signs of life while what runs comes to its end: the queue gives none once it was told to stop."""
        while self._worker_id is not None:
            with contextlib.suppress(procrastinate.exceptions.ConnectorException):
                await self._app.job_manager.update_heartbeat(self._worker_id)
            await asyncio.sleep(self.settings.heartbeat_ms / 1_000)

    async def _announce(self, run: asyncio.Task[None]) -> None:
        """Tell the others of this worker, as soon as it has a number."""
        while self._worker.worker_id is None and not run.done():
            await self._engine.clock.sleep(_LOOK_SECONDS * 1_000)
        if self._worker.worker_id is not None:
            self._worker_id = self._worker.worker_id
            owner, settings = self._engine.owner, self.settings
            await self._store.worker_joined(
                self._worker_id, owner.host, owner.pid, settings.queues, settings.concurrency, settings.heartbeat_ms
            )

    async def _end(self, tasks: list[asyncio.Task[Any]]) -> None:
        self._connector.hurry()
        if self._waking is not None:
            tasks.append(self._waking)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._worker_id is not None:
            with contextlib.suppress(StorageError):
                await self._store.worker_left(self._worker_id)

    # The queue's tasks -----------------------------------------------------------------------------------------------

    def _make_app(self) -> procrastinate.App:
        conninfo, schema = self._store.connection_string()
        self._connector = PatientConnector(conninfo, schema, _CONNECTIONS, self.settings.concurrency)
        app = procrastinate.App(connector=self._connector)

        @app.task(name=RUN_TASK, pass_context=True, retry=_Again())
        async def run(context: procrastinate.JobContext, execution_id: str, workflow_name: str) -> None:
            await self._run(context.job.id or 0, execution_id, workflow_name)

        @app.periodic(cron=_SECONDLY)
        @app.task(name=_WAKE_TASK, queue=MAINTENANCE_QUEUE, priority=_FIRST)
        async def wake(timestamp: int) -> None:
            timestamps = [timestamp, *await self._overdue_wakes()]
            await self._wake()
            if any(second % max(1, self.settings.heartbeat_ms // 1_000) == 0 for second in timestamps):
                await self._take_from_the_dead()

        return app

    async def _overdue_wakes(self) -> list[int]:
        """Remove the jobs of this kind that wait, one for each second in which no worker had room; return which."""
        rows = await self._connector.execute_query_all_async(_OVERDUE, priority=_FIRST, task=_WAKE_TASK)
        return [row["timestamp"] for row in rows]

    async def _wake(self) -> None:
        """Queue what may go on now; what a rate limit lets begin before the next tick, as soon as it does."""
        while await self._store.wake_due():
            pass
        delay_ms = await self._store.next_start_ms()
        if delay_ms is not None and delay_ms < _TICK_MS and (self._waking is None or self._waking.done()):
            self._waking = asyncio.create_task(self._wake_within(delay_ms), name="workflow worker's rate limits")

    async def _wake_within(self, delay_ms: int | None) -> None:
        clock, left_ms = self._engine.clock, _TICK_MS
        with contextlib.suppress(StorageError):
            while delay_ms is not None and (delay_ms := max(delay_ms, _LEAST_PAUSE_MS)) < left_ms:
                await clock.sleep(delay_ms)
                left_ms -= delay_ms
                await self._store.wake_due()
                delay_ms = await self._store.next_start_ms()

    async def _take_from_the_dead(self) -> None:
        """Let the jobs of workers that give no sign of life be fetched again, and those that have disappeared."""
        manager = self._app.job_manager
        for job in await manager.get_stalled_jobs(seconds_since_heartbeat=self.settings.stalled_seconds):
            await self._connector.put_back([job.id or 0], job.worker_id)
        await manager.prune_stalled_workers(self._forgotten_seconds)
        await self._store.queue_orphans(_ORPHANED_MS)
        await self._store.admit_missed()

    async def _look_for_lost_jobs(self) -> None:
        """Let jobs be fetched again that were given to this worker, which was not told: the answer was lost."""
        suspects: set[int] = set()
        while True:
            await asyncio.sleep(self.settings.heartbeat_ms / 1_000)
            if self._worker_id is None:
                continue
            with contextlib.suppress(StorageError, procrastinate.exceptions.ConnectorException):
                given = await self._store.jobs_of_worker(self._worker_id)
                unknown = given - self._connector.held
                if lost := unknown & suspects:
                    await self._connector.put_back(sorted(lost), self._worker_id)
                suspects = unknown - suspects

    # Executions ------------------------------------------------------------------------------------------------------

    async def _run(self, job_id: int, execution_id: str, workflow_name: str) -> None:
        await self._require_defined(execution_id, workflow_name)
        began = self._engine.clock.monotonic()
        beginning = asyncio.create_task(
            self._begin(job_id, execution_id), name=f"workflow worker begins {execution_id}"
        )
        try:
            active = await asyncio.shield(beginning)
            if active is None or active.task is None:
                return
            await asyncio.wait([active.task])
        except asyncio.CancelledError:  # the time that was left for it to end is over; what was claimed is given back
            active = await beginning
            if active is None or active.task is None:
                return
            await asyncio.sleep(0)  # only what has begun gives itself back
            active.task.cancel()
            await asyncio.wait([active.task])
        self._teller.ends(active, began)
        lost = isinstance(active.final.error, LeaseLostError)
        if lost and active.parked_until is None:
            self._connector.forsake(job_id)

    async def _begin(self, job_id: int, execution_id: str) -> Active | None:
        """Claim an execution and let it run; return ``None`` if there is nothing to run, or not now."""
        engine = self._engine
        claim = await self._store.execution_claimed(
            execution_id, job_id, engine.owner, engine.lease_expiry(), engine.clock.now(), self._worker.worker_id
        )
        if claim is None:
            return None
        try:
            active = await engine.run_claimed(claim)
        except LeaseLostError:
            self._connector.forsake(job_id)
            return None
        except StorageError:
            raise
        except WorkflowCoreError:
            logger.exception('Execution "%s" cannot go on; it is tried again later', execution_id)
            await self._put_off(claim)
            return None
        self._teller.begins(claim)
        return active

    async def _require_defined(self, execution_id: str, workflow_name: str) -> None:
        if self._engine.known_definition(workflow_name) is not None:
            return
        record = await self._store.load_execution(execution_id)
        if record is None or record.definition_revision is not None:
            return
        self._teller.is_unknown(execution_id, workflow_name)
        raise _NotDefinedHereError(f'Workflow "{workflow_name}" is not defined in this worker')

    async def _put_off(self, claim: Claim) -> None:
        now = self._engine.clock.now()
        with contextlib.suppress(LeaseLostError):
            await self._store.execution_parked(claim.record.lease, to_epoch_ms(now) + _UNREADABLE_MS, now)
