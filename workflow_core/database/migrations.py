"""How a database of an older schema version becomes one of today's: by one transaction, when it is opened.

Each step brings one version to the next and is never changed once it was released. A crash in the middle leaves the old
version, whole. Programs of the old version that have the file open go on: a step takes no column away that they use.
"""

from __future__ import annotations

import contextlib
import sqlite3
from typing import TYPE_CHECKING, Final

from workflow_core.database.schema import REGISTRY_SCHEMA, WORKFLOW_SCHEMA

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["REGISTRY_MIGRATIONS", "WORKFLOW_MIGRATIONS", "migrate", "statements"]

WORKFLOW_MIGRATIONS: Final[Mapping[int, str]] = {
    1: """
DROP INDEX idx_executions_status;
CREATE INDEX idx_executions_status ON executions(workflow_name, status, started_at);
CREATE INDEX idx_executions_restart_at ON executions(started_at) WHERE restart_at IS NOT NULL;
CREATE TABLE removed_executions (
    execution_id TEXT PRIMARY KEY
) WITHOUT ROWID;
""",
}
"""By version, the statements that make the next version of it."""

REGISTRY_MIGRATIONS: Final[Mapping[int, str]] = {}
"""As `WORKFLOW_MIGRATIONS`, for the registry."""

_MIGRATIONS: Final = {WORKFLOW_SCHEMA: WORKFLOW_MIGRATIONS, REGISTRY_SCHEMA: REGISTRY_MIGRATIONS}


def migrate(connection: sqlite3.Connection, schema: str, found: int, version: int) -> None:
    """Bring a database to a schema's version.

    Args:
        connection: The connection, outside a transaction.
        schema: The statements that make the tables anew.
        found: The version that the database has.
        version: The version to reach; a database of a newer one is left as it is.

    Raises:
        sqlite3.Error: The database could not be written; it has the version that it had.
    """
    if found >= version:
        return
    steps = _MIGRATIONS[schema]
    connection.execute("BEGIN IMMEDIATE")
    try:
        found = int(connection.execute("PRAGMA user_version").fetchone()[0])  # another process may have been faster
        for number in range(found, version):
            for statement in statements(steps[number]):
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {max(found, version)}")
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            with contextlib.suppress(sqlite3.Error):  # what made the transaction fail is what matters
                connection.execute("ROLLBACK")


def statements(script: str) -> list[str]:
    """Split a script into statements, triggers in one piece."""
    found, current = [], ""
    for line in script.splitlines(keepends=True):
        current += line
        if sqlite3.complete_statement(current):
            found.append(current)
            current = ""
    return found
