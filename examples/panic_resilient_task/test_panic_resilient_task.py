"""Workflow with panic recovery: the example on the harness."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import examples.panic_resilient_task.workflow  # noqa: F401 - defines the workflow
from workflow_core.panic import PANIC_INDICATORS

if TYPE_CHECKING:
    from pytest_workflow import VirtualClock, WorkflowFaults, WorkflowHarness


def test_it_restarts_with_its_work_kept(workflow: WorkflowHarness, workflow_clock: VirtualClock) -> None:
    result = workflow.run("panic-resilient-task", "task-789")
    assert result.output == "success after restart"
    assert result.restart_attempt == 2
    history = workflow.history(result)
    history.assert_panicked("MemoryError")
    history.assert_attempts("before-the-panic", 1)
    assert [wait.ms for wait in workflow_clock.sleeps] == [5_000]


@pytest.mark.parametrize("indicator", PANIC_INDICATORS)
def test_every_indicator_is_a_panic(workflow: WorkflowHarness, workflow_faults: WorkflowFaults, indicator: str) -> None:
    workflow_faults.panic("normal-operation", indicator)
    result = workflow.run("panic-resilient-task")
    assert result.status == "completed"
    workflow.history(result).assert_restarts(2)
