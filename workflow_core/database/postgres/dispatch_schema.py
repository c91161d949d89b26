"""The tables and functions by which executions are handed to workers.

What a worker is handed is a job of Procrastinate (https://procrastinate.readthedocs.io), whose tables lie in the same
schema. ``dispatches`` has a row for each execution that was enqueued, and says which job is its present one: a job
whose number is another one is out of date, and nobody runs anything for it.

==========  ===========================================================================================
state       what it is
==========  ===========================================================================================
``waiting`` a limit does not let it run; it has no job
``queued``  it has a job that a worker is to fetch
``claimed`` a worker runs it, by the job that it has
``parked``  it sleeps, backs off, or waits for its restart; it has no job until ``due_at``
``ended``   it is at rest
==========  ===========================================================================================

The functions are what more than one process does, so that each happens in the transaction of what it belongs to:
whoever ends an execution, be it by a cancellation from a shell, frees its slot and lets the next one in; whoever gives
one back, queues it. The limits of a workflow are looked at with its row in ``limits`` locked, so two processes never
give the last slot away twice. Rows are locked in one order: executions, limits by the name of their workflow,
dispatches. Who holds limits may let in whoever waits, so nobody waits for limits who has locked a dispatch that waits.

How limits are kept is in `workflow_core.database.postgres.limit_functions`.

Version 4 of the schema has these tables and functions. `DISPATCH_CHANGES` and `BATCH_CHANGES` make them of those of
versions 2 and 3: what is so already they leave as it is, since an older schema gets today's at once.
"""

from __future__ import annotations

from typing import Final

from workflow_core.database.postgres.limit_functions import FUNCTION, LIMIT_FUNCTIONS

__all__ = ["BATCH_CHANGES", "DISPATCH_CHANGES", "DISPATCH_SCHEMA", "RUN_TASK"]

RUN_TASK: Final = "workflow_core.run"
"""The name of the task, in Procrastinate, that runs an execution."""

_TABLES: Final = (
    "ALTER TABLE {s}.executions ADD COLUMN queue text",
    """
CREATE TABLE {s}.limits (
    workflow_name       text COLLATE "C" PRIMARY KEY,
    concurrency         bigint,
    concurrency_per_key bigint,
    starts              bigint,
    starts_per_key      bigint,
    period              interval NOT NULL,
    held_while_waiting  boolean NOT NULL,
    declared_at         timestamptz NOT NULL DEFAULT '-infinity',
    applied_up_to       text COLLATE "C"
)""",
    """
CREATE TABLE {s}.dispatches (
    execution_id   text COLLATE "C" PRIMARY KEY REFERENCES {s}.executions (id) ON DELETE CASCADE,
    workflow_name  text COLLATE "C" NOT NULL,
    queue          text COLLATE "C" NOT NULL,
    priority       bigint NOT NULL,
    position       bigint GENERATED ALWAYS AS IDENTITY,
    is_limited     boolean NOT NULL,
    limit_key      text COLLATE "C",
    state          text COLLATE "C" NOT NULL,
    job_id         bigint,
    has_slot       boolean NOT NULL DEFAULT false,
    has_key_slot   boolean NOT NULL DEFAULT false,
    has_started    boolean NOT NULL DEFAULT false,
    first_start_at timestamptz,
    queued_at      timestamptz,
    due_at         timestamptz
) WITH (fillfactor = 70)""",
    """
CREATE TABLE {s}.workers (
    worker_id   bigint PRIMARY KEY,
    host        text NOT NULL,
    pid         bigint NOT NULL,
    queues      text[] NOT NULL,
    concurrency bigint NOT NULL,
    heartbeat   interval NOT NULL,
    started_at  timestamptz NOT NULL DEFAULT clock_timestamp()
)""",
    "CREATE INDEX idx_dispatches_open ON {s}.dispatches (queue, state, queued_at) WHERE state <> 'ended'",
    "CREATE INDEX idx_dispatches_due ON {s}.dispatches (due_at) WHERE state = 'parked'",
    "CREATE INDEX idx_dispatches_at_work ON {s}.dispatches (job_id) WHERE state IN ('queued', 'claimed')",
    "CREATE INDEX idx_dispatches_slots ON {s}.dispatches (workflow_name) WHERE has_slot",
    "CREATE INDEX idx_dispatches_key_slots ON {s}.dispatches (workflow_name, limit_key) WHERE has_key_slot",
    "CREATE INDEX idx_dispatches_starts ON {s}.dispatches (workflow_name, first_start_at) WHERE is_limited",
    """
CREATE INDEX idx_dispatches_starts_of_key ON {s}.dispatches (workflow_name, limit_key, first_start_at)
    WHERE is_limited AND limit_key IS NOT NULL""",
)
_WAITING_INDEXES: Final = (
    """
CREATE INDEX IF NOT EXISTS idx_dispatches_let_in ON {s}.dispatches
    (workflow_name, has_started, priority DESC, position) WHERE state = 'waiting' AND has_key_slot""",
    """
CREATE INDEX IF NOT EXISTS idx_dispatches_let_in_of_key ON {s}.dispatches
    (workflow_name, limit_key, has_started, priority DESC, position) WHERE state = 'waiting' AND NOT has_key_slot""",
    """
CREATE INDEX IF NOT EXISTS idx_dispatches_scheduled ON {s}.dispatches (first_start_at)
    WHERE state = 'waiting' AND NOT has_started""",
)
_FUNCTIONS: Final = (
    f"""
CREATE OR REPLACE FUNCTION {{s}}.defer_run(one {{s}}.dispatches) RETURNS bigint {FUNCTION}
BEGIN
    RETURN (procrastinate_defer_jobs_v1(ARRAY[ROW(
        one.queue, '{RUN_TASK}', one.priority, NULL, NULL,
        jsonb_build_object('execution_id', one.execution_id, 'workflow_name', one.workflow_name), NULL
    )::procrastinate_job_to_defer_v1]))[1];
END
$$""",
    f"""
CREATE OR REPLACE FUNCTION {{s}}.lock_limits(of_executions text[]) RETURNS void {FUNCTION}
BEGIN
    PERFORM 1 FROM limits WHERE workflow_name IN (
        SELECT workflow_name FROM dispatches WHERE execution_id = ANY (of_executions) AND is_limited
    ) ORDER BY workflow_name FOR UPDATE;
END
$$""",
    f"""
CREATE OR REPLACE FUNCTION {{s}}.enqueue(
    of_execution text, of_workflow text, at timestamptz, input text, retry text, panic text, deadline bigint,
    revision text, token bigint, to_queue text, with_priority bigint, limited boolean, with_key text
) RETURNS boolean {FUNCTION}
DECLARE
    one dispatches;
BEGIN
    INSERT INTO executions (id, workflow_name, status, started_at, input_data, retry_config, panic_config, deadline_at,
        created_at, updated_at, definition_revision, fencing_token, queue)
    VALUES (of_execution, of_workflow, 'queued', at, input, retry, panic, deadline, at, at, revision, token, to_queue)
    ON CONFLICT (id) DO NOTHING;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    one.execution_id := of_execution;
    one.workflow_name := of_workflow;
    one.queue := to_queue;
    one.priority := with_priority;
    one.is_limited := limited OR EXISTS (
        SELECT 1 FROM limits WHERE workflow_name = of_workflow
        AND coalesce(concurrency, concurrency_per_key, starts, starts_per_key) IS NOT NULL
    );
    IF NOT one.is_limited THEN
        one.state := 'queued';
        one.queued_at := clock_timestamp();
        one.job_id := defer_run(one);
    END IF;
    INSERT INTO dispatches (execution_id, workflow_name, queue, priority, is_limited, limit_key, state, has_key_slot,
        queued_at, job_id)
    VALUES (of_execution, of_workflow, to_queue, with_priority, one.is_limited, with_key,
        coalesce(one.state, 'waiting'), with_key IS NULL, one.queued_at, one.job_id);
    IF one.is_limited THEN
        PERFORM admit(of_workflow, with_key);
    END IF;
    RETURN true;
END
$$""",
    f"""
CREATE OR REPLACE FUNCTION {{s}}.queue_again(of_execution text) RETURNS void {FUNCTION}
DECLARE
    one dispatches;
BEGIN
    SELECT * INTO one FROM dispatches WHERE execution_id = of_execution FOR UPDATE;
    IF one.is_limited AND NOT one.has_slot THEN
        UPDATE dispatches SET state = 'waiting', job_id = NULL, has_key_slot = has_key_slot OR limit_key IS NULL
        WHERE execution_id = of_execution;
        PERFORM admit(one.workflow_name, one.limit_key);
    ELSE
        UPDATE dispatches SET state = 'queued', queued_at = clock_timestamp(), job_id = defer_run(one)
        WHERE execution_id = of_execution;
    END IF;
END
$$""",
    f"""
CREATE OR REPLACE FUNCTION {{s}}.claim(of_execution text, by_job bigint, by_owner text, at timestamptz)
RETURNS TABLE (kind text, execution {{s}}.executions) {FUNCTION}
DECLARE
    one dispatches;
BEGIN
    PERFORM 1 FROM executions WHERE id = of_execution FOR NO KEY UPDATE;
    SELECT * INTO one FROM dispatches WHERE execution_id = of_execution AND job_id = by_job FOR UPDATE;
    IF NOT FOUND OR one.state NOT IN ('queued', 'claimed') THEN
        RETURN;
    END IF;
    kind := CASE
        WHEN one.state = 'queued' AND NOT one.has_started THEN 'begun'
        WHEN one.state = 'queued' AND one.due_at IS NOT NULL THEN 'woken'
        ELSE 'abandoned'
    END;
    IF one.state = 'claimed' THEN
        RETURN QUERY SELECT kind, e FROM executions e WHERE e.id = of_execution;
        RETURN;
    END IF;
    UPDATE dispatches SET state = 'claimed', has_started = true, due_at = NULL,
        first_start_at = CASE WHEN one.has_started OR NOT one.is_limited THEN first_start_at ELSE clock_timestamp() END
    WHERE execution_id = of_execution;
    IF kind = 'abandoned' THEN
        RETURN QUERY SELECT kind, e FROM executions e WHERE e.id = of_execution;
    ELSE
        RETURN QUERY UPDATE executions e SET owner_id = by_owner, fencing_token = e.fencing_token + 1,
            status = CASE WHEN e.status IN ('sleeping', 'panicked') THEN e.status ELSE 'running' END,
            revision = e.revision + 1, updated_at = at
            WHERE e.id = of_execution RETURNING kind, e;
    END IF;
END
$$""",
    f"""
CREATE OR REPLACE FUNCTION {{s}}.park(of_execution text, until timestamptz) RETURNS void {FUNCTION}
DECLARE
    one dispatches;
    held boolean;
BEGIN
    SELECT * INTO one FROM dispatches WHERE execution_id = of_execution;
    held := coalesce((SELECT held_while_waiting FROM limits WHERE workflow_name = one.workflow_name), true);
    IF NOT held THEN
        PERFORM lock_limits(ARRAY[of_execution]);
    END IF;
    UPDATE dispatches SET state = 'parked', job_id = NULL, due_at = until,
        has_slot = has_slot AND held, has_key_slot = has_key_slot AND held
    WHERE execution_id = of_execution;
    IF one.is_limited AND NOT held THEN
        PERFORM admit(one.workflow_name, one.limit_key);
    END IF;
END
$$""",
    f"""
CREATE OR REPLACE FUNCTION {{s}}.wake_due(at_most bigint) RETURNS bigint {FUNCTION}
DECLARE
    candidates text[] := ARRAY(
        SELECT execution_id FROM dispatches WHERE state = 'parked' AND due_at <= clock_timestamp()
        ORDER BY due_at LIMIT at_most
    );
    scheduled text[] := ARRAY(
        SELECT execution_id FROM dispatches
        WHERE state = 'waiting' AND NOT has_started AND first_start_at <= clock_timestamp()
        ORDER BY first_start_at LIMIT at_most
    );
    due text;
    one dispatches;
    woken bigint := 0;
BEGIN
    PERFORM lock_limits(candidates || scheduled);
    FOR due IN
        SELECT execution_id FROM dispatches WHERE execution_id = ANY (candidates) AND state = 'parked'
        ORDER BY due_at FOR UPDATE SKIP LOCKED
    LOOP
        PERFORM queue_again(due);
        woken := woken + 1;
    END LOOP;
    UPDATE dispatches SET first_start_at = NULL
    WHERE execution_id = ANY (scheduled) AND state = 'waiting' AND NOT has_started;
    FOR one.workflow_name, one.limit_key IN
        SELECT DISTINCT workflow_name, limit_key FROM dispatches WHERE execution_id = ANY (scheduled) ORDER BY 1, 2
    LOOP
        woken := woken + admit(one.workflow_name, one.limit_key);
    END LOOP;
    RETURN woken;
END
$$""",
    f"""
CREATE OR REPLACE FUNCTION {{s}}.queue_orphans(older_than interval) RETURNS bigint {FUNCTION}
DECLARE
    candidates text[] := ARRAY(
        SELECT d.execution_id FROM dispatches d JOIN executions e ON e.id = d.execution_id
        WHERE d.state IN ('queued', 'claimed')
        AND e.updated_at NOT BETWEEN clock_timestamp() - older_than AND clock_timestamp() + older_than
        AND NOT EXISTS (SELECT 1 FROM procrastinate_jobs j WHERE j.id = d.job_id AND j.status IN ('todo', 'doing'))
        LIMIT 1000
    );
    orphan text;
    found bigint := 0;
BEGIN
    PERFORM lock_limits(candidates);
    FOR orphan IN
        SELECT d.execution_id FROM dispatches d
        WHERE d.execution_id = ANY (candidates) AND d.state IN ('queued', 'claimed')
        AND NOT EXISTS (SELECT 1 FROM procrastinate_jobs j WHERE j.id = d.job_id AND j.status IN ('todo', 'doing'))
        FOR UPDATE OF d SKIP LOCKED
    LOOP
        PERFORM queue_again(orphan);
        UPDATE dispatches SET due_at = NULL WHERE execution_id = orphan;
        found := found + 1;
    END LOOP;
    RETURN found;
END
$$""",
    f"""
CREATE OR REPLACE FUNCTION {{s}}.mend_future(known timestamptz) RETURNS timestamptz {FUNCTION}
DECLARE
    latest timestamptz := clock_timestamp() + interval '1 second';
    was_set_back boolean := coalesce(known > latest, false);
    too_late text[];
BEGIN
    UPDATE procrastinate_workers SET last_heartbeat = clock_timestamp() WHERE last_heartbeat > latest;
    was_set_back := was_set_back OR FOUND;
    SELECT array_agg(l.workflow_name) INTO too_late FROM limits l WHERE EXISTS (
        SELECT 1 FROM dispatches d WHERE d.workflow_name = l.workflow_name AND d.is_limited
        AND d.first_start_at > latest AND (d.has_started OR d.first_start_at > latest + l.period)
    );
    IF too_late IS NOT NULL THEN
        PERFORM 1 FROM limits WHERE workflow_name = ANY (too_late) ORDER BY workflow_name FOR UPDATE;
        UPDATE dispatches d SET first_start_at = CASE WHEN has_started THEN clock_timestamp() END
        FROM limits l WHERE l.workflow_name = d.workflow_name AND l.workflow_name = ANY (too_late) AND d.is_limited
        AND d.first_start_at > latest AND (d.has_started OR d.first_start_at > latest + l.period);
    END IF;
    IF was_set_back OR too_late IS NOT NULL THEN
        UPDATE procrastinate_jobs SET scheduled_at = clock_timestamp()
        WHERE status = 'todo' AND task_name = '{RUN_TASK}' AND scheduled_at > latest;
    END IF;
    RETURN clock_timestamp();
END
$$""",
    f"""
CREATE OR REPLACE FUNCTION {{s}}.follow_execution() RETURNS trigger {FUNCTION}
DECLARE
    is_over boolean := NEW.status IN ('completed', 'failed', 'cancelled')
        OR NEW.status = 'panicked' AND NEW.restart_at IS NULL;
    one dispatches;
BEGIN
    IF is_over OR coalesce(NEW.owner_id, '') = '' THEN
        PERFORM 1 FROM limits WHERE workflow_name = (
            SELECT workflow_name FROM dispatches WHERE execution_id = NEW.id AND is_limited
        ) FOR UPDATE; -- lock_limits would be planned anew for each row
    END IF;
    SELECT * INTO one FROM dispatches WHERE execution_id = NEW.id FOR UPDATE;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    IF is_over THEN
        UPDATE dispatches SET state = 'ended', job_id = NULL, due_at = NULL, has_slot = false, has_key_slot = false,
            first_start_at = CASE WHEN has_started THEN first_start_at END
        WHERE execution_id = NEW.id;
        IF one.is_limited THEN
            PERFORM admit(one.workflow_name, one.limit_key);
        END IF;
    ELSIF one.state = 'ended' OR one.state = 'parked' AND NEW.status = 'restarting' THEN
        UPDATE dispatches SET state = 'claimed', due_at = clock_timestamp() WHERE execution_id = NEW.id; -- restarted
    ELSIF one.state = 'claimed' AND coalesce(NEW.owner_id, '') = '' THEN
        PERFORM queue_again(NEW.id);
    END IF;
    RETURN NULL;
END
$$""",
    *LIMIT_FUNCTIONS,
)
_TRIGGER: Final = """
CREATE TRIGGER dispatch_follows_execution AFTER UPDATE OF status, owner_id ON {s}.executions
    FOR EACH ROW WHEN (
        NEW.queue IS NOT NULL
        AND (NEW.status IS DISTINCT FROM OLD.status OR NEW.owner_id IS DISTINCT FROM OLD.owner_id)
    ) EXECUTE FUNCTION {s}.follow_execution()"""

DISPATCH_SCHEMA: Final = (*_TABLES, *_WAITING_INDEXES, *_FUNCTIONS, _TRIGGER)
"""The statements that make them, with ``{s}`` for the schema."""

DISPATCH_CHANGES: Final = (
    "ALTER TABLE {s}.limits ADD COLUMN IF NOT EXISTS declared_at timestamptz NOT NULL DEFAULT '-infinity'",
    "DROP INDEX IF EXISTS {s}.idx_dispatches_waiting, {s}.idx_dispatches_waiting_for_key",
    *_WAITING_INDEXES,
    """
UPDATE {s}.dispatches SET state = 'waiting', job_id = NULL, has_slot = false
    WHERE state = 'queued' AND NOT has_started AND queued_at > now()""",
    """
DROP FUNCTION IF EXISTS {s}.defer_run({s}.dispatches, timestamptz), {s}.admit(text, text),
    {s}.next_start({s}.dispatches, {s}.limits), {s}.begun_within({s}.dispatches, boolean, interval)""",
    *_FUNCTIONS,
)
"""The statements that make them of those of version 2: there a job of what a rate limit delays is scheduled."""

BATCH_CHANGES: Final = (
    'ALTER TABLE {s}.limits ADD COLUMN IF NOT EXISTS applied_up_to text COLLATE "C"',
    *_FUNCTIONS,
)
"""The statements that make them of those of version 3: there new limits are applied to all keys at once."""
