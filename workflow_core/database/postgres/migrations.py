"""How a schema comes to be, and how one of an older version becomes one of today's: in one transaction.

Processes that begin at the same time take turns by an advisory lock. Each step brings one version to the next and is
never changed once it was released. Processes of the old version that are at work go on: a step takes no column away
that they use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from psycopg import errors

from workflow_core.database.postgres.dispatch_schema import BATCH_CHANGES, DISPATCH_CHANGES, DISPATCH_SCHEMA
from workflow_core.database.postgres.schema import SCHEMA, SCHEMA_VERSION, TABLES
from workflow_core.database.postgres.turns import has_table, take_turn
from workflow_core.errors import SchemaVersionError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from workflow_core.database.postgres.address import Address
    from workflow_core.database.postgres.connections import Connection

__all__ = ["MIGRATIONS", "migrate"]

MIGRATIONS: Final[Mapping[int, Sequence[str]]] = {1: DISPATCH_SCHEMA, 2: DISPATCH_CHANGES, 3: BATCH_CHANGES}
"""By version, the statements that make the next version of it."""

_VERSION: Final = "SELECT version FROM {s}.schema_version"
_VERSION_TABLE: Final = "CREATE TABLE {s}.schema_version (version bigint NOT NULL, changed_at timestamptz NOT NULL)"
_LOCKS: Final = 0x776F726B  # "work"
"""The first key of the advisory locks."""


async def migrate(connection: Connection, address: Address) -> None:
    """Bring a schema to today's version, or make it; one that is there already is only looked at.

    Args:
        connection: A connection, outside a transaction.
        address: Which schema.

    Raises:
        SchemaVersionError: It belongs to a newer version of this library, or to another program.
        psycopg.Error: It could not be made; then nothing of it is there.
    """
    try:
        rows = await (await connection.execute(_sql(_VERSION, address))).fetchall()
    except (errors.UndefinedTable, errors.InvalidSchemaName):
        rows = []
    found = rows[0][0] if rows else 0
    _check(found, address)
    if found == SCHEMA_VERSION:
        return
    async with connection.transaction():
        await take_turn(connection, _LOCKS, address.schema)
        found = await _version(connection, address)
        _check(found, address)
        if found == 0:
            await _make(connection, address)
        for version in range(found or SCHEMA_VERSION, SCHEMA_VERSION):
            for statement in MIGRATIONS[version]:
                await connection.execute(_sql(statement, address))
        await connection.execute(
            _sql("UPDATE {s}.schema_version SET version = %s, changed_at = now()", address), (SCHEMA_VERSION,)
        )


async def _version(connection: Connection, address: Address) -> int:
    """Return the version of a schema, 0 if there is none."""
    if not await has_table(connection, address.schema, "schema_version"):
        return 0
    rows = await (await connection.execute(_sql(_VERSION, address))).fetchall()
    return int(rows[0][0]) if rows else 0


async def _make(connection: Connection, address: Address) -> None:
    name = address.schema.strip('"')
    rows = await (
        await connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = %s ORDER BY 1", (name,))
    ).fetchall()
    foreign = [table for (table,) in rows if table in TABLES]
    if foreign:
        raise SchemaVersionError(
            f"{address}: the schema holds tables of another program ({', '.join(foreign)}); choose another schema",
            str(address),
        )
    row = await (await connection.execute("SELECT to_regnamespace(%s) IS NULL", (address.schema,))).fetchone()
    if row is not None and row[0]:  # IF NOT EXISTS asks for a privilege that is not needed then
        await connection.execute(_sql("CREATE SCHEMA {s}", address))
    async with connection.pipeline():
        for statement in (*SCHEMA, _VERSION_TABLE):
            await connection.execute(_sql(statement, address))
        await connection.execute(_sql("INSERT INTO {s}.schema_version VALUES (%s, now())", address), (SCHEMA_VERSION,))


def _check(found: int, address: Address) -> None:
    if found > SCHEMA_VERSION:
        raise SchemaVersionError(
            f"{address} has schema version {found}, and this version of pytest-workflow-core knows up to "
            f"{SCHEMA_VERSION}: install the version that wrote it, or a newer one",
            str(address),
        )


def _sql(statement: str, address: Address) -> bytes:
    return statement.replace("{s}", address.schema).encode()
