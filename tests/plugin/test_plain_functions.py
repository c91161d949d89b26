"""Plain functions as steps: a test sees what production sees, although they run inline."""

from __future__ import annotations

import asyncio
import time

import pytest

from pytest_workflow.harness import HARNESS_SETTINGS
from workflow_core import WorkflowEngine
from workflow_core.database.sqlite import SQLiteStore


@pytest.fixture(params=["harness", "production"])
def run(request, workflow):
    """Run a workflow under the harness, or on an engine as production has it."""
    engine = WorkflowEngine(SQLiteStore())

    def run_in_production(name):
        engine.define(name, workflow.engine.definition(name).handler)
        return engine.run(name)

    yield workflow.run if request.param == "harness" else run_in_production
    engine.close()


def test_one_id_at_the_same_time_is_a_conflict(run, workflow):
    @workflow.define("twice")
    async def twice(ctx):
        return await asyncio.gather(*(ctx.step("a", lambda n=n: n) for n in range(3)))

    result = run("twice")
    assert (result.status, result.error.type) == ("failed", "StepConflictError")


@pytest.mark.parametrize("ending", ["returns", "raises"])
def test_a_function_that_takes_too_long_times_out(workflow, workflow_clock, ending):
    @workflow.define("slow")
    async def slow(ctx):
        def work():
            time.sleep(10)
            if ending == "raises":
                raise ValueError("late")

        await ctx.step("a", work, timeout_ms=1_000)

    result = workflow.run("slow", retry_config={"max_attempts": 1})
    assert (result.status, result.error.type) == ("failed", "StepTimeoutError")
    assert workflow_clock.monotonic() == 10


def test_a_function_that_is_in_time_does_not_time_out(workflow, workflow_clock):
    workflow.define("quick", lambda ctx: ctx.step("a", lambda: time.sleep(0.999) or "done", timeout_ms=1_000))
    assert workflow.run("quick").output == "done"
    assert workflow_clock.monotonic() == 0.999


def test_an_execution_that_takes_too_long_ends_after_the_function(workflow):
    workflow.define("slow", lambda ctx: ctx.step("a", lambda: time.sleep(10)))
    result = workflow.run("slow", timeout_ms=1_000)
    assert (result.status, result.error.type) == ("failed", "WorkflowTimeoutError")


class TestInThreads:
    @pytest.fixture
    def workflow_settings(self):
        return HARNESS_SETTINGS.model_copy(update={"sync_handlers": "thread"})

    def test_functions_sleep_at_the_same_time(self, workflow, workflow_clock):
        @workflow.define("three")
        async def three(ctx):
            return await asyncio.gather(*(ctx.step(f"part-{n}", lambda: time.sleep(5)) for n in range(3)))

        assert workflow.run("three").status == "completed"
        assert workflow_clock.monotonic() == 5
