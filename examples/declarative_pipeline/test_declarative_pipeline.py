"""A workflow that a document describes: the example on the harness."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import examples.declarative_pipeline.workflow as example

if TYPE_CHECKING:
    from pytest_workflow import VirtualClock, WorkflowFaults, WorkflowHarness

DAY = {"day": "2026-01-01"}


def test_both_shops_are_asked_at_the_same_time(workflow: WorkflowHarness, workflow_clock: VirtualClock) -> None:
    result = workflow.run("declarative-pipeline", input=DAY)
    assert result.output == {"day": "2026-01-01", "total": 200}
    assert workflow_clock.monotonic() == pytest.approx(2.1)
    workflow.history(result).assert_slept("settle", 2_000)


def test_a_shop_that_does_not_answer_is_asked_again(workflow: WorkflowHarness, workflow_faults: WorkflowFaults) -> None:
    workflow_faults.fail("south", ConnectionError("503"), attempts=[1, 2])
    workflow_faults.returns("north", {"amount": 1})
    result = workflow.run("declarative-pipeline", input=DAY)
    assert result.output == {"day": "2026-01-01", "total": 81}
    workflow.history(result).assert_backoff("south", [500, 1_000])


def test_a_shop_that_is_not_there_fails_at_once(workflow: WorkflowHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(example.SALES, "south")
    result = workflow.run("declarative-pipeline", input=DAY)
    assert result.status == "failed"
    workflow.history(result).assert_attempts("south", 1)
    workflow.history(result).assert_never_ran("total")


@pytest.mark.workflow_crash_everywhere(nondeterministic=["report"])  # the result of a log has the time in it
def test_the_pipeline_survives_any_crash(workflow: WorkflowHarness) -> None:
    assert workflow.run("declarative-pipeline", input=DAY).output == {"day": "2026-01-01", "total": 200}
