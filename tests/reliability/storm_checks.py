"""What must hold after a storm: the databases say what the steps themselves have written outside of them."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol

from tests.reliability.storm_workflows import KINDS, ids_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MAY_FAIL = {"StepInterruptedError", "CircuitOpenError"}
"""What an execution that a storm ended may have failed of: attempts that kills used up."""


class Counts(Protocol):
    """What the checks count, and complain of; `Counted` is the plain form of it."""

    executions: int
    recoveries: int
    interruptions: int
    calls: int
    kills: int
    statuses: dict[str, int]
    violations: list[str]


@dataclass
class Counted:
    """What the checks have counted."""

    executions: int = 0
    recoveries: int = 0
    interruptions: int = 0
    calls: int = 0
    kills: int = 0
    statuses: dict[str, int] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)


def check(directory: Path, batches: int, summary: Counts) -> None:
    """Compare the databases of a storm with its witness, and add what is wrong to the summary."""
    calls, wakes = read_witness(directory / "witness.txt")
    summary.calls = sum(len(attempts) for attempts in calls.values())
    complaints = directory / "complaints.txt"
    if complaints.exists():
        summary.violations.append(f"workers complained:\n{complaints.read_text(encoding='utf-8')[-6000:]}")
    statuses: Counter[str] = Counter()
    for kind in KINDS:
        connection = sqlite3.connect(directory / "state" / "workflows" / kind / f"{kind}.db")
        connection.row_factory = sqlite3.Row
        try:
            found = [row[0] for row in connection.execute("PRAGMA integrity_check")]
            if found != ["ok"]:
                summary.violations.append(f"{kind}.db is damaged: {found}")
            if found := connection.execute("PRAGMA foreign_key_check").fetchall():
                summary.violations.append(f"{kind}.db has rows without an execution: {[tuple(row) for row in found]}")
            rows = {row["id"]: row for row in connection.execute("SELECT * FROM executions")}
            expected = {
                execution_id for batch in range(1, batches + 1) for name, execution_id in ids_of(batch) if name == kind
            }
            if set(rows) != expected:
                summary.violations.append(f"{kind}: the executions differ: {sorted(set(rows) ^ expected)}")
            for execution_id, row in rows.items():
                statuses[row["status"]] += 1
                summary.violations += check_execution(connection, row, calls, wakes)
                summary.recoveries += count(connection, execution_id, "ExecutionRecovered")
                summary.interruptions += count(connection, execution_id, "StepInterrupted")
        finally:
            connection.close()
    summary.statuses = dict(statuses)
    summary.executions = sum(statuses.values())


def read_witness(
    path: Path,
) -> tuple[dict[tuple[str, str], list[tuple[int, int, int]]], dict[tuple[str, str], set[float]]]:
    """Return the calls of each step as (run, attempt, process), and the moments at which each sleep was to end."""
    calls: dict[tuple[str, str], list[tuple[int, int, int]]] = defaultdict(list)
    wakes: dict[tuple[str, str], set[float]] = defaultdict(set)
    for line in path.read_text(encoding="ascii").splitlines():
        execution_id, step_id, run, attempt, pid = line.split()
        if run == "wake":
            wakes[execution_id, step_id].add(float(attempt))
        else:
            calls[execution_id, step_id].append((int(run), int(attempt), int(pid)))
    return calls, wakes


def count(connection: sqlite3.Connection, execution_id: str, kind: str) -> int:
    """Return how many events of a kind an execution's history has."""
    found = connection.execute(
        "SELECT count(*) FROM step_events WHERE execution_id = ? AND type = ?", (execution_id, kind)
    ).fetchone()
    return int(found[0])


def check_execution(
    connection: sqlite3.Connection,
    execution: sqlite3.Row,
    calls: dict[tuple[str, str], list[tuple[int, int, int]]],
    wakes: dict[tuple[str, str], set[float]],
) -> Iterator[str]:
    """Yield a sentence for everything that is wrong with one execution."""
    execution_id = execution["id"]
    if execution["status"] not in {"completed", "failed"}:
        yield f"{execution_id} is {execution['status']}"
    if execution["status"] == "failed" and not any(name in execution["error_data"] for name in MAY_FAIL):
        yield f"{execution_id} failed of {execution['error_data']}"
    steps = connection.execute("SELECT * FROM steps WHERE execution_id = ?", (execution_id,)).fetchall()
    events = connection.execute(
        "SELECT seq, type, step_id, attempt, at, data FROM step_events WHERE execution_id = ? ORDER BY seq",
        (execution_id,),
    ).fetchall()
    yield from check_history(execution_id, execution["restart_attempt"], events)
    for step in steps:
        what = f"{execution_id}, {step['step_id']}"
        if step["status"] in {"pending", "running", "retrying", "sleeping"}:
            yield f"{what}: it is {step['status']} although the execution has ended"
        if step["kind"] == "sleep":
            yield from check_sleep(what, step, events, wakes[execution_id, step["step_id"]])
        else:
            yield from check_calls(what, step, events, calls[execution_id, step["step_id"]])
    known = {step["step_id"] for step in steps}
    for (called_id, step_id), _ in calls.items():
        if called_id == execution_id and step_id not in known:
            yield f"{execution_id}, {step_id}: its function was called, and the database has no such step"


def check_calls(
    what: str, step: sqlite3.Row, events: list[sqlite3.Row], called: list[tuple[int, int, int]]
) -> Iterator[str]:
    """A call is a recorded attempt, each attempt is called at most once, and none follows the one that completed."""
    twice = [pair for pair, number in Counter((run, attempt) for run, attempt, _ in called).items() if number > 1]
    if twice:
        yield f"{what}: (run, attempt) {twice} was called more than once: {called}"
    ordered = [(run, attempt) for run, attempt, _ in called]
    if ordered != sorted(ordered):
        yield f"{what}: attempts were counted backwards: {called}"
    started = sum(event["type"] == "StepStarted" and event["step_id"] == step["step_id"] for event in events)
    if len(called) > started:
        yield f"{what}: {len(called)} calls, and {started} attempts in the history"
    if (
        step["status"] == "completed"
        and step["handled_by"] is None
        and ordered[-1:]
        and ordered[-1][1] != step["attempt"]
    ):
        yield f"{what}: attempt {step['attempt']} completed it, and the last call was {ordered[-1]}"
    if step["status"] == "completed" and not called:
        yield f"{what}: it completed without a call"


def check_history(execution_id: str, runs: int, events: list[sqlite3.Row]) -> Iterator[str]:
    """Positions are dense, attempts grow by one within a run, and each that was cut off was cut off by a recovery."""
    positions = [event["seq"] for event in events]
    if positions != list(range(1, len(positions) + 1)):
        yield f"{execution_id}: the positions of its history are {positions}"
    if sum(event["type"] == "ExecutionRestarted" for event in events) != runs - 1:
        yield f"{execution_id}: {runs} runs, but the history has other restarts"
    moments = [event["at"] for event in events]
    if moments != sorted(moments):
        yield f"{execution_id}: the history goes back in time"
    reader = HistoryReader()
    for event in events:
        for sentence in reader.read(event):
            yield f"{execution_id}, {event['step_id']}: {sentence}"


class HistoryReader:
    """Reads a history event by event, and says what does not follow from what went before."""

    def __init__(self) -> None:
        self.attempts: dict[str, int] = defaultdict(int)
        self.begun_at: dict[str, int] = {}
        self.due: dict[str, datetime] = {}
        self.completed: set[str] = set()
        self.recovered_at = 0

    def read(self, event: sqlite3.Row) -> Iterator[str]:
        """Yield a sentence for everything that is wrong with an event."""
        step_id, kind = event["step_id"], event["type"]
        if kind == "ExecutionRecovered":
            self.recovered_at = event["seq"]
        elif kind == "ExecutionRestarted":
            self.attempts.clear()
            self.begun_at.clear()
            self.due.clear()
        elif kind == "StepStarted":
            yield from self._read_start(event)
        elif kind == "StepInterrupted" and not self.begun_at.get(step_id, 0) < self.recovered_at < event["seq"]:
            yield f"attempt {event['attempt']} was cut off without a recovery"
        elif kind == "StepRetrying":
            wait = timedelta(milliseconds=json.loads(event["data"])["backoff_ms"])
            self.due[step_id] = datetime.fromisoformat(event["at"]) + wait
        elif kind in {"StepCompleted", "StepSkipped", "SleepCompleted"}:
            self.completed.add(step_id)

    def _read_start(self, event: sqlite3.Row) -> Iterator[str]:
        step_id, attempt = event["step_id"], event["attempt"]
        if step_id in self.completed:
            yield "it began again after it had completed"
        if attempt != self.attempts[step_id] + 1:
            yield f"attempt {attempt} follows attempt {self.attempts[step_id]}"
        due = self.due.pop(step_id, None)
        if due is not None and datetime.fromisoformat(event["at"]) < due - timedelta(milliseconds=1):
            yield f"attempt {attempt} did not wait for its back-off"
        self.attempts[step_id] = attempt
        self.begun_at[step_id] = event["seq"]


def check_sleep(what: str, step: sqlite3.Row, events: list[sqlite3.Row], seen: set[float]) -> Iterator[str]:
    """A sleep begins once, its end is its beginning and its length, nobody moves that end, and it is not cut short.

    How late it ends is not judged: its worker may have been away, or its database, and machines are slow.
    """
    mine: list[Any] = [event for event in events if event["step_id"] == step["step_id"]]
    if [event["type"] for event in mine] not in (["SleepStarted", "SleepCompleted"], ["SleepStarted"]):
        yield f"{what}: its history is {[event['type'] for event in mine]}"
    begun = (datetime.fromisoformat(step["started_at"]) - EPOCH) / timedelta(milliseconds=1)
    if not 0 <= step["wake_time"] - begun - step["duration_ms"] < 1:
        yield f"{what}: it began at {begun}, lasts {step['duration_ms']} ms and ends at {step['wake_time']}"
    if len(seen) > 1 or any(abs(moment - step["wake_time"]) > 1 for moment in seen):
        yield f"{what}: its end was {sorted(seen)} when it began, and is {step['wake_time']} now"
    if step["completed_at"] is not None and step["status"] == "completed":
        ended = (datetime.fromisoformat(step["completed_at"]) - EPOCH) / timedelta(milliseconds=1)
        if ended < step["wake_time"]:
            yield f"{what}: it ended {step['wake_time'] - ended} ms early"
