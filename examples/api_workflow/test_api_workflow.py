"""API integration: the example on the harness."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from examples.api_workflow import workflow as example
from pytest_workflow import StepCompleted, StepFailed, StepRetrying

if TYPE_CHECKING:
    from pytest_workflow import WorkflowFaults, WorkflowHarness


@pytest.fixture(autouse=True)
def api(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(example, "api", example.LocalApi())


def test_users_and_posts_are_counted(workflow: WorkflowHarness) -> None:
    result = workflow.run("api-workflow")
    assert result.output == {"users": 2, "posts": 3}
    history = workflow.history(result)
    history.assert_order("fetch-users", "fetch-posts", "completion-log")
    history.assert_slept("process-delay", 1_000)


def test_a_refused_call_is_retried(workflow: WorkflowHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(example, "api", example.LocalApi(503, 429))
    result = workflow.run("api-workflow")
    assert workflow.history(result).of("fetch-users") == [
        StepFailed(attempt=1, error="ApiError", message="API returned 503"),
        StepRetrying(backoff_ms=2_000),
        StepFailed(attempt=2, error="ApiError", message="API returned 429"),
        StepRetrying(backoff_ms=4_000),
        StepCompleted(attempt=3),
    ]


def test_an_api_that_stays_down_fails_the_workflow(workflow: WorkflowHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(example, "api", example.LocalApi(*[500] * 5))
    result = workflow.run("api-workflow")
    assert result.status == "failed"
    workflow.history(result).assert_attempts("fetch-users", 5)
    workflow.history(result).assert_never_ran("fetch-posts")


def test_a_panic_keeps_the_users(workflow: WorkflowHarness, workflow_faults: WorkflowFaults) -> None:
    workflow_faults.panic("fetch-posts", "out of memory")
    result = workflow.run("api-workflow")
    assert result.status == "completed"
    history = workflow.history(result)
    history.assert_panicked("out of memory")
    history.assert_restarts(1)
    history.assert_attempts("fetch-users", 1)
