"""Basic usage: the example on the harness."""

from __future__ import annotations

from typing import TYPE_CHECKING

from examples.basic_usage.workflow import main
from pytest_workflow import SleepCompleted, SleepStarted

if TYPE_CHECKING:
    import pytest

    from pytest_workflow import VirtualClock, WorkflowHarness


def test_the_steps_run_in_order_a_second_apart(workflow: WorkflowHarness, workflow_clock: VirtualClock) -> None:
    result = workflow.run("my-workflow", "execution-id-123")
    assert result.output == {"data": "step1-result"}
    history = workflow.history(result)
    history.assert_order("step1", "step2")
    assert history.of("wait") == [SleepStarted(duration_ms=1_000), SleepCompleted]
    assert workflow_clock.monotonic() == 1


def test_the_same_id_runs_once(workflow: WorkflowHarness, capsys: pytest.CaptureFixture[str]) -> None:
    main()
    main()
    completed = "completed {'data': 'step1-result'}"
    assert capsys.readouterr().out.splitlines() == ["Executing step 2", completed, completed]
    workflow.history("execution-id-123").assert_attempts("step2", 1)


def test_a_crash_in_the_sleep_does_not_repeat_the_first_step(
    workflow: WorkflowHarness, workflow_clock: VirtualClock
) -> None:
    workflow.run("my-workflow", "execution-id-123", detach=True)
    workflow_clock.advance(400)
    workflow.reopen()
    assert workflow.wait("execution-id-123").status == "completed"
    workflow.history("execution-id-123").assert_attempts("step1", 1)
    assert workflow_clock.monotonic() == 1
