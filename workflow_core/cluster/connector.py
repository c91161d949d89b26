"""Procrastinate's connections to the database: they outlast its restarts, and fetch and end jobs together."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import psycopg
from procrastinate import PsycopgConnector, exceptions, sql
from procrastinate.utils import utcnow
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg_pool import AsyncConnectionPool, PoolTimeout

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping
    from typing import LiteralString

    from procrastinate.connector import Notify

__all__ = ["PatientConnector"]

ResultT = TypeVar("ResultT")

logger = logging.getLogger("workflow_core")

_MOST_TOGETHER: Final = 20
"""So many jobs are fetched by one statement; more would leave nothing to other workers that are as free as this one."""

_FIRST_PAUSE_SECONDS: Final = 0.1
_LONGEST_PAUSE_SECONDS: Final = 2.0
_POOL_SECONDS: Final = 1.0
"""How long the pool tries to connect by itself: it waits ever longer, up to as long as the database was away."""

_TOO_LONG: Final = {"25P03", "25P04"}
"""The server has ended a session whose transaction took too long: the next one may be faster."""

_BACK: Final = (
    "INSERT INTO procrastinate_workers (id) OVERRIDING SYSTEM VALUE VALUES (%(worker_id)s) ON CONFLICT DO NOTHING"
)
"""A worker that was taken for dead, because it was stopped or the database was away, is one again when it fetches."""

_IN_ORDER: Final = "-c enable_sort=off"
"""Lets the next job be found by the index of priorities, whatever the statistics say: they may be of a time when the
queue was empty, and then each fetch would sort all that wait."""

_SETTINGS: Final = """
SELECT set_config('search_path', %(search_path)s, false), set_config('enable_sort', 'off', false),
    set_config('default_transaction_isolation', 'read committed', false)
"""

_FETCH_TOGETHER: Final = """
WITH RECURSIVE fetched AS (
    SELECT 1 AS number, procrastinate_fetch_job_v2(%(queues)s::varchar[], %(worker_id)s) AS job
    UNION ALL
    SELECT number + 1, procrastinate_fetch_job_v2(%(queues)s::varchar[], %(worker_id)s)
    FROM fetched WHERE (job).id IS NOT NULL AND number < %(at_most)s
)
SELECT (job).id, (job).status, (job).task_name, (job).priority, (job).lock, (job).queueing_lock, (job).args,
    (job).scheduled_at, (job).queue_name, (job).attempts, (job).worker_id
FROM fetched WHERE (job).id IS NOT NULL ORDER BY number
"""
"""Fetches one job after the other, as Procrastinate does, until there is none."""

_FINISH_TOGETHER: Final = """
SELECT procrastinate_finish_job_v1(id, end_status, is_deleted) FROM (
    SELECT job.id, ending.end_status, ending.is_deleted
    FROM unnest(%(job_id)s::bigint[], %(status)s::procrastinate_job_status[], %(delete_job)s::boolean[])
        AS ending (id, end_status, is_deleted)
    JOIN procrastinate_jobs job ON job.id = ending.id
    WHERE job.status = 'doing' AND job.worker_id = %(worker_id)s ORDER BY job.id FOR UPDATE OF job
) AS held
"""
"""Ends jobs, but for those that have ended already, by a try whose answer was lost, and those that are another
worker's, or were put back, because this one was taken for dead: who fetches them next ends them."""

_PUT_BACK: Final = """
SELECT procrastinate_retry_job_v2(id, clock_timestamp() + %(retry_in)s, NULL, NULL, NULL) FROM (
    SELECT id FROM procrastinate_jobs
    WHERE id = ANY (%(ids)s::bigint[]) AND worker_id IS NOT DISTINCT FROM %(holder)s::bigint AND status = 'doing'
    ORDER BY id FOR UPDATE
) AS held
"""
"""Puts jobs back that are still those of a worker, and not of one that has fetched them meanwhile."""


class _Ending(NamedTuple):
    """The end of a job that waits for those before it.

    Attributes:
        job_id: The number of the job.
        status: How it ended.
        delete_job: Whether its row is removed.
        settled: Set when that is in the database.
    """

    job_id: int
    status: str
    delete_job: bool
    settled: asyncio.Future[None]


class PatientConnector(PsycopgConnector):
    """Runs statements again until the database is back.

    Jobs are fetched ahead, by one statement for as many as the worker has room for, and handed to Procrastinate one by
    one. Those that end while the end of others is under way are ended together.

    A statement whose answer was lost may have been run. Procrastinate's statements can be run twice, but for two: the
    end of jobs, which passes over those that have ended already, and the fetch of jobs, which leaves jobs that nobody
    works on; `workflow_core.cluster.worker` looks for those.

    Args:
        conninfo: Where to.
        schema: The schema of the tables, quoted.
        connections: How many connections at most.
        concurrency: How many jobs the worker runs at once.
        longest_pause_seconds: How long it waits at most until it tries again; never longer than two seconds.

    Attributes:
        held: The numbers of the jobs that this worker has fetched, and whose end is not in the database.
        refusal: The error with which the database refused a statement for good; ``None`` if it never did.
    """

    def __init__(
        self,
        conninfo: str,
        schema: str,
        connections: int,
        concurrency: int,
        longest_pause_seconds: float = _LONGEST_PAUSE_SECONDS,
    ) -> None:
        options = conninfo_to_dict(conninfo).get("options") or ""
        self._conninfo = conninfo
        super().__init__(
            conninfo=make_conninfo(conninfo, options=f"{options} -c search_path={schema},pg_catalog {_IN_ORDER}"),
            min_size=1,
            max_size=connections,
            timeout=1,
            reconnect_timeout=_POOL_SECONDS,
            configure=self._configure,
            pool_factory=_pool,
        )
        self._search_path = f"{schema},pg_catalog"
        self._concurrency = concurrency
        self._longest_pause_seconds = min(longest_pause_seconds, _LONGEST_PAUSE_SECONDS)
        self._fetches = True
        self._ahead: deque[dict[str, Any]] = deque()
        self._endings: list[_Ending] = []
        self._worker_id: int | None = None
        self._ends: asyncio.Task[None] | None = None
        self._forsaken: set[int] = set()
        self._hurries = False
        self.held: set[int] = set()
        self._is_away = False
        self._answered = 0
        self.refusal: psycopg.Error | None = None

    def hurry(self) -> None:
        """Wait for the database no longer: the worker ends, and what it leaves is found by others."""
        self._hurries = True

    def forsake(self, job_id: int) -> None:
        """Leave a job alone that this worker has lost to another one: Procrastinate would end it for that one, too."""
        self._forsaken.add(job_id)

    async def hand_back(self, worker_id: int | None) -> None:
        """Fetch no more, and let others fetch what was fetched ahead.

        Args:
            worker_id: The number of this worker; ``None`` if it never got one.
        """
        self._fetches = False
        ids = [row["id"] for row in self._ahead]
        self._ahead.clear()
        if ids:
            await self.put_back(ids, worker_id)
            self.held.difference_update(ids)

    async def put_back(self, ids: list[int], holder: int | None, retry_in: timedelta = timedelta(0)) -> None:
        """Let jobs be fetched again, but for those that another worker has fetched meanwhile.

        Args:
            ids: Their numbers.
            holder: The number of the worker that has them; ``None`` if it is not known any more.
            retry_in: After what time, by the clock of the server.
        """
        await self._execute(_PUT_BACK, {"ids": ids, "holder": holder, "retry_in": retry_in})

    async def execute_query_async(self, query: LiteralString, **arguments: Any) -> None:  # noqa: ANN401 - as above
        """Run a statement, unless it ends a job that is another worker's now."""
        job_id = arguments.get("job_id")
        try:
            if query == sql.queries["retry_job"]:
                await self.put_back([arguments["job_id"]], self._worker_id, arguments["retry_at"] - utcnow())
            elif query != sql.queries["finish_job"]:
                await self._execute(query, arguments)
            elif job_id in self._forsaken:
                self._forsaken.discard(job_id)
            else:
                await self._end(arguments)
        finally:
            self.held.discard(job_id)

    async def execute_query_one_async(
        self,
        query: LiteralString,
        **arguments: Any,  # noqa: ANN401 - as above
    ) -> dict[str, Any]:
        """Run a statement, and return its first row."""
        if query == sql.queries["fetch_job"]:
            return await self._fetch(**arguments)
        row = await self._until_it_works(
            lambda: super(PatientConnector, self).execute_query_one_async(query, **arguments), arguments
        )
        return row or {}

    async def execute_query_all_async(
        self,
        query: LiteralString,
        **arguments: Any,  # noqa: ANN401 - as above
    ) -> list[dict[str, Any]]:
        """Run a statement, and return its rows."""
        rows = await self._until_it_works(
            lambda: super(PatientConnector, self).execute_query_all_async(query, **arguments), arguments
        )
        return rows or []

    async def listen_notify(self, on_notification: Notify, channels: Iterable[str]) -> None:
        """Listen, and again when the connection is back.

        Channels are those of a database, not of a schema, so what is heard may be of somebody else's jobs. That one of
        these was inserted means a look for nothing; that one is to be aborted would end ours of the same number.
        """
        names = list(channels)

        async def told(*, channel: str, payload: str) -> None:
            if '"job_inserted"' in payload:
                await on_notification(channel=channel, payload=payload)

        while True:
            try:
                await super().listen_notify(told, names)
            except (exceptions.ConnectorException, psycopg.Error, OSError) as error:
                logger.debug("The worker cannot listen: %s", error.__cause__ or error)
            await asyncio.sleep(_LONGEST_PAUSE_SECONDS)

    async def _execute(self, query: LiteralString, arguments: Mapping[str, object]) -> None:
        await self._until_it_works(
            lambda: super(PatientConnector, self).execute_query_async(query, **arguments), arguments
        )

    async def _fetch(self, queues: Iterable[str] | None, worker_id: int) -> dict[str, Any]:
        """Return the next job, of those that were fetched ahead if there are any; its number is ``None`` for none."""
        self._worker_id = worker_id
        if not self._ahead and self._fetches:
            at_most = max(1, min(_MOST_TOGETHER, self._concurrency - len(self.held)))
            rows = await self.execute_query_all_async(
                _FETCH_TOGETHER, queues=queues, worker_id=worker_id, at_most=at_most
            )
            self._ahead.extend(rows)
            self.held.update(row["id"] for row in rows)
            if not self._fetches:
                await self.hand_back(worker_id)
        return self._ahead.popleft() if self._ahead else {"id": None}

    async def _end(self, arguments: Mapping[str, Any]) -> None:
        """End a job, with the others that end while an earlier end is under way."""
        settled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._endings.append(_Ending(**arguments, settled=settled))
        if self._ends is None or self._ends.done():
            self._ends = asyncio.create_task(self._end_all(), name="workflow worker's ends")
        await settled

    async def _end_all(self) -> None:
        while self._endings:
            endings, self._endings = self._endings, []
            ids, statuses, are_deleted, all_settled = zip(*endings, strict=True)
            arguments = {
                "job_id": list(ids),
                "status": list(statuses),
                "delete_job": list(are_deleted),
                "worker_id": self._worker_id,
            }
            failure: exceptions.ConnectorException | None = None
            try:
                await self._execute(_FINISH_TOGETHER, arguments)
            except exceptions.ConnectorException as error:
                failure = error
            for settled in all_settled:
                if settled.done():
                    continue
                if failure is None:
                    settled.set_result(None)
                else:
                    settled.set_exception(failure)

    async def _configure(self, connection: psycopg.AsyncConnection[Any]) -> None:
        """Let each statement be a transaction of its own, which each of Procrastinate's is.

        The session's settings are set again: a pooler, such as PgBouncer, may not have passed them on.
        """
        await connection.set_autocommit(True)
        await connection.execute(_SETTINGS, {"search_path": self._search_path})

    async def _passes(self, cause: psycopg.Error) -> bool:
        """Tell whether an error is of those that are over some time."""
        if isinstance(cause, psycopg.errors.ReadOnlySqlTransaction):  # another server may be the one to write to now
            drain = getattr(self.pool, "drain", None)  # of psycopg_pool 3.3
            if drain is not None:
                with contextlib.suppress(psycopg.Error):
                    await drain()
            return True
        return isinstance(cause, (psycopg.OperationalError, psycopg.InterfaceError)) or cause.sqlstate in _TOO_LONG

    async def _why(self, cause: psycopg.Error) -> str:
        """Return why there is no connection, which the pool tells its log alone."""
        if isinstance(cause, PoolTimeout):
            try:
                await (await psycopg.AsyncConnection.connect(self._conninfo)).close()
            except psycopg.Error as error:
                cause = error
        return " ".join(str(cause).split())

    def _was_answered(self) -> None:
        self._answered += 1
        if self._is_away:
            self._is_away = False
            logger.warning("The database is back, and the worker goes on")

    async def _until_it_works(
        self, run: Callable[[], Awaitable[ResultT]], arguments: Mapping[str, object]
    ) -> ResultT | None:
        pause = _FIRST_PAUSE_SECONDS
        tries, answered = 0, self._answered
        while True:
            tries += 1
            try:
                result = await run()
            except exceptions.ConnectorException as error:
                cause = error.__cause__
                if isinstance(cause, psycopg.errors.RaiseException):
                    return None  # the job has ended: by a try whose answer was lost, or by who took this one for dead
                if isinstance(cause, psycopg.errors.ForeignKeyViolation) and "worker_id" in arguments:
                    await self._until_it_works(
                        lambda: super(PatientConnector, self).execute_query_async(
                            _BACK, worker_id=arguments["worker_id"]
                        ),
                        {},
                    )
                    continue
                if not isinstance(cause, psycopg.Error) or not await self._passes(cause):
                    self.refusal = cause if isinstance(cause, psycopg.Error) else None
                    raise
                if self._hurries:
                    raise
                if answered != self._answered:  # others were answered: it was given a connection from before
                    tries, answered = 1, self._answered
                if tries > 1 and not self._is_away:
                    self._is_away = True
                    logger.warning("The database is away, and the worker waits for it: %s", await self._why(cause))
            else:
                self._was_answered()
                return result
            await asyncio.sleep(pause)
            pause = min(pause * 2, self._longest_pause_seconds)


def _pool(**options: Any) -> AsyncConnectionPool:  # noqa: ANN401 - those of the pool
    """Make a pool that does not ask each connection first whether it works: whoever uses it tries again."""
    return AsyncConnectionPool(**{**options, "check": None})
