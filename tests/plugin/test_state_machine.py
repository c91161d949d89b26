"""Stateful tests of workflows: sound engines pass, planted defects are found and shrunk."""

import asyncio

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import rule, run_state_machine_as_test

from pytest_workflow.state_machine import WorkflowStateMachine
from workflow_core import Workflow, WorkflowContext
from workflow_core.database.sqlite import SQLiteStore

QUICK = settings(
    deadline=None,
    database=None,
    derandomize=True,
    max_examples=40,
    stateful_step_count=15,
    phases=[Phase.generate, Phase.shrink],
)


@Workflow.define("stated-order")
async def order(ctx: WorkflowContext[int]):
    paid = await ctx.step("charge", lambda: ctx.input)
    await ctx.sleep("settle", 60_000)
    await asyncio.gather(ctx.step("ship", lambda: 1), ctx.step("tell", lambda: 2))
    return paid


class Orders(WorkflowStateMachine):
    workflow = "stated-order"

    @rule()
    def carrier_is_down(self):
        self.faults.fail("ship", ConnectionError("down"), attempts=[1], strict=False)

    @rule()
    def out_of_memory(self):
        self.faults.panic("tell", strict=False)

    def check_result(self, result):
        assert result.status != "completed" or result.output == result.input


TestOrders = Orders.TestCase
TestOrders.settings = QUICK


def failure_of(machine, expected, phases=QUICK.phases):
    with pytest.raises(AssertionError, match=expected) as caught:
        run_state_machine_as_test(machine, settings=settings(QUICK, phases=phases))
    steps = [line for line in caught.value.__notes__ if "state." in line]
    return [line.strip() for line in "\n".join(steps).splitlines() if "what_is_durable" not in line]


def test_recovery_that_begins_sleeps_anew(monkeypatch):
    original = SQLiteStore.execution_recovered

    async def sleepy(store, lease, *args):
        store.connection.execute(
            "UPDATE steps SET wake_time = wake_time + 500, revision = revision + 1 WHERE status = 'sleeping'"
        )
        return await original(store, lease, *args)

    monkeypatch.setattr(SQLiteStore, "execution_recovered", sleepy)
    steps = failure_of(Orders, 'sleeps are kept: sleep "settle" of "e-1"')
    assert [step for step in steps if step.startswith("state.")] == [
        "state.start(given=0)",
        "state.advance(ms=0)",
        "state.reopen()",
        "state.teardown()",
    ]


def test_recovery_that_forgets_results(monkeypatch):
    original = SQLiteStore.unfinished_executions

    async def forgetful(store, *args):
        store.connection.execute(
            "UPDATE steps SET status = 'pending', attempt = 0, started_seq = NULL, completed_seq = NULL, revision ="
            " revision + 1 WHERE kind = 'step' AND status = 'completed'"
        )
        return await original(store, *args)

    monkeypatch.setattr(SQLiteStore, "unfinished_executions", forgetful)
    expected = 'a result never changes: step "charge" of "e-1"|a completed step never runs again'
    failure_of(Orders, expected, [Phase.generate])


def test_an_execution_that_is_never_taken_up_again(monkeypatch):
    async def none(store, *args):
        return []

    monkeypatch.setattr(SQLiteStore, "unfinished_executions", none)
    failure_of(Orders, "nothing is stuck: Execution .* no process runs it", [Phase.generate])


def test_a_result_of_the_users_own():
    class Sevens(Orders):
        inputs = st.just(7)

        def check_result(self, result):
            assert result.output != 7, "seven"

    assert "state.start(given=7)" in failure_of(Sevens, "seven")


def test_a_database_that_refused_is_no_defect():
    class Full(Orders):
        @rule(point=st.sampled_from(["step_started", "step_completed", "sleep_started"]))
        def disk_is_full(self, point):
            self.faults.storage_error(point, "database or disk is full", strict=False)

    run_state_machine_as_test(Full, settings=QUICK)


def test_a_machine_without_a_workflow():
    class Nameless(WorkflowStateMachine):
        pass

    with pytest.raises(TypeError, match="Nameless names no workflow: set workflow"):
        run_state_machine_as_test(Nameless, settings=QUICK)
