"""Simple workflow: the example on the harness."""

from __future__ import annotations

from typing import TYPE_CHECKING

import examples.simple_log.workflow  # noqa: F401 - defines the workflow

if TYPE_CHECKING:
    import pytest

    from pytest_workflow import WorkflowFaults, WorkflowHarness


def test_both_messages_are_logged(workflow: WorkflowHarness, capsys: pytest.CaptureFixture[str]) -> None:
    result = workflow.run("simple-log")
    assert result.status == "completed"
    assert capsys.readouterr().out.splitlines() == ["Welcome to the workflow!", "Workflow completed successfully!"]
    history = workflow.history(result)
    history.assert_order("welcome", "goodbye")
    history.assert_slept("wait", 2_000)


def test_a_failing_goodbye_is_tried_again_without_another_welcome(
    workflow: WorkflowHarness, workflow_faults: WorkflowFaults
) -> None:
    workflow_faults.fail("goodbye", OSError("no space left on device"), attempts=[1, 2])
    result = workflow.run("simple-log")
    assert result.status == "completed"
    history = workflow.history(result)
    history.assert_backoff("goodbye", [1_000, 2_000])
    history.assert_attempts("welcome", 1)
