"""Steps per second of the engine against DBOS Transact on one PostgreSQL server, with several worker processes each.

Run it with ``python -m tests.bench.dbos_postgres --dbos PYTHON``, where ``PYTHON`` is the interpreter of an environment
with ``pip install dbos``; it starts a server of its own. Both do the same: executions of ten small steps, which 1, 2
and 4 worker processes take from a queue that was filled before. Both run as many at once in a process as suits them
best on two cores (see the options), on the same server, one after the other. What is timed is from the moment at which
the first execution begins to that at which the last one has ended, by the rows that both keep; processes that start and
queues that are filled are not part of it.

``--flush`` lets each commit wait for the disk, as a server in production does.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

STEPS = 10
RESULT = {"ok": True, "number": 1}


def dbos_worker(url: str, number: int, at_once: int, executions: int) -> None:
    """Be one process of DBOS: one that works, or the one that fills the queue (number 0)."""
    from dbos import DBOS

    @DBOS.step()
    def work() -> dict[str, object]:
        return dict(RESULT)

    @DBOS.workflow()
    def bench() -> None:
        for _ in range(STEPS):
            work()

    DBOS(
        config={
            "name": "bench",
            "system_database_url": url,
            "run_admin_server": False,
            "log_level": "ERROR",
            "executor_id": f"worker-{number}",
            "sys_db_pool_size": max(at_once, 2),
            "application_version": "1",
        }
    )
    DBOS.listen_queues([] if number == 0 else ["bench"])
    if number:
        wait_for_word()
    DBOS.launch()
    if number == 0:
        DBOS.register_queue("bench", worker_concurrency=at_once, polling_interval_sec=0.02)
        for _ in range(executions):
            DBOS.enqueue_workflow("bench", bench)
    else:
        wait_for_word()
    DBOS.destroy()


def engine_worker(url: str, number: int, at_once: int, executions: int) -> None:
    """Be one process of the engine: a worker, or the one that fills the queue (number 0)."""
    from workflow_core import Settings, WorkflowContext, WorkflowEngine
    from workflow_core.cluster.settings import WorkerSettings
    from workflow_core.cluster.worker import Worker

    workflows = WorkflowEngine(settings=Settings(database_url=url, database_schema="bench", recover_on_start=False))

    async def work() -> dict[str, object]:
        return dict(RESULT)

    @workflows.define("bench")
    async def bench(ctx: WorkflowContext) -> None:
        for step in range(STEPS):
            await ctx.step(f"step-{step}", work)

    async def fill() -> None:
        left = iter(range(executions))

        async def some() -> None:
            for execution in left:
                await workflows.enqueue("bench", f"execution-{execution}")

        await asyncio.gather(*(some() for _ in range(20)))
        await workflows.aclose()

    async def run() -> None:
        wait_for_word()
        stop = asyncio.Event()

        async def until_told() -> None:
            await asyncio.to_thread(wait_for_word)
            stop.set()

        task = asyncio.create_task(until_told())
        await Worker(workflows, WorkerSettings(concurrency=at_once)).run(stop)
        await task
        await workflows.aclose()

    asyncio.run(run() if number else fill())


def wait_for_word() -> None:
    """Say that this process is ready, and wait until the measuring one lets it go on."""
    print("ready", flush=True)
    sys.stdin.readline()


ENDED = {
    "dbos": (
        """SELECT count(*), (max(updated_at) - min(started_at_epoch_ms)) / 1000.0
        FROM dbos.workflow_status WHERE status = 'SUCCESS'""",
        "DROP SCHEMA IF EXISTS dbos CASCADE",
    ),
    "engine": (
        """SELECT count(*), extract(epoch FROM max(completed_at) - (SELECT min(started_at) FROM bench.steps))
        FROM bench.executions WHERE status = 'completed'""",
        "DROP SCHEMA IF EXISTS bench CASCADE",
    ),
}
"""What tells how many executions have ended, and how long that took, and what removes all traces of them."""


def measure(connection: Any, kind: str, commands: list[list[str]], executions: int) -> float:
    """Return the steps per second of some processes that work together."""
    ended, _ = ENDED[kind]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for command in commands
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            process.stdout.readline()
        for process in processes:
            go_on(process)
        while True:
            time.sleep(0.3)
            with contextlib.suppress(LookupError):
                count, seconds = connection.execute(ended).fetchone()
                if count == executions:
                    break
            assert all(process.poll() is None for process in processes), "a worker has died"
    finally:
        for process in processes:
            if process.poll() is None:
                go_on(process)
        for process in processes:
            process.communicate(timeout=60)
    return executions * STEPS / float(seconds)


def filled_and_measured(
    connection: Any, kind: str, command: list[str], workers: int, numbers: tuple[int, int]
) -> float:
    """Fill a queue, and return the steps per second of the workers that empty it."""
    commands = [[*command, *map(str, (worker, *numbers))] for worker in range(workers + 1)]
    subprocess.run(commands[0], check=True, stdout=subprocess.DEVNULL)
    return measure(connection, kind, commands[1:], numbers[1])


def go_on(process: subprocess.Popen[str]) -> None:
    """Let a process go on that has said that it is ready."""
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def main() -> None:
    """Measure in alternating rounds, and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dbos", type=Path, help="the Python interpreter that has DBOS")
    parser.add_argument("--rounds", type=int, default=3, help="rounds to take the median of (default 3)")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4], help="worker processes (default 1 2 4)")
    parser.add_argument("--executions", type=int, default=1_000, help="executions of the engine (default 1000)")
    parser.add_argument("--dbos-executions", type=int, default=300, help="executions of DBOS (default 300)")
    parser.add_argument("--at-once", type=int, default=100, help="executions at once in a process (default 100)")
    parser.add_argument("--dbos-at-once", type=int, default=10, help="the same of DBOS (default 10)")
    parser.add_argument("--flush", action="store_true", help="let each commit wait for the disk")
    parser.add_argument("--process", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.process:
        kind, url, *numbers = options.process
        (dbos_worker if kind == "dbos" else engine_worker)(url, *map(int, numbers))
        return

    import psycopg

    from pytest_workflow.postgres.server import FAST, PostgresServer, programs

    file = str(Path(__file__).resolve())
    server = PostgresServer(programs())
    slow = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"} if options.flush else {}
    try:
        server.start({**FAST, "shared_buffers": "256MB", "max_connections": "200", **slow})
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute("SET client_min_messages = warning")
            for workers in options.workers:
                print(f"{workers} worker process{'es' if workers > 1 else ''}")
                ratios = []
                for number in range(options.rounds):
                    for _, removed in ENDED.values():
                        connection.execute(removed)
                    fast = filled_and_measured(
                        connection,
                        "engine",
                        [sys.executable, file, "--process", "engine", server.url],
                        workers,
                        (options.at_once, options.executions),
                    )
                    if options.dbos is None:
                        print(f"  round {number + 1}: engine {fast:8.0f}/s", flush=True)
                        continue
                    theirs = filled_and_measured(
                        connection,
                        "dbos",
                        [str(options.dbos), file, "--process", "dbos", server.url],
                        workers,
                        (options.dbos_at_once, options.dbos_executions),
                    )
                    ratios.append(fast / theirs)
                    told = f"engine {fast:8.0f}/s   DBOS {theirs:8.0f}/s   ratio {fast / theirs:.2f}"
                    print(f"  round {number + 1}: {told}", flush=True)
                if ratios:
                    print(f"  median ratio {statistics.median(ratios):.2f}", flush=True)
    finally:
        server.remove()


if __name__ == "__main__":
    main()
