"""Procrastinate's connections to the database, which outlast its restarts."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final, TypeVar

import psycopg
from procrastinate import PsycopgConnector, exceptions, sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg_pool import AsyncConnectionPool, PoolTimeout

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping
    from typing import LiteralString

    from procrastinate.connector import Notify

__all__ = ["PatientConnector"]

ResultT = TypeVar("ResultT")

logger = logging.getLogger("workflow_core")

_FIRST_PAUSE_SECONDS: Final = 0.1
_LONGEST_PAUSE_SECONDS: Final = 2.0
_POOL_SECONDS: Final = 1.0
"""How long the pool tries to connect by itself: it waits ever longer, up to as long as the database was away."""

_BACK: Final = (
    "INSERT INTO procrastinate_workers (id) OVERRIDING SYSTEM VALUE VALUES (%(worker_id)s) ON CONFLICT DO NOTHING"
)
"""A worker that was taken for dead, because it was stopped or the database was away, is one again when it fetches."""


class PatientConnector(PsycopgConnector):
    """Runs statements again until the database is back.

    A statement whose answer was lost may have been run. Procrastinate's statements can be run twice, but for two: the
    end of a job, which is refused when the job has ended already, and the fetch of a job, which leaves a job that
    nobody works on; `workflow_core.cluster.worker` looks for those.

    Args:
        conninfo: Where to.
        schema: The schema of the tables, quoted.
        connections: How many connections at most.

    Attributes:
        refusal: The error with which the database refused a statement for good; ``None`` if it never did.
    """

    def __init__(self, conninfo: str, schema: str, connections: int) -> None:
        options = conninfo_to_dict(conninfo).get("options") or ""
        super().__init__(
            conninfo=make_conninfo(conninfo, options=f"{options} -c search_path={schema},pg_catalog"),
            min_size=1,
            max_size=connections,
            timeout=1,
            reconnect_timeout=_POOL_SECONDS,
            configure=_without_transactions,
            pool_factory=_pool,
        )
        self._forsaken: set[int] = set()
        self._hurries = False
        self._is_away = False
        self.refusal: psycopg.Error | None = None

    def hurry(self) -> None:
        """Wait for the database no longer: the worker ends, and what it leaves is found by others."""
        self._hurries = True

    def forsake(self, job_id: int) -> None:
        """Leave a job alone that this worker has lost to another one: Procrastinate would end it for that one, too."""
        self._forsaken.add(job_id)

    async def execute_query_async(self, query: LiteralString, **arguments: Any) -> None:  # noqa: ANN401 - as above
        """Run a statement, unless it ends a job that is another worker's now."""
        if query == sql.queries["finish_job"] and arguments.get("job_id") in self._forsaken:
            self._forsaken.discard(arguments["job_id"])
            return
        await self._until_it_works(
            lambda: super(PatientConnector, self).execute_query_async(query, **arguments), arguments
        )

    async def execute_query_one_async(
        self,
        query: LiteralString,
        **arguments: Any,  # noqa: ANN401 - as above
    ) -> dict[str, Any]:
        """Run a statement, and return its first row."""
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

    async def _reason(self) -> psycopg.Error | None:
        """Return why no connection can be made, which the pool does not tell; ``None`` if one can be."""
        try:
            connection = await psycopg.AsyncConnection.connect(self._pool_args["conninfo"])
        except psycopg.Error as error:
            return error
        await connection.close()
        return None

    async def _until_it_works(
        self, run: Callable[[], Awaitable[ResultT]], arguments: Mapping[str, object]
    ) -> ResultT | None:
        pause = _FIRST_PAUSE_SECONDS
        tries = 0
        while True:
            tries += 1
            try:
                result = await run()
            except exceptions.ConnectorException as error:
                cause = error.__cause__
                if isinstance(cause, psycopg.errors.RaiseException):
                    return None  # the job has ended: by a try whose answer was lost, or by who took this one for dead
                if isinstance(cause, psycopg.errors.ForeignKeyViolation) and "worker_id" in arguments:
                    await super().execute_query_async(_BACK, worker_id=arguments["worker_id"])
                    continue
                if not isinstance(cause, (psycopg.OperationalError, psycopg.InterfaceError)):
                    self.refusal = cause if isinstance(cause, psycopg.Error) else None
                    raise
                if self._hurries:
                    raise
                if tries > 1 and not self._is_away:
                    self._is_away = True
                    reason = await self._reason() if isinstance(cause, PoolTimeout) else None
                    logger.warning("The database is away, and the worker waits for it: %s", reason or cause)
            else:
                if self._is_away:
                    self._is_away = False
                    logger.warning("The database is back, and the worker goes on")
                return result
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)


async def _without_transactions(connection: psycopg.AsyncConnection[Any]) -> None:
    """Let each statement be a transaction of its own, which each of Procrastinate's is."""
    await connection.set_autocommit(True)


def _pool(**options: Any) -> AsyncConnectionPool:  # noqa: ANN401 - those of the pool
    """Make a pool that does not ask each connection first whether it works: whoever uses it tries again."""
    return AsyncConnectionPool(**{**options, "check": None})
