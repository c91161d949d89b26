"""Everything at once: the example on the harness."""

from __future__ import annotations

from typing import TYPE_CHECKING

from examples.advanced_error_handling.workflow import InvalidDataError, NetworkError

if TYPE_CHECKING:
    from pytest_workflow import WorkflowFaults, WorkflowHarness

NAME = "advanced-error-handling"


def test_a_network_error_backs_off(workflow: WorkflowHarness, workflow_faults: WorkflowFaults) -> None:
    workflow_faults.fail("api-call", NetworkError("down", 503), attempts=[1, 2])
    result = workflow.run(NAME)
    assert result.output == {"data": "fresh"}
    history = workflow.history(result)
    history.assert_slept("network-backoff-1", 1_000)
    history.assert_slept("network-backoff-2", 2_000)


def test_wrong_data_becomes_default_data(workflow: WorkflowHarness, workflow_faults: WorkflowFaults) -> None:
    workflow_faults.fail("api-call", InvalidDataError("bad", "id"))
    assert workflow.run(NAME).output == {"data": "default", "fallback": True}


def test_an_open_circuit_uses_the_cache(workflow: WorkflowHarness, workflow_faults: WorkflowFaults) -> None:
    workflow_faults.fail("api-call", NetworkError("down", 503))
    assert workflow.run(NAME, "one").status == "failed"
    second = workflow.run(NAME, "two")
    assert second.output == {"data": "cached", "cached": True}
    workflow.history(second).assert_never_ran("api-call")


def test_anything_else_alerts(workflow: WorkflowHarness, workflow_faults: WorkflowFaults) -> None:
    workflow_faults.fail("api-call", KeyError("id"))
    result = workflow.run(NAME)
    assert result.status == "failed"
    assert "alerted" in result.steps["unexpected-error-handler"].result
