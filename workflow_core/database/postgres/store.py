"""A store in one schema of a PostgreSQL database, which holds any number of workflows of any number of processes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pydantic_core

from workflow_core.database.postgres.removal import RemovalPoints

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

__all__ = ["PostgresStore"]

_DEFINED: Final = (
    "INSERT INTO {s}.workflows AS w (name, definition, created_at) VALUES (%(name)s, %(definition)s, %(at)s)"
    " ON CONFLICT (name) DO UPDATE SET definition = excluded.definition"
    " WHERE w.definition IS DISTINCT FROM excluded.definition RETURNING 1"
)


class PostgresStore(RemovalPoints):
    """A store on PostgreSQL 13 or newer; nothing is connected before the first use.

    It may be used from several threads and event loops, and by any number of processes at once.

    Args:
        url: A URL as libpq reads it, ``postgresql://user:password@host:port/database?sslmode=require``. What it does
            not say is taken from libpq's environment variables and password file.
        schema: The schema of the tables, which is made if it is not there.
        max_connections: How many connections there are at most in each event loop.

    Raises:
        ValidationError: The URL or the schema's name is not acceptable.
    """

    def __init__(self, url: str, *, schema: str = "workflow", max_connections: int = 10) -> None:
        super().__init__(url, schema=schema, max_connections=max_connections)
        self._known_owners: dict[str, int | None] = {}

    def forked(self) -> None:
        """Begin again in a child process, which may not use a connection of its parent's."""
        super().forked()
        self._known_owners = {}

    def workflow(self, workflow_name: str) -> PostgresStore:
        """Return this store: one schema holds every workflow."""
        del workflow_name
        return self

    async def workflow_defined(self, workflow_name: str, definition: Mapping[str, object], at: datetime) -> None:
        """Note a workflow and how it is defined."""
        description = {key: value for key, value in definition.items() if key not in _OF_A_DIRECTORY}
        values = {"name": workflow_name, "definition": pydantic_core.to_json(description).decode(), "at": at}
        await self.fetch(_DEFINED, values)


_OF_A_DIRECTORY: Final = frozenset({"created_at", "last_modified", "database_path", "log_directory"})
"""Keys of ``definition.json`` that speak of the file itself, and of others beside it."""
