"""Error recovery and monitoring: the example on the harness."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from examples.monitoring.workflow import bring_back, run_and_report

if TYPE_CHECKING:
    from pytest_workflow import WorkflowFaults, WorkflowHarness


@pytest.mark.asyncio
async def test_a_completed_execution(workflow: WorkflowHarness) -> None:
    report, result = await run_and_report("exec-123")
    assert report == "completed"
    assert await bring_back("exec-123") == result
    assert workflow.history(result).of("work")


@pytest.mark.asyncio
async def test_a_panic_is_reported_and_restarted(workflow: WorkflowHarness, workflow_faults: WorkflowFaults) -> None:
    workflow_faults.panic("work", "system error")
    report, status = await run_and_report("exec-123")
    assert report == "panicked at step work on attempt 1: system error"
    assert status.status == "panicked"
    assert (await bring_back("exec-123")).status == "completed"
    workflow.history("exec-123").assert_restarts(1)


@pytest.mark.asyncio
async def test_a_failure_is_reported_and_restarted(workflow: WorkflowHarness, workflow_faults: WorkflowFaults) -> None:
    workflow_faults.fail("work", ValueError("no"), attempts=[1, 2, 3])
    report, status = await run_and_report("exec-123")
    assert report == "failed at step work after 3 attempts: no"
    assert status.status == "failed"
    assert (await bring_back("exec-123")).status == "completed"
    assert workflow.status("exec-123").restart_attempt == 2
