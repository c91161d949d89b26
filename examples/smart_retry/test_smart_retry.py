"""Transient and permanent errors: the example on the harness."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from examples.smart_retry.workflow import Api, ApiError

if TYPE_CHECKING:
    from pytest_workflow import WorkflowHarness


def failing(code: str, times: int) -> object:
    left = [code] * times

    async def call() -> str:
        if left:
            raise ApiError(left.pop())
        return "data"

    return staticmethod(call)


@pytest.mark.parametrize("code", ["NETWORK_ERROR", "TIMEOUT"])
def test_a_transient_error_is_retried(workflow: WorkflowHarness, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    monkeypatch.setattr(Api, "call", failing(code, 2))
    result = workflow.run("smart-retry")
    assert result.output == "data"
    workflow.history(result).assert_attempts("api-call", 3)


@pytest.mark.parametrize("code", ["INVALID_AUTH", "NOT_FOUND"])
def test_a_permanent_error_is_not(workflow: WorkflowHarness, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    monkeypatch.setattr(Api, "call", failing(code, 1))
    result = workflow.run("smart-retry")
    assert result.status == "failed"
    workflow.history(result).assert_attempts("api-call", 1)
