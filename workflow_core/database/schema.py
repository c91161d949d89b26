"""The tables of a workflow database and of the registry, with their versions.

How the history is stored decides the speed of a step. A step's row already holds when its latest attempt began and
when it ended, and an execution's row when it started and completed, so those events are read from the rows;
`event_log` holds only what no row holds. The view `step_events` joins them into the append-only history that every
reader uses. A step therefore costs one row, written twice, and no event row.

`steps` has a rowid, so a new row is put at the table's end, where it has room for its result; a B-tree of whole rows in
the order of their keys would split its pages, and spill a result of some hundred bytes to pages of its own.

`updated_at` is written by the engine from its own clock, together with `revision`. The triggers act only when a row
was changed without `revision`, that is by a foreign program.

`idx_executions_status` serves the lists, the counts, the recovery and the removal: each of them reads it once for each
status, so no other index of all executions is needed. `removed_executions` holds what was deleted here and is still
known elsewhere: in the registry's index, as a log file.

A change of these texts is a new version, with its step in `workflow_core.database.migrations`.
"""

from __future__ import annotations

__all__ = ["WORKFLOW_SCHEMA_VERSION", "WORKFLOW_SCHEMA", "REGISTRY_SCHEMA_VERSION", "REGISTRY_SCHEMA"]

WORKFLOW_SCHEMA_VERSION = 3

WORKFLOW_SCHEMA = """
CREATE TABLE owners (
    owner_id         TEXT PRIMARY KEY,
    host             TEXT NOT NULL,
    pid              INTEGER NOT NULL,
    process_started  TEXT NOT NULL,
    lease_expires_at INTEGER
) WITHOUT ROWID;

CREATE TABLE executions (
    id              TEXT PRIMARY KEY,
    workflow_name   TEXT NOT NULL,
    status          TEXT NOT NULL,
    started_at      DATETIME NOT NULL,
    completed_at    DATETIME,
    restart_attempt INTEGER NOT NULL DEFAULT 1,
    error_message   TEXT,
    error_data      TEXT,
    input_data      TEXT,
    output_data     TEXT,
    retry_config    TEXT NOT NULL,
    panic_config    TEXT NOT NULL,
    deadline_at     INTEGER,
    restart_at      INTEGER,
    completed_seq   INTEGER,
    owner_id        TEXT,
    fencing_token   INTEGER NOT NULL DEFAULT 1,
    revision        INTEGER NOT NULL DEFAULT 0,
    created_at      DATETIME NOT NULL,
    updated_at      DATETIME NOT NULL,
    definition_revision TEXT
);
CREATE INDEX idx_executions_status ON executions(workflow_name, status, started_at);
CREATE INDEX idx_executions_started_at ON executions(started_at);
CREATE INDEX idx_executions_restart_at ON executions(started_at) WHERE restart_at IS NOT NULL;

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
CREATE INDEX idx_steps_status ON steps(status) WHERE status NOT IN ('running', 'completed');
CREATE INDEX idx_steps_execution_id ON steps(execution_id, wake_time, next_attempt_at)
    WHERE status IN ('sleeping', 'retrying');

CREATE TABLE circuit_breaker_state (
    workflow_name      TEXT NOT NULL,
    step_id            TEXT NOT NULL,
    status             TEXT NOT NULL DEFAULT 'closed',
    failures           INTEGER NOT NULL DEFAULT 0,
    is_open            BOOLEAN GENERATED ALWAYS AS (status = 'open') VIRTUAL,
    last_failure_time  INTEGER,
    reset_time         INTEGER,
    probe_execution_id TEXT,
    probe_expires_at   INTEGER,
    PRIMARY KEY (workflow_name, step_id)
) WITHOUT ROWID;

CREATE TABLE step_errors (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    execution_id  TEXT NOT NULL REFERENCES executions(id) ON DELETE CASCADE,
    step_id       TEXT NOT NULL,
    error_type    TEXT NOT NULL,
    error_message TEXT NOT NULL,
    error_stack   TEXT,
    error_data    TEXT,
    attempt       INTEGER NOT NULL,
    timestamp     INTEGER NOT NULL
);
CREATE INDEX idx_execution_step ON step_errors(execution_id, step_id);

CREATE TABLE definitions (
    revision TEXT PRIMARY KEY,
    document TEXT NOT NULL
) WITHOUT ROWID;

CREATE TABLE event_log (
    execution_id TEXT NOT NULL REFERENCES executions(id) ON DELETE CASCADE,
    seq          INTEGER NOT NULL,
    type         TEXT NOT NULL,
    step_id      TEXT,
    attempt      INTEGER,
    at           DATETIME NOT NULL,
    data         TEXT,
    PRIMARY KEY (execution_id, seq)
) WITHOUT ROWID;

CREATE TABLE removed_executions (
    execution_id TEXT PRIMARY KEY
) WITHOUT ROWID;

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

CREATE TRIGGER event_log_is_append_only BEFORE UPDATE ON event_log
BEGIN
    SELECT RAISE(ABORT, 'the history is append-only');
END;

CREATE TRIGGER update_executions_timestamp AFTER UPDATE ON executions WHEN NEW.revision IS OLD.revision
BEGIN
    UPDATE executions SET updated_at = strftime('%Y-%m-%dT%H:%M:%f', 'now') || '000+00:00', revision = revision + 1
    WHERE id = NEW.id;
END;

CREATE TRIGGER update_steps_timestamp AFTER UPDATE ON steps WHEN NEW.revision IS OLD.revision
BEGIN
    UPDATE steps SET updated_at = strftime('%Y-%m-%dT%H:%M:%f', 'now') || '000+00:00', revision = revision + 1
    WHERE execution_id = NEW.execution_id AND step_id = NEW.step_id;
END;
"""

REGISTRY_SCHEMA_VERSION = 1

REGISTRY_SCHEMA = """
CREATE TABLE workflow_registry (
    name              TEXT PRIMARY KEY,
    db_path           TEXT NOT NULL,
    workflow_dir      TEXT NOT NULL,
    log_dir           TEXT NOT NULL,
    created_at        DATETIME NOT NULL,
    last_execution_at DATETIME,
    execution_count   INTEGER NOT NULL DEFAULT 0,
    status            TEXT NOT NULL DEFAULT 'active'
) WITHOUT ROWID;
CREATE INDEX idx_workflow_status ON workflow_registry(status);
CREATE INDEX idx_workflow_last_execution ON workflow_registry(last_execution_at);

CREATE TABLE execution_index (
    execution_id  TEXT PRIMARY KEY,
    workflow_name TEXT NOT NULL
) WITHOUT ROWID;
"""
