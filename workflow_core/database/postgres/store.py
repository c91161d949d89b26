"""A store in one schema of a PostgreSQL database, which holds any number of workflows of any number of processes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workflow_core.database.postgres.workers import WorkerStore

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping

__all__ = ["PostgresStore"]


class PostgresStore(WorkerStore):
    """A store on PostgreSQL 14 or newer; nothing is connected before the first use.

    It may be used from several threads and event loops, and by any number of processes at once.

    Args:
        url: A URL as libpq reads it, ``postgresql://user:password@host:port/database?sslmode=require``. What it does
            not say is taken from libpq's environment variables and password file.
        schema: The schema of the tables, which is made if it is not there.
        max_connections: How many connections there are at most in each event loop.
        prepares: Whether statements are prepared that are used often; not behind a pooler that cannot keep them apart.

    Raises:
        ValidationError: The URL or the schema's name is not acceptable.
    """

    def __init__(self, url: str, *, schema: str = "workflow", max_connections: int = 10, prepares: bool = True) -> None:
        super().__init__(url, schema=schema, max_connections=max_connections, prepares=prepares)
        self._another: Callable[[], PostgresStore] = lambda: PostgresStore(
            url, schema=schema, max_connections=max_connections, prepares=prepares
        )  # a function shows no password
        self._watched: tuple[str, list[str]] | None = None
        self._known_owners: dict[str, int | None] = {}

    def workflow(self, workflow_name: str) -> PostgresStore:
        """Return this store: one schema holds every workflow."""
        del workflow_name
        return self

    def for_reading(self) -> PostgresStore:
        """Return another store of this schema, for a thread that only reads."""
        return self._another()

    async def change_markers(self) -> Mapping[str, Hashable]:
        """Return, for each workflow, the snapshot of the server's transactions: another one after every commit.

        It is another one after commits of other tables as well.
        """
        ((snapshot,),) = await self.fetch("SELECT pg_current_snapshot()::text")
        if self._watched is None or self._watched[0] != snapshot:
            self._watched = snapshot, await self.workflows_with_executions()
        return dict.fromkeys(self._watched[1], snapshot)
