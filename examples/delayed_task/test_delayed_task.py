"""Workflow with sleep: the example on the harness."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import examples.delayed_task.workflow  # noqa: F401 - defines the workflow

if TYPE_CHECKING:
    from pytest_workflow import VirtualClock, WorkflowHarness


def test_the_delay_is_slept(workflow: WorkflowHarness, workflow_clock: VirtualClock) -> None:
    result = workflow.run("delayed-task")
    assert result.output == "finished after the delay"
    workflow.history(result).assert_slept("wait", 5_000)
    assert workflow_clock.now() - workflow_clock.start == timedelta(seconds=5)


def test_a_crash_does_not_make_it_longer(workflow: WorkflowHarness, workflow_clock: VirtualClock) -> None:
    workflow.run("delayed-task", "d-1", detach=True)
    workflow_clock.advance(timedelta(seconds=3))
    assert workflow.status("d-1").status == "sleeping"
    workflow.reopen()
    assert workflow.wait("d-1").status == "completed"
    assert workflow_clock.now() - workflow_clock.start == timedelta(seconds=5)
