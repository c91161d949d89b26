"""Steps per second of the engine against raw sqlite3 doing the same commits, in one process.

Run it with ``python tests/bench/steps_per_second.py``; it prints each round and the median ratio. Raw means: one
``INSERT`` when an execution or a step starts and one ``UPDATE`` when it ends, each committed, with the same keys, times
and results, in the same kind of file (WAL, synchronous NORMAL).
"""

from __future__ import annotations

import argparse
import asyncio
import sqlite3
import statistics
import tempfile
import time
from pathlib import Path

from workflow_core import WorkflowContext, WorkflowEngine
from workflow_core.database.sqlite import SQLiteStore

EXECUTION = "49b3be17-4872-4670-bd19-67fb3ffb904c"
RESULT = {"ok": True, "number": 1}
RESULT_JSON = '{"ok":true,"number":1}'
NOW = "2026-01-01T00:00:00.123456+00:00"


def raw(path: Path, executions: int, steps: int, synchronous: str = "NORMAL") -> float:
    """Return the steps per second of raw sqlite3."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"PRAGMA synchronous = {synchronous}")
    connection.execute(
        "CREATE TABLE steps (execution_id TEXT NOT NULL, step_id TEXT NOT NULL, status TEXT NOT NULL, started_at TEXT,"
        " completed_at TEXT, result_data TEXT, attempt INTEGER, PRIMARY KEY (execution_id, step_id))"
    )
    connection.execute("CREATE TABLE executions (id TEXT PRIMARY KEY, status TEXT, started_at TEXT, completed_at TEXT)")
    begin = time.perf_counter()
    for execution in range(executions):
        execution_id = f"{EXECUTION}-{execution}"
        connection.execute(
            "INSERT INTO executions (id, status, started_at) VALUES (?, 'running', ?)", (execution_id, NOW)
        )
        for number in range(steps):
            step_id = f"step-{number}"
            connection.execute(
                "INSERT INTO steps (execution_id, step_id, status, started_at, attempt) VALUES (?, ?, 'running', ?, 1)",
                (execution_id, step_id, NOW),
            )
            connection.execute(
                "UPDATE steps SET status = 'completed', completed_at = ?, result_data = ?"
                " WHERE execution_id = ? AND step_id = ?",
                (NOW, RESULT_JSON, execution_id, step_id),
            )
        connection.execute(
            "UPDATE executions SET status = 'completed', completed_at = ? WHERE id = ?", (NOW, execution_id)
        )
    elapsed = time.perf_counter() - begin
    connection.close()
    return executions * steps / elapsed


async def engine(path: Path, executions: int, steps: int, synchronous: str = "NORMAL") -> float:
    """Return the steps per second of the engine, one execution after another."""
    workflows = WorkflowEngine(SQLiteStore(path, synchronous=synchronous))

    async def work() -> dict[str, object]:
        return dict(RESULT)

    @workflows.define("bench")
    async def bench(ctx: WorkflowContext) -> None:
        for number in range(steps):
            await ctx.step(f"step-{number}", work)

    begin = time.perf_counter()
    for execution in range(executions):
        await workflows.start("bench", f"{EXECUTION}-{execution}")
    elapsed = time.perf_counter() - begin
    await workflows.aclose()
    return executions * steps / elapsed


def main() -> None:
    """Measure in alternating rounds, and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="rounds to take the median of (default 5)")
    parser.add_argument("--steps", type=int, default=5_000, help="steps in each round (default 5000)")
    parser.add_argument("--directory", type=Path, default=None, help="where the databases are made")
    options = parser.parse_args()
    for name, executions, steps in (
        ("one long execution", 1, options.steps),
        ("executions of 10 steps", options.steps // 10, 10),
    ):
        ratios = []
        print(name)
        for number in range(options.rounds):
            with tempfile.TemporaryDirectory(dir=options.directory) as directory:
                plain = raw(Path(directory) / "raw.db", executions, steps)
                ours = asyncio.run(engine(Path(directory) / "engine.db", executions, steps))
            ratios.append(ours / plain)
            print(f"  round {number + 1}: raw {plain:8.0f}/s   engine {ours:8.0f}/s   ratio {ours / plain:.2f}")
        print(f"  median ratio {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
