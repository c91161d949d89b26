"""The functions that keep the limits of workflows, whoever begins, ends or parks their executions.

An execution passes two gates: that of its key, which gives it ``has_key_slot``, and that of its workflow, which gives
it ``has_slot`` and queues it. One without a key has passed the first. Each gate has the same two limits: how many hold
a slot, and how many begin within a period. Who waits for the second has passed the first, so that nobody need look at
all keys to know whose turn it is; one of the same key with a greater priority takes its place there.

The rate limits are sliding windows. Those that have been let in and have not begun count as well as those that began
within the period, so nothing need be asked when a worker begins one, however late that is. The first one that a rate
limit keeps waiting has ``first_start_at``, the moment at which the gate is to be looked at again.

Whoever looks at a gate has locked the row of the workflow in ``limits``, and counts with one statement, which sees the
tables as of one moment. Who enqueues waits for that row. So what looks at the gates of many keys does so in several
transactions: new limits are applied to one key after the other, and ``applied_up_to`` is the last one so far, for
anybody to go on with; it is ``NULL`` when they are applied to all. A key that has not had its turn keeps what it has.
"""

from __future__ import annotations

from typing import Final

__all__ = ["FUNCTION", "LIMIT_FUNCTIONS"]

FUNCTION: Final = "LANGUAGE plpgsql SET search_path = {s}, pg_catalog, pg_temp AS $$"
"""What each function of the schema has in common."""

_AT_ONCE: Final = 1_000
"""How many a gate lets in within one transaction; the others follow when the gate is looked at again, at once."""

LIMIT_FUNCTIONS: Final = (
    f"""
CREATE OR REPLACE FUNCTION {{s}}.note_limits(
    of_workflow text, of_all bigint, of_key bigint, starts_of_all bigint, starts_of_key bigint, within interval,
    held boolean, age interval
) RETURNS boolean {FUNCTION}
DECLARE
    since timestamptz := clock_timestamp() - age;
    before limits;
    rule limits;
BEGIN
    INSERT INTO limits VALUES (of_workflow, NULL, NULL, NULL, NULL, within, held, '-infinity') ON CONFLICT DO NOTHING;
    SELECT * INTO before FROM limits WHERE workflow_name = of_workflow FOR UPDATE;
    IF before.declared_at > since AND before.declared_at <= clock_timestamp() THEN -- else the clock was set back
        RETURN before.applied_up_to IS NOT NULL;
    END IF;
    UPDATE limits SET concurrency = of_all, concurrency_per_key = of_key, starts = starts_of_all,
        starts_per_key = starts_of_key, period = within, held_while_waiting = held, declared_at = since
    WHERE workflow_name = of_workflow RETURNING * INTO rule;
    before.declared_at := since;
    IF before IS DISTINCT FROM rule THEN
        UPDATE limits SET applied_up_to = '' WHERE workflow_name = of_workflow;
        RETURN true;
    END IF;
    RETURN rule.applied_up_to IS NOT NULL;
END
$$""",
    f"""
CREATE OR REPLACE FUNCTION {{s}}.apply_limits(of_workflow text, at_most bigint) RETURNS boolean {FUNCTION}
DECLARE
    rule limits;
    done bigint := 0;
    waiting_key text;
    last_key text;
BEGIN
    SELECT * INTO rule FROM limits WHERE workflow_name = of_workflow FOR UPDATE;
    IF rule.applied_up_to IS NULL THEN
        RETURN false;
    END IF;
    IF rule.applied_up_to = '' THEN
        UPDATE dispatches SET first_start_at = NULL
        WHERE workflow_name = of_workflow AND state = 'waiting' AND has_key_slot AND NOT has_started
        AND first_start_at IS NOT NULL;
        IF NOT rule.held_while_waiting THEN
            UPDATE dispatches SET has_slot = false, has_key_slot = false WHERE execution_id IN (
                SELECT execution_id FROM dispatches WHERE workflow_name = of_workflow AND has_slot AND state = 'parked'
                LIMIT at_most
            );
            GET DIAGNOSTICS done = ROW_COUNT;
        END IF;
    END IF;
    FOR waiting_key IN
        SELECT limit_key FROM (
            (SELECT DISTINCT limit_key FROM dispatches
             WHERE workflow_name = of_workflow AND limit_key > rule.applied_up_to AND state = 'waiting'
             AND NOT has_key_slot ORDER BY limit_key LIMIT at_most - done)
            UNION
            (SELECT DISTINCT limit_key FROM dispatches
             WHERE workflow_name = of_workflow AND limit_key > rule.applied_up_to AND state = 'waiting'
             AND has_key_slot ORDER BY limit_key LIMIT at_most - done)
        ) waiting ORDER BY limit_key LIMIT at_most - done
    LOOP
        UPDATE dispatches SET has_key_slot = false, first_start_at = CASE WHEN has_started THEN first_start_at END
        WHERE workflow_name = of_workflow AND limit_key = waiting_key AND state = 'waiting'
        AND (has_key_slot OR NOT has_started AND first_start_at IS NOT NULL);
        PERFORM let_key_in(rule, waiting_key);
        done := done + 1;
        last_key := waiting_key;
    END LOOP;
    PERFORM let_in(rule);
    UPDATE limits SET applied_up_to = CASE WHEN done = at_most THEN coalesce(last_key, applied_up_to) END
    WHERE workflow_name = of_workflow;
    RETURN done = at_most;
END
$$""",
    f"""
CREATE OR REPLACE FUNCTION {{s}}.next_start(rule {{s}}.limits, of_key text, let_in bigint)
RETURNS timestamptz {FUNCTION}
DECLARE
    latest timestamptz;
BEGIN
    IF of_key IS NULL AND let_in < rule.starts THEN
        SELECT first_start_at INTO latest FROM dispatches
        WHERE workflow_name = rule.workflow_name AND is_limited AND has_started
        ORDER BY first_start_at DESC OFFSET rule.starts - let_in - 1 LIMIT 1;
    ELSIF let_in < rule.starts_per_key THEN
        SELECT first_start_at INTO latest FROM dispatches
        WHERE workflow_name = rule.workflow_name AND limit_key = of_key AND is_limited AND has_started
        ORDER BY first_start_at DESC OFFSET rule.starts_per_key - let_in - 1 LIMIT 1;
    END IF;
    RETURN coalesce(latest, clock_timestamp()) + rule.period;
END
$$""",
    f"""
CREATE OR REPLACE FUNCTION {{s}}.let_key_in(rule {{s}}.limits, of_key text) RETURNS void {FUNCTION}
DECLARE
    free bigint;
    free_starts bigint;
    not_begun bigint;
    granted bigint := 0;
    first_outside dispatches;
    last_inside dispatches;
BEGIN
    IF coalesce(rule.concurrency_per_key, rule.starts_per_key) IS NOT NULL THEN
        SELECT CASE WHEN rule.concurrency_per_key IS NOT NULL THEN
                greatest(0, rule.concurrency_per_key - count(*)) END,
            count(*) FILTER (WHERE NOT has_started),
            CASE WHEN rule.starts_per_key IS NOT NULL THEN
                greatest(0, rule.starts_per_key - count(*) FILTER (WHERE NOT has_started) - (
                    SELECT count(*) FROM dispatches
                    WHERE workflow_name = rule.workflow_name AND limit_key = of_key AND is_limited AND has_started
                    AND first_start_at > clock_timestamp() - rule.period
                ))
            END
        INTO free, not_begun, free_starts
        FROM dispatches WHERE workflow_name = rule.workflow_name AND limit_key = of_key AND has_key_slot;
    END IF;
    IF free IS NULL OR free > 0 THEN -- the limit of the query makes a new plan of it each time
        UPDATE dispatches SET has_key_slot = true, first_start_at = CASE WHEN has_started THEN first_start_at END
        WHERE execution_id IN (
            SELECT execution_id FROM (
                (SELECT * FROM dispatches
                 WHERE workflow_name = rule.workflow_name AND limit_key = of_key AND state = 'waiting'
                 AND NOT has_key_slot AND has_started ORDER BY priority DESC, position LIMIT free)
                UNION ALL
                (SELECT * FROM dispatches
                 WHERE workflow_name = rule.workflow_name AND limit_key = of_key AND state = 'waiting'
                 AND NOT has_key_slot AND NOT has_started
                 ORDER BY priority DESC, position LIMIT least(free, free_starts))
            ) candidates ORDER BY priority DESC, position LIMIT free
        );
        GET DIAGNOSTICS granted = ROW_COUNT;
    END IF;
    IF free_starts IS NOT NULL AND (free IS NULL OR granted < free) THEN
        UPDATE dispatches SET first_start_at = next_start(rule, of_key, not_begun + granted)
        WHERE execution_id = (
            SELECT execution_id FROM dispatches
            WHERE workflow_name = rule.workflow_name AND limit_key = of_key AND state = 'waiting' AND NOT has_key_slot
            AND NOT has_started ORDER BY priority DESC, position LIMIT 1
        ) AND coalesce(first_start_at <= clock_timestamp(), true);
    END IF;
    IF coalesce(rule.concurrency, rule.starts) IS NULL THEN
        RETURN;
    END IF;
    SELECT * INTO first_outside FROM dispatches
    WHERE workflow_name = rule.workflow_name AND limit_key = of_key AND state = 'waiting' AND NOT has_key_slot
    AND NOT has_started ORDER BY priority DESC, position LIMIT 1;
    SELECT * INTO last_inside FROM dispatches
    WHERE workflow_name = rule.workflow_name AND limit_key = of_key AND has_key_slot AND state = 'waiting'
    AND NOT has_started AND priority < first_outside.priority ORDER BY priority, position DESC LIMIT 1;
    IF FOUND THEN
        UPDATE dispatches SET has_key_slot = NOT has_key_slot, first_start_at =
            CASE WHEN has_key_slot THEN first_outside.first_start_at ELSE last_inside.first_start_at END
        WHERE execution_id IN (first_outside.execution_id, last_inside.execution_id);
    END IF;
END
$$""",
    f"""
CREATE OR REPLACE FUNCTION {{s}}.let_in(rule {{s}}.limits) RETURNS bigint {FUNCTION}
DECLARE
    free bigint := {_AT_ONCE};
    free_starts bigint;
    not_begun bigint := 0;
    one dispatches;
    granted bigint := 0;
BEGIN
    IF coalesce(rule.concurrency, rule.starts) IS NOT NULL THEN
        SELECT CASE WHEN rule.concurrency IS NULL THEN {_AT_ONCE}
                ELSE least({_AT_ONCE}, greatest(0, rule.concurrency - count(*))) END,
            count(*) FILTER (WHERE NOT has_started),
            CASE WHEN rule.starts IS NOT NULL THEN
                greatest(0, rule.starts - count(*) FILTER (WHERE NOT has_started) - (
                    SELECT count(*) FROM dispatches
                    WHERE workflow_name = rule.workflow_name AND is_limited AND has_started
                    AND first_start_at > clock_timestamp() - rule.period
                ))
            END
        INTO free, not_begun, free_starts
        FROM dispatches WHERE workflow_name = rule.workflow_name AND has_slot;
    END IF;
    IF free = 0 THEN
        RETURN 0;
    END IF;
    FOR one IN
        SELECT * FROM (
            (SELECT * FROM dispatches
             WHERE workflow_name = rule.workflow_name AND state = 'waiting' AND has_key_slot AND has_started
             ORDER BY priority DESC, position LIMIT free)
            UNION ALL
            (SELECT * FROM dispatches
             WHERE workflow_name = rule.workflow_name AND state = 'waiting' AND has_key_slot AND NOT has_started
             ORDER BY priority DESC, position LIMIT least(free, free_starts))
        ) candidates ORDER BY priority DESC, position LIMIT free
    LOOP
        UPDATE dispatches SET state = 'queued', has_slot = true, job_id = defer_run(one),
            queued_at = clock_timestamp(), first_start_at = CASE WHEN has_started THEN first_start_at END
        WHERE execution_id = one.execution_id;
        granted := granted + 1;
        not_begun := not_begun + (NOT one.has_started)::int;
        free_starts := free_starts - (NOT one.has_started)::int;
    END LOOP;
    IF granted = {_AT_ONCE} OR free_starts = 0 AND granted < free THEN
        UPDATE dispatches SET first_start_at =
            CASE WHEN free_starts = 0 THEN next_start(rule, NULL, not_begun) ELSE clock_timestamp() END
        WHERE execution_id = (
            SELECT execution_id FROM dispatches
            WHERE workflow_name = rule.workflow_name AND state = 'waiting' AND has_key_slot AND NOT has_started
            ORDER BY priority DESC, position LIMIT 1
        ) AND coalesce(first_start_at <= clock_timestamp(), true);
    END IF;
    RETURN granted;
END
$$""",
    f"""
CREATE OR REPLACE FUNCTION {{s}}.admit(of_workflow text, of_key text) RETURNS bigint {FUNCTION}
DECLARE
    rule limits;
BEGIN
    SELECT * INTO rule FROM limits WHERE workflow_name = of_workflow FOR UPDATE;
    rule.workflow_name := of_workflow;
    IF of_key IS NOT NULL THEN
        PERFORM let_key_in(rule, of_key);
    END IF;
    RETURN let_in(rule);
END
$$""",
    f"""
CREATE OR REPLACE FUNCTION {{s}}.admit_some_missed(
    INOUT behind_workflow text, INOUT behind_key text, at_most bigint, OUT admitted bigint
) {FUNCTION}
DECLARE
    one dispatches;
    keys bigint := 0;
BEGIN
    admitted := 0;
    FOR one.workflow_name, one.limit_key IN
        WITH scheduled AS (
            SELECT DISTINCT workflow_name, limit_key FROM dispatches
            WHERE state = 'waiting' AND NOT has_started AND first_start_at > clock_timestamp()
        ), held AS (
            SELECT workflow_name, limit_key, count(*) AS number FROM dispatches
            WHERE has_key_slot AND limit_key IS NOT NULL GROUP BY 1, 2
        )
        SELECT DISTINCT d.workflow_name, d.limit_key FROM dispatches d
        LEFT JOIN limits l USING (workflow_name) LEFT JOIN held h USING (workflow_name, limit_key)
        WHERE d.state = 'waiting' AND NOT d.has_key_slot
        AND (d.workflow_name, d.limit_key) > (behind_workflow, behind_key)
        AND coalesce(l.concurrency_per_key > coalesce(h.number, 0), true)
        AND NOT EXISTS (
            SELECT 1 FROM scheduled s WHERE s.workflow_name = d.workflow_name AND s.limit_key = d.limit_key
        )
        ORDER BY 1, 2 LIMIT at_most
    LOOP
        admitted := admitted + admit(one.workflow_name, one.limit_key);
        keys := keys + 1;
        behind_workflow := one.workflow_name;
        behind_key := one.limit_key;
    END LOOP;
    IF keys = 0 THEN -- in a transaction of its own, for the order in which limits are locked
        behind_workflow := NULL;
        FOR one.workflow_name IN
            SELECT DISTINCT workflow_name FROM dispatches WHERE state = 'waiting' AND has_key_slot ORDER BY 1
        LOOP
            admitted := admitted + admit(one.workflow_name, NULL);
        END LOOP;
    END IF;
END
$$""",
    f"""
CREATE OR REPLACE FUNCTION {{s}}.declare_limits(
    of_workflow text, of_all bigint, of_key bigint, starts_of_all bigint, starts_of_key bigint, within interval,
    held boolean, age interval
) RETURNS void {FUNCTION}
BEGIN
    PERFORM note_limits(of_workflow, of_all, of_key, starts_of_all, starts_of_key, within, held, age);
    WHILE apply_limits(of_workflow, {_AT_ONCE}) LOOP END LOOP;
END
$$""",
    f"""
CREATE OR REPLACE FUNCTION {{s}}.admit_missed() RETURNS bigint {FUNCTION}
DECLARE
    part record;
    admitted bigint := 0;
BEGIN
    part := admit_some_missed('', '', {_AT_ONCE});
    admitted := part.admitted;
    WHILE part.behind_workflow IS NOT NULL LOOP
        part := admit_some_missed(part.behind_workflow, part.behind_key, {_AT_ONCE});
        admitted := admitted + part.admitted;
    END LOOP;
    RETURN admitted;
END
$$""",
)
"""The statements that make them, with ``{s}`` for the schema. The last two are what processes of version 3 call."""
