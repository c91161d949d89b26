"""Kills processes that run 50 executions at once on one database, so that every kill falls into shared commits.

    python -m tests.reliability.crowd_server DIRECTORY FULL 20 7

The arguments are an empty directory, SQLite's ``synchronous``, how many processes are killed, and the seed that draws
the moments. After each kill the database is compared with the file in which steps say that they were called, and
workflows that they were told of an end.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sqlite3
import sys
import time
import traceback
from collections import Counter
from pathlib import Path

from workflow_core import RetryConfig, Settings, WorkflowContext, WorkflowEngine
from workflow_core.database.sqlite import SQLiteStore

EXECUTIONS = 50
STEPS = 12
LONGEST_SECONDS = 60.0


class Crowd:
    """The processes, one after another.

    Args:
        directory: Where the database and the witness lie.
        synchronous: SQLite's setting.
    """

    def __init__(self, directory: Path, synchronous: str) -> None:
        self.path = directory / "crowd.db"
        self.witness = directory / "witness.txt"
        self.synchronous = synchronous
        self.violations: list[str] = []
        self.deaths = 0
        self._file = os.open(self.witness, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def _note(self, kind: str, ctx: WorkflowContext, step_id: str) -> None:
        os.write(self._file, f"{kind} {ctx.execution_id} {step_id} {ctx.attempt} {os.getpid()}\n".encode())

    async def _workflow(self, ctx: WorkflowContext) -> None:
        async def work(step_id: str) -> None:
            self._note("call", ctx, step_id)
            await asyncio.sleep(0)

        async def step(step_id: str) -> None:
            await ctx.step(step_id, lambda: work(step_id))
            self._note("told", ctx, step_id)

        for number in range(0, STEPS, 3):
            await step(f"s{number}")
            await asyncio.gather(step(f"s{number + 1}"), step(f"s{number + 2}"))

    async def work(self, batch: str) -> tuple[int, int]:
        """Recover everything, run a batch of executions at once, and count commits and durable points."""
        store = SQLiteStore(self.path, synchronous=self.synchronous, busy_timeout_ms=30_000)
        engine = WorkflowEngine(store, settings=Settings(max_recoveries=None))
        retry = RetryConfig(max_attempts=10, backoff_ms=1)
        engine.define("crowd", self._workflow, retry_config=retry)
        commits: list[str] = []
        store.connection.set_trace_callback(lambda sql: commits.append(sql) if sql.startswith("COMMIT") else None)
        await engine.recover()
        names = [f"{batch}-{number}" for number in range(EXECUTIONS)]
        results = await asyncio.gather(*(engine.start_and_wait("crowd", name) for name in names))
        assert {result.status for result in results} == {"completed"}
        await engine.aclose()
        return len(commits), EXECUTIONS * (2 + 2 * STEPS)

    def fork(self, batch: str) -> int:
        """Start a process that does a batch; it ends with 0 if all of it is completed."""
        pid = os.fork()
        if pid:
            return pid
        code = 1
        try:
            commits, points = asyncio.run(self.work(batch))
            self.path.with_name("commits.json").write_text(json.dumps([commits, points]), encoding="utf-8")
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)

    def kill(self, pid: int, after: int) -> None:
        """Kill a process when the witness has grown by some bytes, unless it ends before."""
        size, deadline = self.witness.stat().st_size + after, time.monotonic() + LONGEST_SECONDS
        while self.witness.stat().st_size < size and time.monotonic() < deadline:
            time.sleep(0.001)
            if os.waitpid(pid, os.WNOHANG)[0]:
                return
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        self.deaths += 1
        self.check()

    def check(self) -> None:
        """Compare the database with the witness."""
        connection = sqlite3.connect(self.path)
        rows = {
            (execution_id, step_id): (status, attempt)
            for execution_id, step_id, status, attempt in connection.execute(
                "SELECT execution_id, step_id, status, attempt FROM steps"
            )
        }
        places: dict[str, list[int]] = {}
        for execution_id, seq in connection.execute("SELECT execution_id, seq FROM step_events ORDER BY 1, 2"):
            places.setdefault(execution_id, []).append(seq)
        connection.close()
        told: set[tuple[str, str]] = set()
        calls: Counter[tuple[str, str]] = Counter()
        for line in self.witness.read_text(encoding="ascii").splitlines():
            kind, execution_id, step_id, attempt, _ = line.split()
            step = execution_id, step_id
            status, stored_attempt = rows.get(step, ("missing", 0))
            if kind == "call":
                calls[step] += 1
                if step in told:
                    self.violations.append(f"{step} was called again after it had ended")
                if stored_attempt < int(attempt):
                    self.violations.append(f"{step} was called before attempt {attempt} was committed: {status}")
            else:
                told.add(step)
                if status != "completed":
                    self.violations.append(f"{step} was told to have ended, and is {status}")
        often = {step: number for step, number in calls.items() if number > 1 + self.deaths}
        if often:
            self.violations.append(f"called too often: {often}")
        gaps = {name: found for name, found in places.items() if found != list(range(1, len(found) + 1))}
        if gaps:
            self.violations.append(f"gaps in the histories: {gaps}")


def main(directory: Path, synchronous: str, kills: int, seed: int) -> None:
    """Kill processes, let the last ones end everything, and print what was found."""
    moments, crowd = random.Random(seed), Crowd(directory, synchronous)
    for number in range(kills):
        crowd.kill(crowd.fork(f"batch{number}"), moments.randrange(100, 30_000))
    for batch in [kills - 1, "last"]:
        if os.waitstatus_to_exitcode(os.waitpid(crowd.fork(f"batch{batch}"), 0)[1]):
            crowd.violations.append(f"a process that was not killed has failed in batch {batch}")
    crowd.check()
    commits, points = json.loads(crowd.path.with_name("commits.json").read_text(encoding="utf-8"))
    print(json.dumps({"deaths": crowd.deaths, "commits": commits, "points": points, "violations": crowd.violations}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
