"""Every statement on PostgreSQL finds its rows by an index, however many executions there are.

As with SQLite (`tests.unit.test_query_plans`) the statements are those that a run of everything executes. It runs on
tables that are nearly empty; then they are filled and analysed, and each statement is explained with the values it had.
"""

import asyncio
import re

import psycopg
import pytest

from tests.unit.test_query_plans import Probe, run_everything
from workflow_core import Settings, WorkflowEngine
from workflow_core.database.postgres import executions, steps
from workflow_core.database.postgres.store import PostgresStore

from .conftest import FakeClock, sql

READS_ALL = {
    r"SELECT workflow_name, status, count\(\*\) FROM": "counting reads every row of an index, or of the table",
    r"\s*SELECT coalesce\(w.name, e.name\), 'active'": "the list of the workflows counts too",
}
"""Statements that may walk through all executions, and why."""

FILL = (
    """
INSERT INTO {s}.executions (id, workflow_name, status, started_at, completed_at, retry_config, panic_config, created_at,
    updated_at)
SELECT 'filler-' || n, 'workflow-' || n % 5, CASE WHEN n % 200 = 0 THEN 'sleeping' WHEN n % 50 = 1 THEN 'failed'
    ELSE 'completed' END, now() - n * interval '1 minute', now(), '{}', '{}', now(), now()
FROM generate_series(1, 4000) n""",
    """
INSERT INTO {s}.steps (execution_id, step_id, status, started_at, attempt, started_seq, created_at, updated_at)
SELECT id, 'step-' || n, 'completed', now(), 1, n, now(), now() FROM {s}.executions, generate_series(1, 5) n""",
    """
INSERT INTO {s}.event_log (execution_id, seq, type, step_id, at)
SELECT id, n + 100, 'StepFailed', 'step-' || n, now() FROM {s}.executions, generate_series(1, 5) n""",
    """
INSERT INTO {s}.step_errors (execution_id, step_id, error_type, error_message, attempt, timestamp)
SELECT id, 'step-' || n, 'E', 'no', 1, 0 FROM {s}.executions, generate_series(1, 5) n""",
    "ANALYZE {s}.executions, {s}.steps, {s}.event_log, {s}.step_errors",
)
GROWING = re.compile(r"Seq Scan on (executions|steps|step_errors|event_log)\b")
ALONG_TIME = re.compile(r"Index (Only )?Scan\S* using idx_executions_started_at")
"""Who asks for a status must not walk along all executions in the order of their time."""

VERB = re.compile(r"\s*(SELECT|INSERT|UPDATE|DELETE|WITH)\b")


@pytest.fixture
def statements(monkeypatch):
    """Give the statements that are executed, each with the values it had the first time."""
    found = {}
    original = psycopg.AsyncConnection.execute

    async def execute(self, query, params=None, **options):
        text = query.decode() if isinstance(query, bytes) else str(query)
        if VERB.match(text) and not isinstance(params, tuple):
            found.setdefault(text, dict(params) if params else None)
        return await original(self, query, params, **options)

    monkeypatch.setattr(psycopg.AsyncConnection, "execute", execute)
    return found


async def crowd(engine):
    """Let executions go together."""

    @engine.define("crowd")
    async def handler(ctx):
        await ctx.step("a", lambda: 1)
        await ctx.step("b", lambda: 1)

    await engine.start("crowd", "first")  # its process is known from now on
    await asyncio.gather(*(engine.start("crowd", f"crowd-{number}") for number in range(12)))
    await engine.aclose()


def test_no_statement_walks_through_all_executions(make_postgres_store, postgres_schema, statements):
    async def scenario():
        clock, probe = FakeClock(), Probe()

        def make_engine(**settings):
            settings = Settings(sync_handlers="inline", **settings)
            return WorkflowEngine(make_postgres_store(), clock, settings=settings, process_probe=probe)

        await run_everything(make_engine, clock)
        await crowd(make_engine())
        seen = dict(statements)
        store = make_postgres_store()
        for statement in FILL:
            await sql(store, statement)

        async def plan(connection, statement, values):
            cursor = await connection.execute(f"EXPLAIN {statement}".encode(), values)
            return [line for (line,) in await cursor.fetchall()]

        async def explain(connection):
            return {statement: await plan(connection, statement, values) for statement, values in seen.items()}

        return store, await store.together(explain)

    store, plans = asyncio.run(scenario())
    assert len(plans) > 50
    for kind in (
        executions._STARTED_TOGETHER,
        executions._COMPLETED_TOGETHER,
        steps._BEGUN_TOGETHER,
        steps._COMPLETED_TOGETHER,
    ):
        assert store.sql(kind.sql).decode() in plans
    assert isinstance(store, PostgresStore)
    for statement, plan in plans.items():
        if any(re.match(allowed, statement) for allowed in READS_ALL):
            continue
        walks = [line for line in plan if GROWING.search(line)]
        if "status = " in statement:
            walks += [line for line in plan if ALONG_TIME.search(line)]
        assert not walks, "\n".join([statement, *plan])
