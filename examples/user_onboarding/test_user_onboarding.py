"""Input validation: the example on the harness."""

from __future__ import annotations

from typing import TYPE_CHECKING

from examples.user_onboarding.workflow import SAMPLE

if TYPE_CHECKING:
    from pytest_workflow import WorkflowHarness


def test_a_profile_is_made(workflow: WorkflowHarness) -> None:
    result = workflow.run("user-onboarding", input=SAMPLE)
    assert result.output.email == "ada@example.org"


def test_wrong_data_makes_none(workflow: WorkflowHarness) -> None:
    result = workflow.run("user-onboarding", input={**SAMPLE, "email": "nobody"})
    assert result.status == "failed"
    history = workflow.history(result)
    history.assert_attempts("validate-input", 1)
    history.assert_never_ran("create-profile")
