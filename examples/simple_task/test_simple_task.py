"""Basic workflow: the example on the harness."""

from __future__ import annotations

from typing import TYPE_CHECKING

import examples.simple_task.workflow  # noqa: F401 - defines the workflow

if TYPE_CHECKING:
    from pytest_workflow import WorkflowHarness


def test_both_steps_run_once(workflow: WorkflowHarness) -> None:
    result = workflow.run("simple-task", "task-123")
    assert result.output == "SOME DATA"
    workflow.history(result).assert_order("fetch-data", "process-data")
    assert workflow.run("simple-task", "task-123") == result
