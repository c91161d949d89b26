"""Defects planted in what a recovered engine does, which the rows of a database alone would not show."""

import asyncio
import contextlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from pytest_workflow.history_invariants import waits_are_kept
from pytest_workflow.invariants import Comparison
from pytest_workflow.observation import Observation
from workflow_core import StorageError
from workflow_core.attempts import StepRun
from workflow_core.database import parts
from workflow_core.database.sqlite import SQLiteStore
from workflow_core.execution import Execution

RETRY = {"max_attempts": 4}


async def order(ctx):
    paid = await ctx.step("charge", lambda: "paid").with_circuit_breaker(5, 3_000)
    await ctx.sleep("settle", 60_000)
    return await ctx.step("ship", lambda: f"{paid} and shipped")


def scenario(workflow, workflow_faults):
    workflow.define("watched-order", order)
    workflow_faults.fail("charge", ConnectionError("503"), attempts=[1])
    workflow_faults.panic("ship")
    assert workflow.run("watched-order", "o-1", None, RETRY, timeout_ms=900_000).output == "paid and shipped"


@pytest.fixture
def recovered(monkeypatch):
    """Tells how often an execution was recovered in the run under way."""
    times = [0]
    started, original = SQLiteStore.execution_started, SQLiteStore.execution_recovered

    async def execution_started(store, *args):
        times[0] = 0
        return await started(store, *args)

    async def execution_recovered(store, *args):
        times[0] += 1
        return await original(store, *args)

    monkeypatch.setattr(SQLiteStore, "execution_started", execution_started)
    monkeypatch.setattr(SQLiteStore, "execution_recovered", execution_recovered)
    return lambda: times[0] > 0


@pytest.fixture
def broken(workflow_crashes):
    def explore(scenario=scenario):
        report = workflow_crashes.explore(scenario, check=False)
        return {name for failure in report.failures for name, _ in failure.violations}

    return explore


def after_recovery(monkeypatch, sql):
    """Let each recovery run a statement."""
    original = SQLiteStore.execution_recovered

    async def careless(store, lease, *args):
        lease = await original(store, lease, *args)
        store.connection.execute(sql)
        return lease

    monkeypatch.setattr(SQLiteStore, "execution_recovered", careless)


def waiting(monkeypatch, recovered, what, more_ms):
    """Let a recovered execution wait for another moment than the recorded one; with ``None``, for none."""
    original = Execution.wait_until

    async def careless(execution, moment_ms, reason):
        if recovered() and reason.startswith(what):
            if more_ms is None:
                return
            moment_ms += more_ms
        await original(execution, moment_ms, reason)

    monkeypatch.setattr(Execution, "wait_until", careless)


def test_nothing_is_found_without_a_defect(workflow_crashes):
    assert workflow_crashes.explore(scenario).ok


@pytest.mark.parametrize(("what", "more_ms"), [("sleep", 60_000), ("sleep", None), ("back-off", 1), ("back-off", None)])
def test_waits_that_a_recovery_makes_longer_or_leaves_out(broken, monkeypatch, recovered, what, more_ms):
    waiting(monkeypatch, recovered, what, more_ms)
    assert "waits are kept" in broken()


def test_attempts_that_a_recovery_gives_back(broken, monkeypatch):
    after_recovery(monkeypatch, "UPDATE steps SET attempt = 0, revision = revision + 1 WHERE status <> 'completed'")
    assert "attempts go up by one" in broken()


def test_errors_that_a_recovery_loses(broken, monkeypatch):
    after_recovery(monkeypatch, "DELETE FROM step_errors")
    assert "errors are kept" in broken()


def test_errors_that_are_not_recorded_after_a_recovery(broken, monkeypatch, recovered):
    original = parts.insert_error
    monkeypatch.setattr(parts, "insert_error", lambda *args: None if recovered() else original(*args))
    assert "errors are kept" in broken()


def test_an_interruption_that_the_history_does_not_tell(broken, monkeypatch):
    original = parts.log_event

    def careless(connection, execution_id, seq, kind, *args, **more):
        kind = "StepRetrying" if kind == "StepInterrupted" else kind
        original(connection, execution_id, seq, kind, *args, **more)

    monkeypatch.setattr(parts, "log_event", careless)
    assert "the history is whole" in broken()


def test_an_event_that_is_told_as_another(broken, monkeypatch, recovered):
    original = parts.log_event

    def careless(connection, execution_id, seq, kind, *args, **more):
        kind = "ExecutionCancelled" if recovered() and kind == "ExecutionPanicked" else kind
        original(connection, execution_id, seq, kind, *args, **more)

    monkeypatch.setattr(parts, "log_event", careless)
    assert "the history tells the same" in broken()


def test_a_probe_that_nobody_makes(broken, monkeypatch, recovered):
    original = parts.upsert_circuit

    def careless(connection, workflow_name, step_id, state):
        if recovered():
            state = replace(state, probe_execution_id="o-1", probe_expires_at=1)
        original(connection, workflow_name, step_id, state)

    monkeypatch.setattr(parts, "upsert_circuit", careless)
    assert "circuits are kept" in broken()


@pytest.mark.parametrize(
    "change",
    [
        "deadline_at = NULL",
        "retry_config = '{}'",
        "panic_config = '{}'",
    ],
)
def test_what_a_recovery_forgets_of_an_execution(broken, monkeypatch, change):
    after_recovery(monkeypatch, f"UPDATE executions SET {change}, revision = revision + 1")
    assert "the outcome is the same" in broken()


def test_a_completed_execution_that_keeps_its_owner_and_an_error(broken, monkeypatch, recovered):
    original = SQLiteStore.execution_completed

    async def careless(store, *args):
        await original(store, *args)
        if recovered():
            store.connection.execute(
                'UPDATE executions SET owner_id = \'me\', error_data = \'{"type": "E", "message": "m"}\', revision = 9'
            )

    monkeypatch.setattr(SQLiteStore, "execution_completed", careless)
    assert "the outcome is the same" in broken()


def test_a_step_whose_completion_is_never_written(broken, monkeypatch):
    original = StepRun._complete

    async def careless(run, text, handled_by):
        if run.record.step_id == "charge":
            run.leave_body()
            run.record.status, run.record.result_data = "completed", text
        else:
            await original(run, text, handled_by)

    def calm(workflow):
        workflow.define("watched-order", order)
        workflow.run("watched-order", "o-1")

    monkeypatch.setattr(StepRun, "_complete", careless)
    assert "every result is recorded" in broken(calm)


# No false alarms -----------------------------------------------------------------------------------------------------


def test_a_refused_write_beside_another_step_is_no_defect(workflow_crashes):
    async def both(ctx):
        return list(await asyncio.gather(ctx.step("a", lambda: 1), ctx.step("b", lambda: 2)))

    def refused(workflow, workflow_faults):
        workflow.define("both", both)
        workflow_faults.storage_error("step_completed", step_id="a")
        with contextlib.suppress(StorageError):  # a process that dies meanwhile tells nobody of it
            workflow.run("both", "e-1")
        if workflow.status("e-1").status != "completed":
            workflow.resume("e-1")

    report = workflow_crashes.explore(refused)
    assert report.baseline.events["e-1"][-1]["seq"] > len(
        report.baseline.events["e-1"]
    )  # the refused one took a number


def test_a_clock_that_is_set_back_is_no_defect(workflow_crashes):
    def jumping(workflow, workflow_faults):
        workflow.define("watched-order", order)
        workflow_faults.jump_clock(-3_600_000, "ship")
        assert workflow.run("watched-order", "o-1").status == "completed"

    assert workflow_crashes.explore(jumping).ok


def test_a_last_attempt_that_is_cut_off_fails_as_another(workflow_crashes):
    async def declined(ctx):
        await ctx.step("charge", lambda: 1 / 0).with_retry(max_attempts=1)

    def failing(workflow):
        workflow.define("declined", declined)
        assert workflow.run("declined", "e-1").status == "failed"
        assert workflow.restart("e-1").status == "failed"

    assert workflow_crashes.explore(failing).ok


def test_steps_that_handlers_ask_for(workflow_crashes):
    async def asking(ctx):
        async def ask(error, ctx):
            return await ctx.step("inner", lambda: 3)

        first = await ctx.step("outer", lambda: {}["k"]).on_error({KeyError: ask})
        try:
            await asyncio.wait_for(ctx.step("slow", lambda: asyncio.sleep(50)), 10)
        except TimeoutError:
            return first + await ctx.step("plan-b", lambda: 2)

    def scenario(workflow):
        workflow.define("asking", asking)
        assert workflow.run("asking", "e-1").output == 5

    assert workflow_crashes.explore(scenario).ok


def test_a_wait_that_nothing_records():
    moment = datetime(2025, 1, 1, tzinfo=UTC) + timedelta(seconds=1)
    seen = Observation(waits=[int(moment.timestamp() * 1_000)])
    assert list(waits_are_kept(Comparison(seen, Observation()))) == [
        "the engine waited until 2025-01-01T00:00:01+00:00, and no wait that ends then is recorded"
    ]
