"""Reads what a report shows out of a test's engine, and notes the faults that strike in it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from pytest_workflow.environment import unreadable
from pytest_workflow.report.model import WorkflowRecord
from workflow_core.report.model import ErrorEntry, EventEntry, ExecutionEntry, StepEntry
from workflow_core.report.reading import readable_json, shortened
from workflow_core.report.timeline import FaultStrike

if TYPE_CHECKING:
    from pytest_workflow.database import Row
    from pytest_workflow.environment import Environment
    from pytest_workflow.injection import ArmedFault
    from workflow_core.hookspecs import Attempt, DurablePoint

__all__ = ["MOST_EVENTS", "MOST_EXECUTIONS", "FaultWatch", "capture"]

MOST_EXECUTIONS = 100
"""A test's further executions are left out, and counted."""

MOST_EVENTS = 500
"""The further events of one execution are left out, and counted."""


class FaultWatch:
    """Notes which fault struck where."""

    def __init__(self, environment: Environment) -> None:
        self.strikes: dict[str, list[FaultStrike]] = {}
        self._database, self._errors = environment.database, environment.storage.errors
        environment.faults.watch(self._note)

    def _note(self, place: Attempt | DurablePoint, armed: ArmedFault) -> None:
        strike = FaultStrike(self._latest_seq(place.execution_id), place.step_id, shortened(armed.description))
        self.strikes.setdefault(place.execution_id, []).append(strike)

    def _latest_seq(self, execution_id: str) -> int:
        # Read rather than heard of: a crash after a commit strikes before the engine tells anyone of the event.
        with contextlib.suppress(*self._errors):
            (row,) = self._database.query(
                "SELECT max(seq) AS seq FROM step_events WHERE execution_id = ?", execution_id
            )
            return row["seq"] or 0
        return 0


def capture(environment: Environment, watch: FaultWatch) -> WorkflowRecord:
    """Read the executions of a test; it may have done anything to its engine and its tables."""
    virtual_ms = environment.clock.monotonic() * 1_000
    try:
        rows = environment.database.executions()
        executions = tuple(_execution(environment, watch, row) for row in rows[:MOST_EXECUTIONS])
    except unreadable(environment.storage) as error:
        return WorkflowRecord(virtual_ms=virtual_ms, problem=f"The executions cannot be read: {error}")
    left_out = len(rows) - len(executions)
    problem = f"{left_out} more executions of this test are not shown." if left_out else None
    return WorkflowRecord(virtual_ms=virtual_ms, executions=executions, problem=problem)


def _execution(environment: Environment, watch: FaultWatch, row: Row) -> ExecutionEntry:
    execution_id = row["id"]
    events = environment.harness.history(execution_id)
    database = environment.database
    return ExecutionEntry(
        execution_id=execution_id,
        workflow_name=row["workflow_name"],
        status=row["status"],
        input=readable_json(row["input_data"]),
        output=readable_json(row["output_data"]),
        error=row["error_message"] and shortened(row["error_message"]),
        events=tuple(EventEntry.of(event) for event in events[:MOST_EVENTS]),
        left_out=max(len(events) - MOST_EVENTS, 0),
        steps=tuple(
            StepEntry(step_id=step["step_id"], status=step["status"], result=readable_json(step["result_data"]))
            for step in database.steps(execution_id)
        ),
        errors=tuple(
            ErrorEntry(
                step_id=error["step_id"],
                attempt=error["attempt"],
                type=error["error_type"],
                message=shortened(error["error_message"]),
                stack=error["error_stack"] and shortened(error["error_stack"]),
            )
            for error in database.step_errors(execution_id)
        ),
        faults=tuple(watch.strikes.get(execution_id, ())),
    )
