"""A resilient API call: the example on the harness."""

from __future__ import annotations

from typing import TYPE_CHECKING

import examples.resilient_api_call.workflow  # noqa: F401 - defines the workflow

if TYPE_CHECKING:
    from pytest_workflow import VirtualClock, WorkflowFaults, WorkflowHarness


def test_it_survives_an_outage_and_a_panic(
    workflow: WorkflowHarness, workflow_faults: WorkflowFaults, workflow_clock: VirtualClock
) -> None:
    workflow_faults.fail("api-call", ConnectionError("503"), attempts=[1, 2, 3])
    workflow_faults.panic("save-data", "cannot allocate memory")
    result = workflow.run("resilient-api-call")
    assert result.output == 17
    assert [(wait.kind, wait.ms) for wait in workflow_clock.sleeps] == [
        ("backoff", 2_000),
        ("backoff", 4_000),
        ("backoff", 8_000),
        ("restart", 10_000),
    ]


def test_an_answer_without_id_is_not_saved(workflow: WorkflowHarness, workflow_faults: WorkflowFaults) -> None:
    workflow_faults.returns("api-call", {"name": "nobody"})
    result = workflow.run("resilient-api-call")
    assert result.status == "failed"
    workflow.history(result).assert_never_ran("save-data")
