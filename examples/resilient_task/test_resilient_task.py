"""Workflow with error handling: the example on the harness."""

from __future__ import annotations

from typing import TYPE_CHECKING

from examples.resilient_task.workflow import ApiError

if TYPE_CHECKING:
    from pytest_workflow import WorkflowFaults, WorkflowHarness


def test_it_tries_until_it_works(workflow: WorkflowHarness) -> None:
    result = workflow.run("resilient-task", "task-456")
    assert result.output == {"first": "success on attempt 3", "answer": "42"}
    workflow.history(result).assert_backoff("risky-operation", [2_000, 4_000])


def test_an_api_that_answers_late(workflow: WorkflowHarness, workflow_faults: WorkflowFaults) -> None:
    workflow_faults.fail("external-api-call", ApiError("500"), attempts=[1, 2, 3, 4])
    result = workflow.run("resilient-task", "task-456")
    assert result.status == "completed"
    workflow.history(result).assert_backoff("external-api-call", [2_000, 4_000, 8_000, 16_000])


def test_an_api_that_stays_down(workflow: WorkflowHarness, workflow_faults: WorkflowFaults) -> None:
    workflow_faults.fail("external-api-call", ApiError("500"))
    result = workflow.run("resilient-task", "task-456")
    assert result.status == "failed"
    workflow.history(result).assert_attempts("external-api-call", 5)
