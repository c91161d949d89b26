"""Steps per second of the engine on PostgreSQL against raw psycopg doing the same commits, in one process.

Run it with ``python -m tests.bench.postgres_steps``; it starts a server of its own, and prints each round and the
median ratio. Raw means: one prepared ``INSERT`` when a step starts and one ``UPDATE`` when it ends, each committed, on
one connection, with the same keys, times and results. ``--flush`` lets each commit wait for the disk, as a server in
production does; then the many executions at the same time share the flushes.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from datetime import UTC, datetime
from itertools import count

import psycopg

from pytest_workflow.postgres.server import FAST, PostgresServer, programs
from workflow_core import Settings, WorkflowContext, WorkflowEngine
from workflow_core.database.postgres.store import PostgresStore

RESULT = {"ok": True, "number": 1}
RESULT_JSON = '{"ok":true,"number":1}'
NOW = datetime.now(UTC)
_names = count()


async def raw(url: str, steps: int) -> float:
    """Return the steps per second of raw psycopg, one after another."""
    table = f"raw_{next(_names)}"
    async with await psycopg.AsyncConnection.connect(url, autocommit=True, prepare_threshold=0) as connection:
        await connection.execute(
            f"CREATE TABLE {table} (execution_id text, step_id text, status text, started_at timestamptz,"
            " completed_at timestamptz, result_data text, PRIMARY KEY (execution_id, step_id)) WITH (fillfactor = 70)"
        )
        begin = time.perf_counter()
        for number in range(steps):
            await connection.execute(
                f"INSERT INTO {table} (execution_id, step_id, status, started_at) VALUES ('e', %s, 'running', %s)",
                (f"step-{number}", NOW),
            )
            await connection.execute(
                f"UPDATE {table} SET status = 'completed', completed_at = %s, result_data = %s"
                " WHERE execution_id = 'e' AND step_id = %s",
                (NOW, RESULT_JSON, f"step-{number}"),
            )
        return steps / (time.perf_counter() - begin)


async def engine(url: str, executions: int, steps: int, at_once: int) -> float:
    """Return the steps per second of the engine, so many executions at a time."""
    workflows = WorkflowEngine(PostgresStore(url, schema=f"bench_{next(_names)}"), settings=Settings(lease_ms=None))

    async def work() -> dict[str, object]:
        return dict(RESULT)

    @workflows.define("bench")
    async def bench(ctx: WorkflowContext) -> None:
        for number in range(steps):
            await ctx.step(f"step-{number}", work)

    left = iter(range(executions))

    async def some() -> None:
        for number in left:
            await workflows.start("bench", f"e{number}")

    await workflows.start("bench", "first")
    begin = time.perf_counter()
    await asyncio.gather(*(some() for _ in range(at_once)))
    elapsed = time.perf_counter() - begin
    await workflows.aclose()
    return executions * steps / elapsed


def main() -> None:
    """Measure in alternating rounds, and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="rounds to take the median of (default 5)")
    parser.add_argument("--steps", type=int, default=2_000, help="steps in each round (default 2000)")
    parser.add_argument("--flush", action="store_true", help="let each commit wait for the disk")
    options = parser.parse_args()
    server = PostgresServer(programs())
    slow = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"} if options.flush else {}
    try:
        server.start({**FAST, **slow})
        for name, steps, at_once in (("one after another", 10, 1), ("50 executions at a time", 10, 50)):
            ratios = []
            print(name)
            for number in range(options.rounds):
                plain = asyncio.run(raw(server.url, options.steps))
                ours = asyncio.run(engine(server.url, options.steps // steps, steps, at_once))
                ratios.append(ours / plain)
                print(f"  round {number + 1}: raw {plain:8.0f}/s   engine {ours:8.0f}/s   ratio {ours / plain:.2f}")
            print(f"  median ratio {statistics.median(ratios):.2f}")
    finally:
        server.remove()


if __name__ == "__main__":
    main()
