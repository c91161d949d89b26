"""Real processes, really killed: in storms, by their own executions, stopped, and many that want the same.

The environment variables ``WORKFLOW_STORM_KILLS``, ``WORKFLOW_STORM_SEED`` and ``WORKFLOW_STORM_EXECUTIONS`` make it
larger; ``make storm`` does.
"""

import json
import os
import sqlite3
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.reliability.poison_server import INNOCENT, POISONS

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="workers are forked")

KILLS = int(os.environ.get("WORKFLOW_STORM_KILLS", "30"))
EXECUTIONS = int(os.environ.get("WORKFLOW_STORM_EXECUTIONS", "40"))
SEED = int(os.environ.get("WORKFLOW_STORM_SEED", "7"))


@pytest.fixture
def run(nursery):
    """Give a function that runs a module as a process, and returns what it tells as JSON."""

    def run(module, *arguments, **environment):
        process = nursery.run(
            [sys.executable, "-m", module, *arguments], cwd=ROOT, env={**os.environ, **environment}, timeout=120 + KILLS
        )
        assert process.stdout.strip(), process.stderr
        return json.loads(process.stdout)

    return run


@pytest.fixture(params=["sqlite", "postgres"])
def database(request):
    """Give the variables that name the database of worker processes."""
    if request.param == "sqlite":
        return {"WORKFLOW_DATABASE_URL": ""}
    url, schema = request.getfixturevalue("postgres_url"), request.getfixturevalue("postgres_schema")
    return {"WORKFLOW_DATABASE_URL": url, "WORKFLOW_DATABASE_SCHEMA": schema}


@pytest.mark.timeout(120 + KILLS)
def test_a_storm_of_kills_loses_nothing_and_repeats_nothing(run, database):
    summary = run("tests.reliability.kill_storm", "--kills", str(KILLS), "--seed", str(SEED), "--json", **database)
    assert summary["violations"] == [], summary
    assert summary["kills"] >= KILLS
    assert summary["recoveries"] > 0
    assert set(summary["statuses"]) <= {"completed", "failed"}
    assert summary["executions"] == 9 * summary["batches"]


@pytest.mark.timeout(120 + KILLS)
@pytest.mark.parametrize("synchronous", ["NORMAL", "FULL"])
def test_kills_in_the_middle_of_shared_commits_lose_nothing_that_anybody_was_told(run, tmp_path, synchronous):
    found = run("tests.reliability.crowd_server", str(tmp_path), synchronous, str(max(8, KILLS // 5)), str(SEED))
    assert found["violations"] == [], found
    assert found["deaths"] >= 5
    assert found["commits"] < found["points"] / 10


def test_what_ends_its_process_every_time_fails_and_harms_nobody_else(run, tmp_path):
    found = run("tests.reliability.poison_server", str(tmp_path))
    assert set(found) == {handler.__name__ for handler in POISONS}
    for poison, told in found.items():
        assert told["processes"] <= 12, poison
        assert told["statuses"] == {"p": "failed", **{f"i{number}": "completed" for number in range(INNOCENT)}}, poison
        expected = "StepInterruptedError" if poison == "in_step" else "ExecutionInterruptedError"
        assert told["error"].startswith(expected), poison
        assert told["recoveries"] <= 4, poison


def witnessed(directory):
    return [line.split() for line in (directory / "witness.txt").read_text(encoding="ascii").splitlines()]


def test_eight_processes_that_want_the_same_executions_run_each_step_once(run, tmp_path):
    found = run("tests.reliability.ownership_server", str(tmp_path), "same", "8", str(EXECUTIONS))
    assert not (tmp_path / "complaints.txt").exists(), (tmp_path / "complaints.txt").read_text(encoding="utf-8")
    assert len(found) == 8
    assert len({json.dumps(answer) for answer in found.values()}) == 1, found
    assert set(next(iter(found.values()))) == {"result"}, found
    calls = Counter((execution_id, step_id) for execution_id, step_id, _, _ in witnessed(tmp_path))
    assert len(calls) == EXECUTIONS * 3
    assert set(calls.values()) == {1}


def test_a_process_that_was_stopped_past_its_lease_writes_nothing_and_is_told_what_came_of_it(run, tmp_path):
    found = run("tests.reliability.ownership_server", str(tmp_path), "stopped")
    assert not (tmp_path / "complaints.txt").exists(), (tmp_path / "complaints.txt").read_text(encoding="utf-8")
    assert set(found["first"]) == set(found["second"]) == {"result"}, found
    first, second = found["first"]["result"], found["second"]["result"]
    assert first["status"] == second["status"] == "completed"
    assert first["output"] == second["output"] == second["pid"]
    assert [(step_id, attempt, int(pid)) for _, step_id, attempt, pid in witnessed(tmp_path)] == [
        ("wait", "1", first["pid"]),
        ("wait", "2", second["pid"]),
        ("after", "1", second["pid"]),
    ]
    connection = sqlite3.connect(tmp_path / "state" / "workflows" / "held" / "held.db")
    try:
        events = connection.execute("SELECT type, attempt FROM step_events ORDER BY seq").fetchall()
        steps = connection.execute(
            "SELECT step_id, status, attempt, result_data FROM steps ORDER BY step_id"
        ).fetchall()
    finally:
        connection.close()
    assert events == [
        ("ExecutionStarted", None),
        ("StepStarted", 1),
        ("ExecutionRecovered", None),
        ("StepInterrupted", 1),
        ("StepStarted", 2),
        ("StepCompleted", 2),
        ("StepStarted", 1),
        ("StepCompleted", 1),
        ("ExecutionCompleted", None),
    ]
    pid = str(second["pid"])
    assert steps == [("after", "completed", 1, pid), ("wait", "completed", 2, pid)]
