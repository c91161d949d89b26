"""A worker: it fetches executions from the queues of a database, and runs them."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from typing import TYPE_CHECKING, Any, Final

import procrastinate
from procrastinate.worker import Worker as QueueWorker
from psycopg_pool import PoolTimeout

from workflow_core.arguments import MAINTENANCE_QUEUE, validated_queue
from workflow_core.clock import to_epoch_ms
from workflow_core.cluster.connector import PatientConnector
from workflow_core.cluster.retrying import NotDefinedHereError, TriedAgain
from workflow_core.cluster.settings import WorkerSettings
from workflow_core.cluster.telling import Teller
from workflow_core.cluster.upkeep import FIRST, SWEEP_TASK, Upkeep
from workflow_core.cluster.waiting import done_patiently
from workflow_core.database.dispatch import dispatching
from workflow_core.database.postgres.dispatch_schema import RUN_TASK
from workflow_core.database.postgres.store import PostgresStore
from workflow_core.errors import LeaseLostError, StorageError, ValidationError, WorkflowCoreError
from workflow_core.views.saved import define_saved_workflows

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from workflow_core.database.dispatch import Claim
    from workflow_core.engine import WorkflowEngine
    from workflow_core.running import Active

__all__ = ["Worker", "dispatching_store"]

logger = logging.getLogger("workflow_core")

_UNREADABLE_MS: Final = 30_000
"""After what time an execution is tried again that cannot be read."""

_NOT_FOUND: Final = {"42704", "42883", "42P01"}
"""A type, function or table has no such name. Procrastinate looks for names in a search path, so whether the schema is
gone, or only may not be used, is told to who names it."""

_CONNECTIONS: Final = 4
_LOOK_SECONDS: Final = 0.01
_LEAVING_SECONDS: Final = 1.0
"""How long a worker that ends waits for a database that is away, and for code that does not let itself be cut off."""


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


async def _briefly(work: Coroutine[Any, Any, None]) -> None:
    """Do something that the end of a worker does not depend on, as far as the database can be used."""
    task = asyncio.ensure_future(work)
    await asyncio.wait([task], timeout=_LEAVING_SECONDS)
    _mark_as_seen(task)


def _mark_as_seen(task: asyncio.Future[Any]) -> None:
    """Let asyncio not tell of the error of a task that nobody waits for any more."""
    if task.done() and not task.cancelled():
        task.exception()


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
        self._parking = engine.let_go_after(self.settings.rest_ms)
        self._worker_id: int | None = None
        self._jobs: set[asyncio.Task[Any]] = set()
        self._is_cut_off = False
        self._teller = Teller(engine.clock)
        conninfo, schema = self._store.connection_string()
        self._connector = PatientConnector(
            conninfo, schema, _CONNECTIONS, self.settings.concurrency, self.settings.heartbeat_ms / 1_000
        )
        self._upkeep = Upkeep(engine, self._store, self._connector, self.settings)
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
            stalled_worker_timeout=self._upkeep.forgotten_seconds,
        )

    async def run(self, stop: asyncio.Event, when_ready: Callable[[], None] = lambda: None) -> None:
        """Work until told to stop; then end what runs, or hand it over.

        Cancelled, it stops at once: the steps in flight are cut off, and all that runs is handed back to its queues.
        What cannot be handed back, because the database is away, is taken over by others when they miss this worker's
        signs of life.

        Args:
            stop: When it is set, no further execution is begun.
            when_ready: Called once, when the worker is about to look for work.

        Raises:
            StorageError: The database cannot be used at the beginning, and waiting would not help; or it refuses what
                the queue needs. When it is away, its return is waited for.
        """
        if not await self._prepared(stop):
            return
        try:
            await self._work(stop, when_ready)
        finally:
            await self._app.close_async()

    async def defined_saved(self, stop: asyncio.Event) -> bool:
        """Define the workflows that are saved in the database, as soon as it can be used; ``False`` if told to stop.

        Raises:
            StorageError: It cannot be used, and waiting would not help.
        """

        async def define() -> None:
            await self._store.open()
            define_saved_workflows(self._engine)

        return await done_patiently(define, stop)

    async def _prepared(self, stop: asyncio.Event) -> bool:
        """Make the queue, let the limits hold that the workflows have here, and connect; ``False`` if told to stop.

        The limits hold for executions that were enqueued before as well. Workers that begin at the same time wait for
        the one that applies new limits to all that wait.
        """
        needed: list[Callable[[], Awaitable[None]]] = [self._store.make_queue]
        needed += [functools.partial(self._note_limits, name) for name in self._engine.workflow_names()]
        for work in (*needed, self._connect):
            if not await done_patiently(work, stop):
                return False
        return True

    async def _note_limits(self, workflow_name: str) -> None:
        definition = self._engine.definition(workflow_name)
        await self._store.limits_noted(workflow_name, definition.limits, definition.age_ms)

    async def _connect(self) -> None:
        await self._store.open()
        with contextlib.suppress(PoolTimeout):  # whoever uses the pool waits for its connections, and says so
            await self._app.open_async()

    async def _work(self, stop: asyncio.Event, when_ready: Callable[[], None]) -> None:
        run = asyncio.create_task(self._serve(), name="workflow worker")
        stopped = asyncio.create_task(stop.wait(), name="workflow worker's stop")
        tasks: list[asyncio.Task[Any]] = [stopped]
        try:
            if await self._announced(run, stop):
                tasks += self._begin_upkeep()
                when_ready()
            await asyncio.wait([run, stopped], return_when=asyncio.FIRST_COMPLETED)
            tasks.append(asyncio.create_task(self._stay_alive(), name="workflow worker's signs of life"))
            try:
                await self._leave()
                await asyncio.wait([run])
                run.result()
            except procrastinate.exceptions.ConnectorException as error:
                if not stop.is_set():
                    raise await self._refused() from error
                logger.warning("The worker ends while the database is away; others go on with what it leaves")
            if not stop.is_set():
                raise await self._refused()
        except asyncio.CancelledError:
            await self._cut_off(run)
            raise
        finally:
            await self._end(run, tasks)

    def _begin_upkeep(self) -> list[asyncio.Task[Any]]:
        if self._worker_id is None:
            return []
        return [
            asyncio.create_task(self._upkeep.tick(), name="workflow worker's wakes"),
            asyncio.create_task(self._upkeep.look_for_lost_jobs(self._worker_id), name="workflow worker's lost jobs"),
            asyncio.create_task(self._upkeep.heed_the_clock(self._app.job_manager), name="workflow worker's clock"),
        ]

    async def _leave(self) -> None:
        """Begin nothing more, let go of what rests, and hand back what was fetched ahead."""
        self._parking.after_ms = 0
        self._parking.consider_all()
        self._worker.stop()  # type: ignore[no-untyped-call]
        seconds = 0.0 if self._worker_id is None else self.settings.grace_ms / 1_000
        asyncio.get_running_loop().call_later(seconds + _LEAVING_SECONDS, self._connector.hurry)
        await self._connector.hand_back(self._worker_id)
        if self._worker_id is not None:
            await _briefly(self._store.worker_leaves(self._worker_id))

    async def _cut_off(self, run: asyncio.Task[None]) -> None:
        """Cut off the steps in flight, and hand everything back, also what does not let itself be cut off."""
        self._is_cut_off = True
        self._connector.hurry()
        self._worker.stop()  # type: ignore[no-untyped-call]
        for job in self._jobs:
            job.cancel()
        await _briefly(self._connector.hand_back(self._worker_id))
        await asyncio.wait([run], timeout=_LEAVING_SECONDS)
        await _briefly(self._engine.hand_back())

    async def _refused(self) -> StorageError:
        """Return why the queue has ended by itself."""
        what = "the worker's queue has stopped"
        if self._connector.refusal is not None and self._connector.refusal.sqlstate in _NOT_FOUND:
            try:
                await self._store.jobs_of_worker(0)
            except StorageError as error:
                return error
        if self._connector.refusal is not None:
            return self._store.failure(self._connector.refusal, what)
        location = self._store.location()
        return StorageError(f"{location}: {what}: its log says why, with LOG_LEVEL=debug", location)

    async def _serve(self) -> None:
        await self._worker.run()  # type: ignore[no-untyped-call]

    async def _stay_alive(self) -> None:
        """Give signs of life while what runs comes to its end: the queue gives none once it was told to stop."""
        while self._worker_id is not None:
            with contextlib.suppress(procrastinate.exceptions.ConnectorException):
                await self._app.job_manager.update_heartbeat(self._worker_id)
            await asyncio.sleep(self.settings.heartbeat_ms / 1_000)

    async def _announced(self, run: asyncio.Task[None], stop: asyncio.Event) -> bool:
        """Tell the others of this worker, as soon as it has a number; ``False`` if it stops, or ends, before."""
        while self._worker.worker_id is None:
            if run.done() or stop.is_set():
                return False
            await self._engine.clock.sleep(_LOOK_SECONDS * 1_000)
        self._worker_id = number = self._worker.worker_id
        owner, settings = self._engine.owner, self.settings

        async def join() -> None:
            await self._store.worker_joined(
                number, owner.host, owner.pid, settings.queues, settings.concurrency, settings.heartbeat_ms
            )

        return await done_patiently(join, stop)

    async def _end(self, run: asyncio.Task[None], others: list[asyncio.Task[Any]]) -> None:
        """End the worker's own tasks; what does not let itself be cut off, and a statement of the upkeep, may go on."""
        self._connector.hurry()
        for task in (run, *others):
            task.cancel()
        await asyncio.wait([run], timeout=_LEAVING_SECONDS if self._is_cut_off else None)
        await asyncio.wait(others, timeout=_LEAVING_SECONDS)
        for task in (run, *others):
            _mark_as_seen(task)
        if self._worker_id is not None:
            await _briefly(self._store.worker_left(self._worker_id))

    # The queue's tasks -----------------------------------------------------------------------------------------------

    def _make_app(self) -> procrastinate.App:
        app = procrastinate.App(connector=self._connector)

        @app.task(name=RUN_TASK, pass_context=True, retry=TriedAgain())
        async def run(context: procrastinate.JobContext, execution_id: str, workflow_name: str) -> None:
            await self._run(context.job.id or 0, execution_id, workflow_name)

        @app.periodic(cron=self._upkeep.schedule)
        @app.task(name=SWEEP_TASK, queue=MAINTENANCE_QUEUE, priority=FIRST)
        async def sweep(timestamp: int) -> None:
            del timestamp
            await self._upkeep.sweep(app.job_manager)

        return app

    # Executions ------------------------------------------------------------------------------------------------------

    async def _run(self, job_id: int, execution_id: str, workflow_name: str) -> None:
        job = asyncio.current_task()
        if self._is_cut_off or job is None:
            raise asyncio.CancelledError  # it was about to begin: its job is fetched again
        self._jobs.add(job)
        try:
            await self._run_to_rest(job_id, execution_id, workflow_name)
        finally:
            self._jobs.discard(job)

    async def _run_to_rest(self, job_id: int, execution_id: str, workflow_name: str) -> None:
        await self._require_defined(execution_id, workflow_name)
        began = self._engine.clock.monotonic()
        beginning = asyncio.create_task(
            self._begin(job_id, execution_id, asyncio.current_task()), name=f"workflow worker begins {execution_id}"
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

    async def _begin(self, job_id: int, execution_id: str, job: asyncio.Task[Any] | None) -> Active | None:
        """Claim an execution and let it run; return ``None`` if there is nothing to run, or not now.

        Args:
            job_id: The number of its job.
            execution_id: Its id.
            job: The task of the job.
        """
        engine = self._engine
        claim = await self._store.execution_claimed(
            execution_id, job_id, engine.owner, engine.lease_expiry(), engine.clock.now(), self._worker.worker_id
        )
        if claim is None:
            return None
        try:
            active = await engine.run_claimed(claim)
            active.job = job
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
        raise NotDefinedHereError(f'Workflow "{workflow_name}" is not defined in this worker')

    async def _put_off(self, claim: Claim) -> None:
        now = self._engine.clock.now()
        with contextlib.suppress(LeaseLostError):
            await self._store.execution_parked(claim.record.lease, to_epoch_ms(now) + _UNREADABLE_MS, now)
