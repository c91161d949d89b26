"""How processes take turns at making the tables of a schema, and how whoever's turn it is sees what is there."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from workflow_core.database.postgres.connections import Connection

__all__ = ["has_table", "take_turn"]


async def take_turn(connection: Connection, purpose: int, schema: str) -> None:
    """Wait until no other process does the same in a schema; the turn is over with the transaction.

    Args:
        connection: A connection, in a transaction.
        purpose: What for: the first key of the advisory lock; the second one is of the schema's name.
        schema: The name of the schema, quoted.
    """
    key = zlib.crc32(schema.encode()) - 2**31
    await connection.execute("SELECT pg_advisory_xact_lock(%s::int, %s::int)", (purpose, key))


async def has_table(connection: Connection, schema: str, table: str) -> bool:
    """Tell whether a schema, whose name is quoted, has a table.

    Not by ``to_regclass``: it may remember from before the turn was waited for that there is no such table.
    """
    found = await connection.execute(
        "SELECT 1 FROM pg_catalog.pg_tables WHERE schemaname = %s AND tablename = %s", (schema.strip('"'), table)
    )
    return await found.fetchone() is not None
