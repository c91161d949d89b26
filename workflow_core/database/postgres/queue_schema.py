"""The tables of Procrastinate, in the schema of the executions: made at the first use, and brought up to date.

Procrastinate comes with the statements that make its tables, and with those that bring them from one of its versions to
the next. Which of these were run is kept in ``queue_migrations``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from workflow_core.database.postgres.turns import has_table, take_turn
from workflow_core.errors import ValidationError

if TYPE_CHECKING:
    from workflow_core.database.postgres.connections import Connection

__all__ = ["make_queue"]

_LOCKS: Final = 0x71756575  # "queu"
"""The first key of the advisory locks."""


async def make_queue(connection: Connection, schema: str) -> None:
    """Make the tables of the queue, or bring them to the version that is installed.

    Args:
        connection: A connection, outside a transaction.
        schema: The name of the schema, quoted.

    Raises:
        ValidationError: Procrastinate is not installed.
        psycopg.Error: They cannot be made; then nothing of them is there.
    """
    try:
        from procrastinate.schema import SchemaManager  # noqa: PLC0415 - only who enqueues needs it
    except ImportError as error:
        raise ValidationError(
            f"Workers and what they run need the package procrastinate ({error}): pip install "
            '"pytest-workflow-core[postgres]"'
        ) from error
    files = _migrations(SchemaManager.get_migrations_path())
    latest = files[-1].name
    if await _version(connection, schema) == latest:
        return
    async with connection.transaction():
        await take_turn(connection, _LOCKS, schema)
        found = await _version(connection, schema)
        if found is not None and found >= latest:
            return  # another process was faster, or has a newer version
        await connection.execute(f"SET LOCAL search_path = {schema}, pg_catalog, pg_temp".encode())
        await connection.execute("SET LOCAL client_min_messages = warning")
        if found is None:
            await connection.execute(
                "CREATE TABLE queue_migrations (name text PRIMARY KEY, run_at timestamptz NOT NULL DEFAULT now())"
            )
            await connection.execute(SchemaManager.get_schema().encode())
        else:
            for file in files:
                if file.name > found:
                    await connection.execute(file.read_bytes())
        await connection.execute("INSERT INTO queue_migrations (name) VALUES (%s)", (latest,))


def _migrations(directory: str) -> list[Path]:
    return sorted(Path(directory).glob("*.sql"), key=lambda path: path.name)


async def _version(connection: Connection, schema: str) -> str | None:
    """Return the name of the last migration that was run; ``None`` if there is no queue."""
    if not await has_table(connection, schema, "queue_migrations"):
        return None
    row = await (await connection.execute(f"SELECT max(name) FROM {schema}.queue_migrations".encode())).fetchone()
    return None if row is None else row[0]
