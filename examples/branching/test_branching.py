"""Error branching: the example on the harness."""

from __future__ import annotations

from typing import TYPE_CHECKING

from examples.branching.workflow import Outcome

if TYPE_CHECKING:
    from pytest_workflow import WorkflowFaults, WorkflowHarness


def test_the_primary_path(workflow: WorkflowHarness) -> None:
    result = workflow.run("branching-workflow")
    assert result.output == Outcome(success=True, data="primary-result")
    workflow.history(result).assert_never_ran("fallback-*")


def test_the_fallback_path(workflow: WorkflowHarness, workflow_faults: WorkflowFaults) -> None:
    workflow_faults.fail("risky-operation", RuntimeError("operation failed"))
    result = workflow.run("branching-workflow")
    assert result.output == Outcome(success=False, data="fallback-result")
    history = workflow.history(result)
    history.assert_order("fallback-operation", "notify-admin", "risky-operation", "fallback-cleanup")
    history.assert_never_ran("success-cleanup")
