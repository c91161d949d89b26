"""Error pipes: the example on the harness."""

from __future__ import annotations

from typing import TYPE_CHECKING

from examples.error_pipes.workflow import InvalidDataError, NetworkError

if TYPE_CHECKING:
    from pytest_workflow import WorkflowFaults, WorkflowHarness


def test_wrong_data_is_corrected(workflow: WorkflowHarness, workflow_faults: WorkflowFaults) -> None:
    workflow_faults.fail("data-processing", InvalidDataError("bad", "payload"))
    result = workflow.run("error-handling-workflow")
    assert result.output == {"valid": True, "corrected": True}
    assert result.steps["data-correction"].result == {"corrected": "payload"}


def test_a_server_error_is_waited_for(workflow: WorkflowHarness, workflow_faults: WorkflowFaults) -> None:
    workflow_faults.fail("data-processing", NetworkError("down", 503), attempts=[1])
    result = workflow.run("error-handling-workflow")
    assert result.output == {"valid": True, "data": "sample-data"}
    history = workflow.history(result)
    history.assert_slept("network-retry-delay-1", 5_000)
    history.assert_attempts("data-processing", 2)


def test_a_client_error_falls_back(workflow: WorkflowHarness, workflow_faults: WorkflowFaults) -> None:
    workflow_faults.fail("data-processing", NetworkError("gone", 404))
    assert workflow.run("error-handling-workflow").output == {"fallback": True}


def test_any_other_error_is_reported_once(workflow: WorkflowHarness, workflow_faults: WorkflowFaults) -> None:
    workflow_faults.fail("data-processing", KeyError("x"))
    result = workflow.run("error-handling-workflow")
    assert result.status == "failed"
    history = workflow.history(result)
    history.assert_attempts("data-processing", 3)
    history.assert_attempts("error-logging", 1)
