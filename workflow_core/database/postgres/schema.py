"""The tables of a store on PostgreSQL, with their version.

They hold what those on SQLite hold (see `workflow_core.database.schema`), under the same names. What differs is for
PostgreSQL's sake:

- Moments are ``timestamptz``; JSON is ``text``, because ``jsonb`` would reorder keys and round numbers.
- Names are compared byte by byte (``COLLATE "C"``), so that lists have one order whatever the database's locale is.
- ``steps`` has no index but its key, and room in its pages: so the update that completes a step writes no index (HOT).
- `idx_executions_started_at` has a condition that always holds, and that only the list of all executions asks for. Else
  the planner, which does not know how rare a status is, would walk along it in search of that status.
- There is no registry: ``workflows`` has a row for each workflow, which no start of an execution writes, since all
  processes would wait for each other there. Counts are derived; what was removed is counted when it is removed.

A change of these texts is a new version, with its step in `workflow_core.database.postgres.migrations`.
"""

from __future__ import annotations

from typing import Final

from workflow_core.database.postgres.dispatch_schema import DISPATCH_SCHEMA

__all__ = ["SCHEMA", "SCHEMA_VERSION", "TABLES"]

SCHEMA_VERSION: Final = 4

TABLES: Final = (
    "circuit_breaker_state",
    "definitions",
    "dispatches",
    "event_log",
    "executions",
    "limits",
    "owners",
    "step_errors",
    "steps",
    "workers",
    "workflows",
)

SCHEMA: Final = (
    """
CREATE TABLE {s}.workflows (
    name              text COLLATE "C" PRIMARY KEY,
    definition        text,
    is_document       boolean NOT NULL DEFAULT false,
    created_at        timestamptz NOT NULL,
    removed_count     bigint NOT NULL DEFAULT 0,
    removed_last_start timestamptz
)""",
    """
CREATE TABLE {s}.owners (
    owner_id         text COLLATE "C" PRIMARY KEY,
    host             text NOT NULL,
    pid              bigint NOT NULL,
    process_started  text NOT NULL,
    lease_expires_at bigint
) WITH (fillfactor = 50)""",
    """
CREATE TABLE {s}.executions (
    id              text COLLATE "C" PRIMARY KEY,
    workflow_name   text COLLATE "C" NOT NULL,
    status          text COLLATE "C" NOT NULL,
    started_at      timestamptz NOT NULL,
    completed_at    timestamptz,
    restart_attempt bigint NOT NULL DEFAULT 1,
    error_message   text,
    error_data      text,
    input_data      text,
    output_data     text,
    retry_config    text NOT NULL,
    panic_config    text NOT NULL,
    deadline_at     bigint,
    restart_at      bigint,
    completed_seq   bigint,
    owner_id        text COLLATE "C",
    fencing_token   bigint NOT NULL DEFAULT 1,
    revision        bigint NOT NULL DEFAULT 0,
    created_at      timestamptz NOT NULL,
    updated_at      timestamptz NOT NULL,
    definition_revision text
) WITH (fillfactor = 80)""",
    "CREATE INDEX idx_executions_status ON {s}.executions (workflow_name, status, started_at, id)",
    "CREATE INDEX idx_executions_started_at ON {s}.executions (started_at, id) WHERE restart_attempt >= 0",
    """
CREATE INDEX idx_executions_unfinished ON {s}.executions (started_at, id)
    WHERE status IN ('running', 'sleeping', 'restarting')""",
    "CREATE INDEX idx_executions_restart_at ON {s}.executions (started_at, id) WHERE restart_at IS NOT NULL",
    """
CREATE TABLE {s}.steps (
    execution_id    text COLLATE "C" NOT NULL REFERENCES {s}.executions (id) ON DELETE CASCADE,
    step_id         text COLLATE "C" NOT NULL,
    kind            text NOT NULL DEFAULT 'step',
    status          text NOT NULL,
    started_at      timestamptz,
    completed_at    timestamptz,
    result_data     text,
    error_message   text,
    attempt         bigint NOT NULL DEFAULT 1,
    handled_by      text,
    next_attempt_at bigint,
    wake_time       bigint,
    duration_ms     bigint,
    started_seq     bigint,
    completed_seq   bigint,
    revision        bigint NOT NULL DEFAULT 0,
    created_at      timestamptz NOT NULL,
    updated_at      timestamptz NOT NULL,
    PRIMARY KEY (execution_id, step_id)
) WITH (fillfactor = 70)""",
    """
CREATE TABLE {s}.circuit_breaker_state (
    workflow_name      text COLLATE "C" NOT NULL,
    step_id            text COLLATE "C" NOT NULL,
    status             text NOT NULL DEFAULT 'closed',
    failures           bigint NOT NULL DEFAULT 0,
    is_open            boolean GENERATED ALWAYS AS (status = 'open') STORED,
    last_failure_time  bigint,
    reset_time         bigint,
    probe_execution_id text COLLATE "C",
    probe_expires_at   bigint,
    PRIMARY KEY (workflow_name, step_id)
) WITH (fillfactor = 50)""",
    """
CREATE TABLE {s}.step_errors (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    execution_id  text COLLATE "C" NOT NULL REFERENCES {s}.executions (id) ON DELETE CASCADE,
    step_id       text COLLATE "C" NOT NULL,
    error_type    text NOT NULL,
    error_message text NOT NULL,
    error_stack   text,
    error_data    text,
    attempt       bigint NOT NULL,
    timestamp     bigint NOT NULL
)""",
    "CREATE INDEX idx_execution_step ON {s}.step_errors (execution_id, step_id)",
    """
CREATE TABLE {s}.definitions (
    revision text COLLATE "C" PRIMARY KEY,
    document text NOT NULL
)""",
    """
CREATE TABLE {s}.event_log (
    execution_id text COLLATE "C" NOT NULL REFERENCES {s}.executions (id) ON DELETE CASCADE,
    seq          bigint NOT NULL,
    type         text NOT NULL,
    step_id      text COLLATE "C",
    attempt      bigint,
    at           timestamptz NOT NULL,
    data         text,
    PRIMARY KEY (execution_id, seq)
)""",
    """
CREATE VIEW {s}.step_events AS
    SELECT id AS execution_id, 1::bigint AS seq, 'ExecutionStarted' AS type, NULL::text AS step_id,
           NULL::bigint AS attempt, started_at AS at, NULL::text AS data
    FROM {s}.executions
    UNION ALL
    SELECT id, completed_seq, 'ExecutionCompleted', NULL, NULL, completed_at, NULL
    FROM {s}.executions WHERE completed_seq IS NOT NULL
    UNION ALL
    SELECT execution_id, seq, type, step_id, attempt, at, data FROM {s}.event_log
    UNION ALL
    SELECT execution_id, started_seq, CASE kind WHEN 'sleep' THEN 'SleepStarted' ELSE 'StepStarted' END, step_id,
           CASE kind WHEN 'sleep' THEN NULL ELSE attempt END, started_at,
           CASE kind WHEN 'sleep' THEN json_build_object('duration_ms', duration_ms)::text END
    FROM {s}.steps WHERE started_seq IS NOT NULL
    UNION ALL
    SELECT execution_id, completed_seq,
           CASE WHEN kind = 'sleep' THEN 'SleepCompleted' WHEN status = 'skipped' THEN 'StepSkipped'
                ELSE 'StepCompleted' END,
           step_id, CASE kind WHEN 'sleep' THEN NULL ELSE attempt END, completed_at,
           CASE WHEN handled_by IS NOT NULL THEN json_build_object('handled_by', handled_by)::text END
    FROM {s}.steps WHERE completed_seq IS NOT NULL""",
    """
CREATE FUNCTION {s}.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the history is append-only';
END
$$""",
    """
CREATE TRIGGER event_log_is_append_only BEFORE UPDATE ON {s}.event_log
    FOR EACH ROW EXECUTE FUNCTION {s}.refuse_change()""",
    """
CREATE FUNCTION {s}.note_foreign_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.updated_at := clock_timestamp();
    NEW.revision := OLD.revision + 1;
    RETURN NEW;
END
$$""",
    """
CREATE TRIGGER update_executions_timestamp BEFORE UPDATE ON {s}.executions
    FOR EACH ROW WHEN (NEW.revision = OLD.revision) EXECUTE FUNCTION {s}.note_foreign_change()""",
    """
CREATE TRIGGER update_steps_timestamp BEFORE UPDATE ON {s}.steps
    FOR EACH ROW WHEN (NEW.revision = OLD.revision) EXECUTE FUNCTION {s}.note_foreign_change()""",
    *DISPATCH_SCHEMA,
)
"""The statements that make the tables, with ``{s}`` for the schema."""
