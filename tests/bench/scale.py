"""What the engine's operations cost at 1 000, 10 000 and 100 000 executions of one workflow, in one run.

Run it with ``python tests/bench/scale.py``. The executions are made by SQL, most completed and one in a hundred failed.
Each time is the median of several calls, as processor time of this process, because the machine may have other work;
ratios are to the smallest size. The second part recovers sleeping executions, and tells how long that takes and, in
another recovery, what each costs in memory.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import sqlite3
import statistics
import tempfile
import time
import tracemalloc
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from workflow_core import Settings, WorkflowContext, WorkflowEngine

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from workflow_core.database.sqlite import SQLiteStore

BEGIN = datetime(2025, 1, 1, tzinfo=UTC)
ROUNDS = 15
MANY = 10_000
"""More sleeping executions than this are not read all at once."""

NUMBERS = "WITH RECURSIVE n (i) AS (SELECT ?1 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < ?2)"
MOMENT = "strftime('%Y-%m-%dT%H:%M:%f', 1735689600 + i, 'unixepoch') || '000+00:00'"
EXECUTIONS = f"""{NUMBERS}
INSERT INTO executions (id, workflow_name, status, started_at, completed_at, error_message, error_data, output_data,
                        completed_seq, retry_config, panic_config, created_at, updated_at)
SELECT printf('e-%08d', i), 'bench', CASE i % 100 WHEN 0 THEN 'failed' ELSE 'completed' END, {MOMENT}, {MOMENT},
       CASE i % 100 WHEN 0 THEN 'Error: no' END, CASE i % 100 WHEN 0 THEN '{{"type":"Error","message":"no"}}' END,
       '{{"ok":true}}', 6, '{{}}', '{{}}', {MOMENT}, {MOMENT} FROM n"""
STEPS = f"""{NUMBERS}
INSERT INTO steps (execution_id, step_id, status, started_at, completed_at, result_data, started_seq, completed_seq,
                   created_at, updated_at)
SELECT printf('e-%08d', i), printf('step-%d', s.value), 'completed', {MOMENT}, {MOMENT}, '{{"ok":true,"number":1}}',
       2 * s.value + 2, 2 * s.value + 3, {MOMENT}, {MOMENT} FROM n, json_each('[0,1]') s"""
SLEEPING = f"""{NUMBERS}
INSERT INTO executions (id, workflow_name, status, started_at, retry_config, panic_config, input_data, created_at,
                        updated_at)
SELECT printf('s-%08d', i), 'naps', 'sleeping', {MOMENT}, '{{}}', '{{}}', '{{"order":1001}}', {MOMENT}, {MOMENT}
FROM n"""
SLEEPS = f"""{NUMBERS}
INSERT INTO steps (execution_id, step_id, kind, status, started_at, wake_time, duration_ms, started_seq, created_at,
                   updated_at)
SELECT printf('s-%08d', i), 'nap', 'sleep', 'sleeping', {MOMENT}, ?3 + i, 60000, 2, {MOMENT}, {MOMENT} FROM n"""
INDEX = f"{NUMBERS} INSERT INTO execution_index SELECT printf('%s-%08d', ?3, i), ?4 FROM n"


def make_engine(directory: Path, **settings: int) -> WorkflowEngine:
    """Return an engine with the workflows of this benchmark."""
    engine = WorkflowEngine(settings=Settings(directory=directory, recover_on_start=False, **settings))

    async def work() -> dict[str, object]:
        return {"ok": True, "number": 1}

    @engine.define("bench")
    async def bench(ctx: WorkflowContext) -> None:
        for number in range(2):
            await ctx.step(f"step-{number}", work)

    @engine.define("naps")
    async def naps(ctx: WorkflowContext) -> None:
        await ctx.sleep("nap", 60_000)

    return engine


async def fill(engine: WorkflowEngine, first: int, end: int, *, sleeping: bool = False) -> None:
    """Make executions by SQL."""
    name = "naps" if sleeping else "bench"
    if first == 0:
        await engine.store.workflow_defined(name, {}, BEGIN)
    store: SQLiteStore = engine.store.workflow(name)  # type: ignore[assignment]
    connection = store.connection
    connection.execute("BEGIN")
    if sleeping:
        due = int((time.time() + 3_600) * 1_000)
        connection.execute(SLEEPING, (first, end))
        connection.execute(SLEEPS, (first, end, due))
    else:
        connection.execute(EXECUTIONS, (first, end))
        connection.execute(STEPS, (first, end))
    connection.execute("COMMIT")
    registry = engine.store.layout.registry  # type: ignore[attr-defined]
    with contextlib.closing(sqlite3.connect(registry, isolation_level=None)) as index:
        index.execute(INDEX, (first, end, "s" if sleeping else "e", name))


async def measured(call: Callable[[int], Awaitable[object]], rounds: int = ROUNDS) -> float:
    """Return the median processor time of a call, in milliseconds."""
    times = []
    for number in range(rounds):
        begin = time.process_time()
        await call(number)
        times.append((time.process_time() - begin) * 1_000)
    return statistics.median(times)


async def operations(engine: WorkflowEngine, size: int) -> dict[str, float]:
    """Measure each operation."""
    middle = (await engine.list_executions("bench", started_before=BEGIN + timedelta(seconds=size // 2), limit=1))[0]
    age = datetime.now(UTC) - BEGIN
    times = {
        "start, two steps": await measured(lambda n: engine.start("bench", f"new-{size}-{n}")),
        "get_status": await measured(lambda n: engine.get_status(f"e-{n * size // ROUNDS:08d}")),
        "history": await measured(lambda n: engine.history(f"e-{n * size // ROUNDS:08d}")),
        "list_executions, first 100": await measured(lambda n: engine.list_executions()),
        "list_executions, 100 in the middle": await measured(lambda n: engine.list_executions(before=middle)),
        "list_executions, failed": await measured(lambda n: engine.list_executions("bench", "failed")),
        "stats": await measured(lambda n: engine.stats()),
        "recover, nothing to do": await measured(lambda n: engine.recover()),
        "cleanup, nothing to do": await measured(lambda n: engine.cleanup(age + timedelta(days=1))),
    }
    oldest = BEGIN + timedelta(seconds=size // 50)
    begin = time.process_time()
    report = await engine.cleanup(datetime.now(UTC) - oldest)
    times["cleanup, for each removed"] = (time.process_time() - begin) * 1_000 / max(1, report.total)
    return times


async def sizes(directory: Path, wanted: list[int]) -> None:
    """Print the times at each size."""
    table: dict[int, dict[str, float]] = {}
    for size in wanted:
        engine = make_engine(directory / str(size))
        print(f"  making {size} executions ...", flush=True)
        await fill(engine, 0, size)
        print("  measuring ...", flush=True)
        table[size] = await operations(engine, size)
        await engine.aclose()
    print(f"\n  {'milliseconds of processor time':<36}" + "".join(f"{size:>12}" for size in wanted) + "       ratio")
    for name in table[wanted[0]]:
        row = [table[size][name] for size in wanted]
        print(f"  {name:<36}" + "".join(f"{value:12.3f}" for value in row) + f"{row[-1] / row[0]:12.2f}")


async def sleepers(directory: Path, count: int, resident: int) -> None:
    """Print what a recovery of sleeping executions takes."""
    engine = make_engine(directory)
    await fill(engine, 0, count, sleeping=True)
    await engine.aclose()
    elapsed, _, _ = await recovered(directory, resident, traced=False)
    _, used, peak = await recovered(directory, resident, traced=True)
    print(
        f"  {count:>7} recovered, {min(resident, count):>6} of them read: {elapsed:6.1f} s, {used / 1e6:6.1f} MB, "
        f"at most {peak / 1e6:6.1f} MB, {used / count:6.0f} bytes each",
        flush=True,
    )


async def recovered(directory: Path, resident: int, *, traced: bool) -> tuple[float, int, int]:
    """Return the processor time of a recovery in seconds, the memory in use after it, and the most there was."""
    engine = make_engine(directory, resident_sleepers=resident)
    gc.collect()
    if traced:
        tracemalloc.start()
    begin = time.process_time()
    await engine.recover()
    elapsed = time.process_time() - begin
    await asyncio.sleep(0)
    gc.collect()
    used, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    await engine.aclose()
    return elapsed, used, peak


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--sleeping", type=int, nargs="*", default=[10_000, 100_000])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(sizes(Path(directory), options.sizes))
        print("\n  sleeping executions")
        for count in options.sleeping:
            for resident in (0, 1_000, count) if count <= MANY else (1_000,):
                asyncio.run(sleepers(Path(directory) / f"s{count}-{resident}", count, resident))


if __name__ == "__main__":
    main()
