"""Uses the harness as a typed test suite does; read by ``mypy --strict`` and never run."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, assert_type

from pytest_workflow import (
    Call,
    Calls,
    Event,
    ExecutionCompleted,
    History,
    Sleep,
    StepCompleted,
    StepFailed,
    VirtualClock,
    WorkflowDatabase,
    WorkflowFaults,
    WorkflowHarness,
    WorkflowSpy,
    WorkflowStuckError,
    normalized,
)
from pytest_workflow.database import Row
from pytest_workflow.faults import ArmedFault
from workflow_core import ExecutionResult, PanicConfig, RetryConfig, Workflow, WorkflowContext, WorkflowEngine

if TYPE_CHECKING:
    from collections.abc import Sequence

    from syrupy.assertion import SnapshotAssertion


@Workflow.define("typed")
async def typed(ctx: WorkflowContext[dict[str, int]]) -> int:
    """A handler keeps its type when it is defined."""
    assert_type(ctx.input, dict[str, int])
    number = await ctx.step("number", lambda: ctx.input["number"])
    assert_type(number, int)
    await ctx.sleep("nap", timedelta(seconds=1))
    return number


def test_workflow(workflow: WorkflowHarness) -> None:
    """The synchronous methods."""
    result = workflow.run(
        "typed",
        input={"number": 1},
        execution_id="t-1",
        retry_config=RetryConfig(max_attempts=2),
        panic_config=PanicConfig(enable_auto_restart=False),
    )
    assert_type(result, ExecutionResult)
    assert_type(workflow.run("typed", "t-2", {"number": 2}, {"max_attempts": 2}, detach=True), ExecutionResult)
    for method in (workflow.wait, workflow.restart, workflow.resume, workflow.cancel, workflow.status):
        assert_type(method("t-1"), ExecutionResult)
    assert_type(workflow.run("typed", until="number"), ExecutionResult)
    assert_type(workflow.wait("t-1", until=StepFailed("number")), ExecutionResult)
    assert_type(workflow.wait("t-1", until=StepFailed), ExecutionResult)
    assert_type(workflow.engine, WorkflowEngine)
    assert_type(workflow.reopen(), WorkflowEngine)
    assert_type(workflow.history(result), History)
    assert_type(workflow.history("t-1"), History)


async def test_asynchronous(workflow: WorkflowHarness, workflow_clock: VirtualClock) -> None:
    """The asynchronous ones."""
    assert_type(await workflow.start("typed", input={"number": 1}), ExecutionResult)
    assert_type(await Workflow.start("typed", input={"number": 1}), ExecutionResult)
    await workflow_clock.advance(timedelta(minutes=1))


def test_clock(workflow_clock: VirtualClock) -> None:
    """Virtual time."""
    assert_type(workflow_clock.now(), datetime)
    assert_type(workflow_clock.sleeps, list[Sleep])
    assert_type(workflow_clock.sleeps[0].ms, int)
    workflow_clock.advance(1_000)
    with workflow_clock.outside_work():
        pass


def test_database(workflow_db: WorkflowDatabase) -> None:
    """Rows are dictionaries."""
    rows = workflow_db.query("SELECT * FROM steps WHERE step_id = ?", "number")
    assert_type(rows, list[Row])
    for more in (workflow_db.executions(), workflow_db.steps("t"), workflow_db.step_errors("t")):
        assert_type(more, list[Row])
    assert_type(workflow_db.circuit_breakers(), list[Row])


def test_spy(workflow_spy: WorkflowSpy) -> None:
    """Calls and assertions."""
    assert_type(workflow_spy.calls, Calls)
    assert_type(workflow_spy.of("n*", workflow="typed"), Calls)
    assert_type(workflow_spy.calls[0], Call)
    assert_type([call.started_at for call in workflow_spy], list[datetime])
    workflow_spy.assert_called("number", times=1)
    workflow_spy.assert_called_with("number", amount=1)
    workflow_spy.assert_order("number", ("t-1", "number"))


def test_snapshot(workflow: WorkflowHarness, workflow_snapshot: SnapshotAssertion) -> None:
    """A whole history."""
    history = workflow.history("t-1")
    assert workflow_snapshot == history
    assert normalized(history, hide={"a": "b"})[0]["event"] == "ExecutionStarted"


def test_faults(workflow_faults: WorkflowFaults) -> None:
    """Every kind of rule."""
    assert_type(workflow_faults.fail("number", ValueError("no"), attempts=[1, 2]), ArmedFault)
    workflow_faults.fail("number", ValueError, {1}, strict=False)
    workflow_faults.panic("number", "out of memory")
    workflow_faults.delay("number", 500)
    workflow_faults.returns("number", 1)
    workflow_faults.calls("number", lambda: 1)
    workflow_faults.open_circuit("number", workflow="typed")
    workflow_faults.half_open_circuit("number", occurrence=2)
    workflow_faults.panic("number", MemoryError)
    workflow_faults.timeout("number", [1])
    workflow_faults.crash("step_completed", "number", "before")
    workflow_faults.storage_error("step_completed", "disk I/O error", occurrence=None)
    workflow_faults.corrupt_result("number", "{")
    workflow_faults.jump_clock(-3_600_000, "number")
    assert_type(workflow_faults.add(workflow_faults.plan), list[ArmedFault])


def test_history(workflow: WorkflowHarness) -> None:
    """Comparisons and named assertions."""
    history = workflow.history("t-1")
    events: Sequence[Event] = history
    assert_type(history[0], Event)
    assert_type(history[:2], History)
    assert_type(history.of("number"), History)
    assert events == [StepFailed(attempt=1, error="ValueError"), StepCompleted(attempt=2), ExecutionCompleted]
    history.assert_backoff("number", [1_000])
    history.assert_completed("number")
    history.assert_order("number", "nap")
    error: AssertionError = WorkflowStuckError("stuck")
    raise error
