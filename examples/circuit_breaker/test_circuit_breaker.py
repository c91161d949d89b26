"""Circuit breaker: the example on the harness."""

from __future__ import annotations

from typing import TYPE_CHECKING

import examples.circuit_breaker.workflow  # noqa: F401 - defines the workflow
from pytest_workflow import CircuitClosed, CircuitHalfOpened, StepCompleted

if TYPE_CHECKING:
    from pytest_workflow import VirtualClock, WorkflowDatabase, WorkflowFaults, WorkflowHarness

NAME = "circuit-breaker-workflow"
STEP = "external-service-call"


def test_the_circuit_opens_over_executions_and_closes_after_a_probe(
    workflow: WorkflowHarness,
    workflow_faults: WorkflowFaults,
    workflow_clock: VirtualClock,
    workflow_db: WorkflowDatabase,
) -> None:
    for place in range(1, 6):
        workflow_faults.fail(STEP, ConnectionError("down"), occurrence=place)
    first, second = workflow.run(NAME, "one"), workflow.run(NAME, "two")
    assert first.status == "failed"
    assert second.output == "cached-data"
    workflow.history(second).assert_circuit_opened(STEP)
    assert workflow.run(NAME, "three").steps[STEP].status == "skipped"
    workflow_clock.advance(30_000)
    probe = workflow.run(NAME, "four")
    assert workflow.history(probe).of(STEP) == [CircuitHalfOpened(), StepCompleted(), CircuitClosed()]
    assert workflow_db.circuit_breakers()[0]["status"] == "closed"
