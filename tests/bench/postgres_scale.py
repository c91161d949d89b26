"""What a larger database costs on PostgreSQL: steps, starts, lists and recovery with ten thousand executions and more.

Run it with ``python -m tests.bench.postgres_scale --sizes 10000 100000 1000000``; it starts a server of its own, and
grows one schema from size to size with ``INSERT ... SELECT`` from ``generate_series``. The executions are spread over
ten workflows and the last month: most completed, 2 % failed, 0.1 % asleep, of a process that lives. Each has ten steps,
up to ``--with-steps`` executions; older ones have none, so that a million can be loaded in minutes. Then ``VACUUM
ANALYZE``, and what is measured at each size is the median of some repetitions in one process.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg

from pytest_workflow.postgres.server import FAST, PostgresServer, programs
from workflow_core import Settings, WorkflowContext, WorkflowEngine
from workflow_core.database.postgres.store import PostgresStore
from workflow_core.ownership import Owner

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

SCHEMA = "scale"
STEPS = 10
RESULT = {"ok": True, "number": 1}

EXECUTIONS = f"""
INSERT INTO {SCHEMA}.executions (id, workflow_name, status, started_at, completed_at, input_data, output_data,
    retry_config, panic_config, completed_seq, owner_id, error_message, created_at, updated_at)
SELECT gen_random_uuid()::text, 'workflow-' || n %% 10, status, at, CASE WHEN status <> 'sleeping' THEN at END,
    '{{"customer":' || n || '}}', '{{"ok":true}}', '{{"max_attempts":3,"backoff_ms":1000}}',
    '{{"enable_auto_restart":true}}', CASE WHEN status = 'completed' THEN 22 END,
    CASE WHEN status = 'sleeping' THEN %(owner)s END, CASE WHEN status = 'failed' THEN 'it was refused' END, at, at
FROM (SELECT n, now() - (%(all)s - n) * interval '30 days' / %(all)s AS at,
    CASE WHEN n %% 1000 = 0 THEN 'sleeping' WHEN n %% 50 = 1 THEN 'failed' ELSE 'completed' END AS status
    FROM generate_series(%(first)s::bigint, %(last)s::bigint) n) AS given"""
STEP_ROWS = f"""
INSERT INTO {SCHEMA}.steps (execution_id, step_id, status, started_at, completed_at, result_data, started_seq,
    completed_seq, created_at, updated_at)
SELECT id, 'step-' || s, 'completed', started_at, started_at, '{{"ok":true,"number":1}}', 2 * s + 2, 2 * s + 3,
    started_at, started_at
FROM {SCHEMA}.executions e CROSS JOIN generate_series(0, {STEPS - 1}) s
WHERE NOT EXISTS (SELECT 1 FROM {SCHEMA}.steps st WHERE st.execution_id = e.id) LIMIT %(limit)s"""


def load(connection: psycopg.Connection[Any], owner: Owner, first: int, last: int, with_steps: int) -> None:
    """Add executions up to a number of them, with steps for as many as are to have them."""
    values = {"first": first, "last": last, "all": last, "owner": owner.owner_id, "limit": with_steps * STEPS}
    connection.execute(EXECUTIONS, values)
    if with_steps > 0:
        connection.execute(STEP_ROWS, values)
    for table in ("executions", "steps"):
        connection.execute(f"VACUUM (ANALYZE) {SCHEMA}.{table}")


def server_cpu(server: PostgresServer) -> float:
    """Return the seconds of CPU that the processes of the server have used, those that have ended left out."""
    ticks = 0
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                fields = (process / "stat").read_text().rpartition(") ")[2].split()
            except OSError:
                continue
            if server.process.pid in {int(fields[1]), int(process.name)}:
                ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


async def median_ms(call: Callable[[], Awaitable[object]], repetitions: int = 15) -> float:
    """Return the median time of a call, in milliseconds."""
    times = []
    for _ in range(repetitions):
        begin = time.perf_counter()
        await call()
        times.append((time.perf_counter() - begin) * 1_000)
    return statistics.median(times)


async def work() -> dict[str, object]:
    """Do what a step of the benchmarks does."""
    return dict(RESULT)


async def many_steps(ctx: WorkflowContext) -> None:
    """Run small steps one after the other."""
    for number in range(STEPS):
        await ctx.step(f"step-{number}", work)


async def waits(ctx: WorkflowContext) -> None:
    """Wait in a durable sleep."""
    await ctx.step("first", work)
    await ctx.sleep("nap", 300_000)


def engine(server: PostgresServer) -> WorkflowEngine:
    """Return an engine, as a process that begins has one."""
    workflows = WorkflowEngine(PostgresStore(server.url, schema=SCHEMA), settings=Settings(lease_ms=None))
    workflows.define("workflow-1")(many_steps)
    workflows.define("waits")(waits)
    return workflows


def measured(connection: psycopg.Connection[Any], sql: str, values: dict[str, object] | None = None) -> tuple[Any, ...]:
    """Return the one row of a statement."""
    row = connection.execute(sql, values).fetchone()
    assert row is not None
    return row  # type: ignore[no-any-return]


async def writing(
    connection: psycopg.Connection[Any], server: PostgresServer, size: int, executions: int
) -> dict[str, str]:
    """Return what executions cost, many at once and one alone."""
    workflows = engine(server)
    left = iter(range(executions))

    async def some() -> None:
        for number in left:
            await workflows.start("workflow-1", f"crowd-{size}-{number}")

    for number in range(8):
        await workflows.start("workflow-1", f"warm-{size}-{number}")
    written = "SELECT (pg_current_wal_lsn() - '0/0')::float"
    (wal,), cpu, own, begin = (
        measured(connection, written),
        server_cpu(server),
        time.process_time(),
        time.perf_counter(),
    )
    await asyncio.gather(*(some() for _ in range(100)))
    elapsed, own, steps = time.perf_counter() - begin, time.process_time() - own, executions * STEPS
    cpu, wal = server_cpu(server) - cpu, measured(connection, written)[0] - wal
    numbers = iter(range(1_000))
    one = await median_ms(lambda: workflows.start("workflow-1", f"one-{size}-{next(numbers)}"), 30)
    await workflows.aclose()
    return {
        "steps/s, 100 executions at once": f"{steps / elapsed:,.0f}",
        "CPU a step, client": f"{own / steps * 1e6:.0f} us",
        "CPU a step, server": f"{cpu / steps * 1e6:.0f} us",
        "WAL a step": f"{wal / steps:,.0f} bytes",
        "an execution of 10 steps alone": f"{one:.2f} ms",
    }


async def reading(connection: psycopg.Connection[Any], server: PostgresServer) -> dict[str, str]:
    """Return what lists cost."""
    workflows = engine(server)
    store = PostgresStore(server.url, schema=SCHEMA)
    (middle,) = measured(connection, f"SELECT max(started_at) - interval '15 days' FROM {SCHEMA}.executions")
    one = (await store.list_executions(limit=1))[0].execution_id
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "list: the 100 latest": lambda: store.list_executions(limit=100),
        "list: 100 that failed": lambda: store.list_executions(None, ["failed"], 100),
        "list: 100 of a workflow": lambda: store.list_executions("workflow-1", None, 100),
        "list: the same, a fortnight back": lambda: store.list_executions("workflow-1", None, 100, before=(middle, "")),
        "ids by a prefix": lambda: store.find_execution_ids("ab", 20),
        "status of one": lambda: workflows.get_status(one),
        "100 that are unfinished": lambda: store.unfinished_executions(None, 100),
        "counts by workflow and status": store.count_executions,
    }
    found = {name: f"{await median_ms(call):.2f} ms" for name, call in calls.items()}
    await workflows.aclose()
    store.close()
    return found


async def recovering(server: PostgresServer, size: int) -> dict[str, str]:
    """Return what it costs to take executions over."""
    workflows = engine(server)
    for number in range(100):
        await workflows.start("waits", f"waits-{size}-{number}", detach=True)
    await workflows.aclose()
    workflows = engine(server)
    begin = time.perf_counter()
    taken = await workflows.recover()
    elapsed = time.perf_counter() - begin
    for execution_id in taken:
        await workflows.cancel(execution_id)
    await workflows.aclose()
    return {"recover(), for each taken over": f"{elapsed / len(taken) * 1_000:.2f} ms"}


async def measure(connection: psycopg.Connection[Any], server: PostgresServer, size: int, executions: int) -> None:
    """Print what is measured at one size."""
    told = {
        **await writing(connection, server, size, executions),
        **await reading(connection, server),
        **await recovering(server, size),
    }
    for table in ("executions", "steps"):
        sizes = "SELECT pg_relation_size(%(t)s::regclass) / 1e6, pg_indexes_size(%(t)s::regclass) / 1e6"
        rows, indexes = measured(connection, sizes, {"t": f"{SCHEMA}.{table}"})
        told[f"size of {table}"] = f"{rows:,.0f} MB, indexes {indexes:,.0f} MB"
    for name, value in told.items():
        print(f"  {name:40} {value}", flush=True)


def main() -> None:
    """Grow one database, and measure at each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000], help="numbers of executions")
    parser.add_argument("--with-steps", type=int, default=100_000, help="how many of them have steps (default 100000)")
    parser.add_argument("--executions", type=int, default=600, help="executions in the crowd (default 600)")
    parser.add_argument("--flush", action="store_true", help="let each commit wait for the disk")
    options = parser.parse_args()
    server = PostgresServer(programs())
    settings = {**FAST, "shared_buffers": "512MB", "max_wal_size": "4GB", "autovacuum": "on"}
    if options.flush:
        settings |= {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}
    owner = Owner("another-machine", 1, "0")
    try:
        server.start(settings)
        asyncio.run(PostgresStore(server.url, schema=SCHEMA).open())
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute(
                f"INSERT INTO {SCHEMA}.owners VALUES (%s, 'another-machine', 1, '0', 99999999999999)", (owner.owner_id,)
            )
            loaded = 0
            for size in options.sizes:
                begin = time.perf_counter()
                steps = min(size, options.with_steps) - min(loaded, options.with_steps)
                load(connection, owner, loaded + 1, size, steps)
                print(f"{size:,} executions, loaded in {time.perf_counter() - begin:.0f} s", flush=True)
                loaded = size
                asyncio.run(measure(connection, server, size, options.executions))
    finally:
        server.remove()


if __name__ == "__main__":
    main()
