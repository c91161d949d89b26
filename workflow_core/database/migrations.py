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
ALTER TABLE executions ADD COLUMN definition_revision TEXT;
CREATE TABLE definitions (
    revision TEXT PRIMARY KEY,
    document TEXT NOT NULL
) WITHOUT ROWID;
""",
    2: """
DROP VIEW step_events;
DROP TRIGGER update_steps_timestamp;
DROP INDEX idx_steps_status;
DROP INDEX idx_steps_execution_id;
ALTER TABLE steps RENAME TO steps_of_version_2;
CREATE TABLE steps (
    execution_id    TEXT NOT NULL REFERENCES executions(id) ON DELETE CASCADE,
    step_id         TEXT NOT NULL,
    kind            TEXT NOT NULL DEFAULT 'step',
    status          TEXT NOT NULL,
    started_at      DATETIME,
    completed_at    DATETIME,
    result_data     TEXT,
    error_message   TEXT,
    attempt         INTEGER NOT NULL DEFAULT 1,
    handled_by      TEXT,
    next_attempt_at INTEGER,
    wake_time       INTEGER,
    duration_ms     INTEGER,
    started_seq     INTEGER,
    completed_seq   INTEGER,
    revision        INTEGER NOT NULL DEFAULT 0,
    created_at      DATETIME NOT NULL,
    updated_at      DATETIME NOT NULL,
    UNIQUE (execution_id, step_id)
);
INSERT INTO steps (
    execution_id, step_id, kind, status, started_at, completed_at, result_data, error_message, attempt,
    handled_by, next_attempt_at, wake_time, duration_ms, started_seq, completed_seq, revision, created_at,
    updated_at
)
    SELECT
        execution_id, step_id, kind, status, started_at, completed_at, result_data, error_message, attempt,
        handled_by, next_attempt_at, wake_time, duration_ms, started_seq, completed_seq, revision, created_at,
        updated_at
    FROM steps_of_version_2
    -- what another program left behind when it deleted an execution with foreign keys off would not be accepted
    WHERE execution_id IN (SELECT id FROM executions)
    ORDER BY execution_id, coalesce(started_seq, completed_seq);
DROP TABLE steps_of_version_2;
CREATE INDEX idx_steps_status ON steps(status) WHERE status NOT IN ('running', 'completed');
CREATE INDEX idx_steps_execution_id ON steps(execution_id, wake_time, next_attempt_at)
    WHERE status IN ('sleeping', 'retrying');
CREATE VIEW step_events AS
    SELECT id AS execution_id, 1 AS seq, 'ExecutionStarted' AS type, NULL AS step_id, NULL AS attempt,
           started_at AS at, NULL AS data
    FROM executions
    UNION ALL
    SELECT id, completed_seq, 'ExecutionCompleted', NULL, NULL, completed_at, NULL
    FROM executions WHERE completed_seq IS NOT NULL
    UNION ALL
    SELECT execution_id, seq, type, step_id, attempt, at, data FROM event_log
    UNION ALL
    SELECT execution_id, started_seq, CASE kind WHEN 'sleep' THEN 'SleepStarted' ELSE 'StepStarted' END, step_id,
           CASE kind WHEN 'sleep' THEN NULL ELSE attempt END, started_at,
           CASE kind WHEN 'sleep' THEN json_object('duration_ms', duration_ms) END
    FROM steps WHERE started_seq IS NOT NULL
    UNION ALL
    SELECT execution_id, completed_seq,
           CASE WHEN kind = 'sleep' THEN 'SleepCompleted' WHEN status = 'skipped' THEN 'StepSkipped'
                ELSE 'StepCompleted' END,
           step_id, CASE kind WHEN 'sleep' THEN NULL ELSE attempt END, completed_at,
           CASE WHEN handled_by IS NOT NULL THEN json_object('handled_by', handled_by) END
    FROM steps WHERE completed_seq IS NOT NULL;
CREATE TRIGGER update_steps_timestamp AFTER UPDATE ON steps WHEN NEW.revision IS OLD.revision
BEGIN
    UPDATE steps SET updated_at = strftime('%Y-%m-%dT%H:%M:%f', 'now') || '000+00:00', revision = revision + 1
    WHERE execution_id = NEW.execution_id AND step_id = NEW.step_id;
END;
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
