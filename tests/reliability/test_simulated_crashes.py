"""A simulated crash leaves what a real one leaves: the same rows as SIGKILL of a real process, at every place."""

import contextlib
import signal
import sqlite3
import sys
from pathlib import Path

import pytest

from examples.order_processing import workflow as order_workflow
from pytest_workflow.clock import VirtualClock
from pytest_workflow.environment import Environment
from pytest_workflow.observation import Observation
from tests.reliability.crash_server import SCENARIOS

SERVER = Path(__file__).with_name("crash_server.py")
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs fork and SIGKILL")

TABLES = ("executions", "steps", "step_errors", "event_log", "step_events", "circuit_breaker_state", "owners")
DIFFERS = {"owner_id": "made at random for each process", "error_stack": "names the files and lines of the caller"}


def rows(path):
    """Return all rows of a database, as a new process would find them."""
    connection = sqlite3.connect(path)
    try:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        found = {}
        for table in TABLES:
            cursor = connection.execute(f'SELECT * FROM "{table}"')
            names = [column[0] for column in cursor.description]
            found[table] = sorted(
                repr({name: value for name, value in zip(names, row, strict=True) if name not in DIFFERS})
                for row in cursor
            )
        return found
    finally:
        connection.close()


@pytest.fixture
def services():
    before = order_workflow.services
    yield
    order_workflow.use_services(before)


class Enough(BaseException):
    """What comes after a death is of no interest."""


def run(scenario, path, places=()):
    """Run a scenario up to its first death; return what was seen, and the rows that the death left."""
    observation = Observation(tuple(places))
    environment = Environment(VirtualClock(), path, observation=observation)
    left = []

    def look():
        left.append(rows(path))
        raise Enough

    environment.succeed = look
    try:
        with contextlib.suppress(Enough):
            SCENARIOS[scenario](environment.harness, environment.faults)
    finally:
        environment.close()
    return observation, left


@pytest.mark.parametrize(
    ("scenario", "points"),
    [
        ("troubled", {"step_retrying", "step_failed", "execution_panicked", "execution_restarted", "sleep_started"}),
        ("refused", {"execution_failed", "step_refused", "step_skipped"}),
    ],
)
def test_the_rows_are_those_of_a_killed_process_at_every_place(tmp_path, services, capfd, nursery, scenario, points):
    baseline, _ = run(scenario, tmp_path / "whole.db")
    places = baseline.places_from(0)
    assert len(places) == 2 * len(baseline.passed)
    assert {point for point, _, _ in baseline.passed} >= points
    (tmp_path / "killed").mkdir()
    command = [sys.executable, str(SERVER), scenario, str(tmp_path / "killed")]
    killed = nursery.run(command, input="".join(f"{place}\n" for place in places), check=True, timeout=120)
    assert killed.stdout.split() == [str(int(signal.SIGKILL))] * len(places), killed.stderr
    for number, place in enumerate(places):
        _, left = run(scenario, tmp_path / f"simulated-{number}.db", [place])
        assert left == [rows(tmp_path / "killed" / f"{number}.db")], str(place)
