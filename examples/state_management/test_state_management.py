"""Workflow state management: the example on the harness."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from examples.state_management.workflow import bring_on, describe
from workflow_core import Workflow, WorkflowError

if TYPE_CHECKING:
    from pytest_workflow import VirtualClock, WorkflowFaults, WorkflowHarness


@pytest.mark.asyncio
async def test_a_sleeping_execution_is_resumed(workflow: WorkflowHarness, workflow_clock: VirtualClock) -> None:
    await workflow.start("managed-workflow", "m-1", detach=True)
    await workflow_clock.advance(2_000)
    assert await describe("m-1") == "sleeping, 1 steps completed"
    result = await bring_on("m-1")
    assert result.output == "done"
    assert workflow_clock.monotonic() == 5
    assert await describe("m-1") == "completed, 3 steps completed"


@pytest.mark.asyncio
async def test_a_failed_execution_is_restarted(workflow: WorkflowHarness, workflow_faults: WorkflowFaults) -> None:
    workflow_faults.fail("second-half", RuntimeError("no"), attempts=[1, 2, 3])
    with pytest.raises(WorkflowError):
        await Workflow.start("managed-workflow", "m-1")
    assert (await bring_on("m-1")).output == "done"
    history = workflow.history("m-1")
    history.assert_attempts("first-half", 1)
    history.assert_restarts(1)
