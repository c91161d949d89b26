"""Real processes on a real database, really killed."""

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

WORKER = Path(__file__).with_name("worker.py")
if sys.platform == "win32":
    pytest.skip("needs POSIX signals", allow_module_level=True)


class Workers:
    """Starts worker processes that share a runtime directory and a witness file."""

    def __init__(self, nursery, directory, url=None, schema=None):
        self.nursery, self.directory, self.url, self.schema = nursery, directory, url, schema
        self.witness = directory / "witness.txt"
        self.running = []

    def spawn(self, *arguments):
        process = self.nursery.popen(
            [sys.executable, str(WORKER), arguments[0], str(self.witness), *arguments[1:]],
            env={
                **os.environ,
                "WORKFLOW_DIR": str(self.directory / "state"),
                "WORKFLOW_DATABASE_URL": self.url or "",
                "WORKFLOW_DATABASE_SCHEMA": self.schema or "",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.running.append(process)
        return process

    def run(self, *arguments):
        output, errors = self.spawn(*arguments).communicate(timeout=60)
        return output, errors

    def kill_at(self, process, line, with_signal):
        for found in process.stdout:
            if found.strip() == line:
                process.send_signal(with_signal)
                break
        process.communicate(timeout=60)
        return process.returncode

    def seen(self):
        return self.witness.read_text(encoding="utf-8").splitlines()

    def query(self, sql):
        if self.url is not None:
            import psycopg

            with psycopg.connect(self.url, options=f"-c search_path={self.schema}") as connection:
                return connection.execute(sql).fetchall()
        path = self.directory / "state" / "workflows" / "victim" / "victim.db"
        connection = sqlite3.connect(path)
        try:
            return connection.execute(sql).fetchall()
        finally:
            connection.close()


@pytest.fixture(params=["sqlite", "postgres"])
def workers(request, nursery, tmp_path):
    given = () if request.param == "sqlite" else map(request.getfixturevalue, ("postgres_url", "postgres_schema"))
    workers = Workers(nursery, tmp_path, *given)
    yield workers
    for process in workers.running:
        if process.poll() is None:
            process.kill()
            process.communicate()


def test_sigkill_in_a_step_uses_the_attempt_and_repeats_nothing_else(workers):
    code = workers.kill_at(workers.spawn("start", "victim", "e", "hang"), "StepStarted slow", signal.SIGKILL)
    assert code == -signal.SIGKILL
    output, errors = workers.run("recover", "victim", "e")
    assert "RESULT completed attempt 2" in output, errors
    lines = workers.seen()
    # The kill may come before the step's own function wrote its line.
    assert [line for line in lines if line != "slow 1"] == ["first", "slow 2", "last"]


@pytest.mark.parametrize("with_signal", [signal.SIGKILL, signal.SIGINT], ids=["kill", "interrupt"])
def test_a_sleep_goes_on_where_it_was(workers, with_signal):
    workers.kill_at(workers.spawn("start", "victim", "e"), "SleepStarted rest", with_signal)
    (wake_time,) = workers.query("SELECT wake_time FROM steps WHERE step_id = 'rest'")[0]
    output, errors = workers.run("recover", "victim", "e")
    assert "RESULT completed attempt 1" in output, errors
    assert workers.query("SELECT wake_time FROM steps WHERE step_id = 'rest'") == [(wake_time,)]
    assert workers.seen() == ["first", "slow 1", "last"]


def test_an_interrupt_gives_the_attempt_back(workers):
    workers.kill_at(workers.spawn("start", "victim", "e", "hang"), "StepStarted slow", signal.SIGINT)
    assert workers.query("SELECT status, attempt FROM steps WHERE step_id = 'slow'") == [("pending", 0)]
    assert workers.query("SELECT owner_id FROM executions") == [(None,)]


def test_starting_the_same_id_again_goes_on_as_well(workers):
    workers.kill_at(workers.spawn("start", "victim", "e", "hang"), "StepStarted slow", signal.SIGKILL)
    output, errors = workers.run("start", "victim", "e", "hang")
    assert "RESULT completed attempt 2" in output, errors


def test_two_processes_that_recover_at_once_share_the_work(workers):
    for number in range(4):
        workers.kill_at(workers.spawn("start", "victim", f"e{number}"), "SleepStarted rest", signal.SIGKILL)
    both = [workers.spawn("recover", "victim", "e"), workers.spawn("recover", "victim", "e")]
    outputs = [process.communicate(timeout=60)[0] for process in both]
    taken = [int(output.rpartition("TAKEN ")[2]) for output in outputs]
    assert sum(taken) == 4
    assert workers.query("SELECT DISTINCT status FROM executions") == [("completed",)]
    assert workers.seen().count("last") == 4


def test_a_step_that_kills_its_process_every_time_fails_in_the_end(workers):
    codes = []
    for command in ("start", "recover", "recover", "recover"):
        process = workers.spawn(command, "suicidal", "e")
        output, _ = process.communicate(timeout=60)
        codes.append(process.returncode)
    assert codes == [-signal.SIGKILL] * 3 + [0]
    assert "RESULT failed" in output
    assert workers.seen() == ["die 1", "die 2", "die 3"]


def test_a_step_that_leaves_its_process_every_time_fails_in_the_end(workers):
    codes = []
    for command in ("start", "recover", "recover", "recover"):
        process = workers.spawn(command, "leaving", "e")
        output, _ = process.communicate(timeout=60)
        codes.append(process.returncode)
    assert codes == [3, 3, 3, 0]
    assert "RESULT failed" in output
    assert workers.seen() == ["leave 1", "leave 2", "leave 3"]
