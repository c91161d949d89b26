"""Workers of one PostgreSQL database, each a process that runs ``workflow worker``, and what must hold afterwards."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

from tests.reliability.postgres_copy import copy
from tests.reliability.storm_checks import Counted, check
from tests.reliability.storm_workflows import KINDS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from tests.nursery import Nursery

APP = "tests.reliability.storm_app:engine"
QUICK = {"heartbeat": 300, "poll": 100, "rest": 500, "grace": 2_000, "concurrency": 8}
"""Options of a worker that notices everything soon."""
LONGEST_SECONDS = 60.0


class Command:
    """A process that runs ``workflow`` with some arguments.

    Args:
        nursery: Who gives birth to it.
        arguments: Its arguments.
        environment: What its environment has besides that of this process.
        log: Where it writes, standard output and standard error.
    """

    def __init__(self, nursery: Nursery, arguments: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self.log = log
        with log.open("ab") as file:
            self._process = nursery.popen(
                [sys.executable, "-m", "workflow_core.cli", *arguments],
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        self.pid = self._process.pid

    def text(self) -> str:
        """Return what it has written so far."""
        return self.log.read_text(encoding="utf-8")

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def wait(self) -> int:
        """Wait for its end, and return its exit code; a signal that ended it is negative."""
        try:
            return self._process.wait(LONGEST_SECONDS)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.pid} has not ended after {LONGEST_SECONDS} s:\n{self.text()}") from None

    def kill(self) -> None:
        """Kill it."""
        self.signal(signal.SIGKILL)
        self.wait()


class Fleet:
    """Workers, and other processes of the command line, that share a database and a witness.

    Args:
        nursery: Who gives birth to them.
        directory: Where the witness and what they write lie.
        schema: The schema of the tables.
        app: What they run.
        settings: Of their engines.

    Attributes:
        settings: Those of the engines of what is begun from now on.
    """

    def __init__(self, nursery: Nursery, directory: Path, schema: str, app: str = APP, **settings: object) -> None:
        self.directory = directory
        self.schema = schema
        self.workers: list[Command] = []
        self._nursery = nursery
        self._numbers = itertools.count(1)
        self.app = app
        self.settings = {"lease_ms": 5_000, "storage_patience_ms": 500, **settings}

    def run(self, url: str, *arguments: str) -> Command:
        """Begin a process of the command line on a database."""
        environment = {
            "WORKFLOW_DATABASE_URL": url,
            "WORKFLOW_DATABASE_SCHEMA": self.schema,
            "WORKFLOW_APP": self.app,
            "STORM_DIRECTORY": str(self.directory),
            "STORM_SETTINGS": json.dumps(self.settings),
        }
        log = self.directory / f"process-{next(self._numbers)}.log"
        return Command(self._nursery, arguments, environment, log)

    def begin(self, url: str, **options: int) -> Command:
        """Begin a worker; what is not said of it is as in `QUICK`."""
        given = [f"--{name}={value}" for name, value in {**QUICK, **options}.items()]
        worker = self.run(url, "worker", *given)
        self.workers.append(worker)
        return worker

    def end(self) -> list[int]:
        """Let the workers end in an orderly way; return their exit codes."""
        for worker in self.workers:
            worker.signal(signal.SIGCONT)
            worker.signal(signal.SIGTERM)
        codes = [worker.wait() for worker in self.workers]
        self.workers.clear()
        return codes

    def destroy(self) -> None:
        """Leave no process behind."""
        for worker in self.workers:
            with contextlib.suppress(ProcessLookupError):
                worker.kill()
        self.workers.clear()

    def deaths(self, url: str) -> list[str]:
        """Return the executions that were taken over from somebody who had not given them back."""
        import psycopg

        taken = (
            f"SELECT execution_id FROM {self.schema}.step_events WHERE type = 'ExecutionRecovered'"
            " AND coalesce((data::jsonb ->> 'released')::boolean, false) IS FALSE ORDER BY 1"
        )
        with psycopg.connect(url, autocommit=True) as connection:
            return [execution_id for (execution_id,) in connection.execute(taken)]

    def told(self, url: str) -> str:
        """Tell what is not at rest, and what the workers have written, for whoever looks for a mistake."""
        import psycopg

        queries = (
            "SELECT id, status, owner_id, updated_at FROM executions WHERE status NOT IN ('completed', 'cancelled')",
            "SELECT execution_id, state, job_id, has_slot, has_key_slot FROM dispatches WHERE state <> 'ended'",
            "SELECT id, task_name, status, scheduled_at, attempts, worker_id, args FROM procrastinate_jobs",
            "SELECT id, now() - last_heartbeat FROM procrastinate_workers",
        )
        with psycopg.connect(url, autocommit=True, options=f"-c search_path={self.schema}") as connection:
            lines = [str(row) for query in queries for row in (query, *connection.execute(query))]
        for log in sorted(self.directory.glob("*.log")):
            lines += [f"--- {log.name}", *log.read_text(encoding="utf-8").splitlines()[-40:]]
        return "\n".join(lines)

    def checked(self, url: str, batches: int) -> Counted:
        """Compare what the database says of some batches with the witness; return what was counted."""
        counts = Counted()
        copy(url, self.schema, self.directory / "state", KINDS)
        check(self.directory, batches, counts)
        return counts
