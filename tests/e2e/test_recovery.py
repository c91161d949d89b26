"""What a new process finds after the old one died at an awkward moment."""

import asyncio
import contextlib
from datetime import timedelta

import pytest

from pytest_workflow import (
    ExecutionRecovered,
    SleepCompleted,
    SleepStarted,
    StepCompleted,
    StepFailed,
    StepInterrupted,
    StepRetrying,
    StepSkipped,
    StepStarted,
)
from workflow_core import InvalidStateError, StepInterruptedError, Workflow, WorkflowError


class ServiceError(Exception):
    def __init__(self, message, code):
        super().__init__(message)
        self.code = code


def test_a_crash_in_on_open_goes_on_with_on_open(workflow, workflow_faults, workflow_clock):
    ran = []

    @Workflow.define("w")
    async def flow(ctx):
        async def queue(ctx):
            ran.append("queue")
            await ctx.sleep("politely", 90_000)
            return "queued"

        return await ctx.step("pay", lambda: ran.append("paid")).with_circuit_breaker(1, 60_000, on_open=queue)

    workflow_faults.open_circuit("pay")
    workflow.run("w", "e", detach=True)
    workflow_clock.advance(80_000)
    workflow.reopen()
    result = workflow.wait("e")
    # The circuit would let a probe through by now, but the step had begun to be skipped.
    assert result.output == "queued"
    assert ran == ["queue", "queue"]
    assert StepSkipped("pay") in list(workflow.history("e"))
    assert workflow_clock.monotonic() == 90


def test_a_step_that_failed_for_good_fails_the_same_way_when_it_is_replayed(workflow, workflow_clock):
    seen = []

    @Workflow.define("w")
    async def flow(ctx):
        async def charge():
            raise ServiceError("declined", 402)

        async def translate(error, ctx):
            raise ServiceError("no method left", 500) from error

        try:
            await ctx.step("charge", charge).catch(translate).with_retry(max_attempts=1)
        except WorkflowError as error:
            seen.append((type(error.original_error), str(error.original_error), error.original_error.code))
        await ctx.sleep("rest", 10_000)
        return seen[-1][1]

    workflow.run("w", "e", detach=True)
    workflow_clock.advance(5_000)
    workflow.reopen()
    assert workflow.wait("e").output == "no method left"
    assert seen == [(ServiceError, "no method left", 500)] * 2


def test_a_crash_between_attempts_keeps_the_rest_of_the_wait(workflow, workflow_clock, workflow_faults):
    workflow_faults.fail("call", ServiceError("down", 503), attempts=[1])

    @Workflow.define("w", retry_config={"backoff_ms": 30_000})
    async def flow(ctx):
        return await ctx.step("call", lambda: "up")

    workflow.run("w", "e", detach=True)
    workflow_clock.advance(20_000)
    assert workflow.status("e").steps["call"].status == "retrying"
    workflow.reopen()
    assert workflow.wait("e").output == "up"
    assert workflow_clock.monotonic() == 30
    assert workflow.history("e").of("call") == [
        StepFailed(attempt=1),
        StepRetrying(backoff_ms=30_000),
        StepCompleted(attempt=2),
    ]


def test_an_attempt_cut_off_by_a_crash_is_in_the_history(workflow, workflow_clock):
    @Workflow.define("w")
    async def flow(ctx):
        async def work():
            await asyncio.sleep(10)
            return ctx.attempt

        return await ctx.step("work", work)

    workflow.run("w", "e", detach=True)
    workflow_clock.advance(3_000)
    workflow.reopen()
    assert workflow.wait("e").output == 2
    history = workflow.history("e")
    assert history.of("work") == [
        StepStarted(attempt=1),
        StepInterrupted(attempt=1),
        StepStarted(attempt=2),
        StepCompleted(attempt=2),
    ]
    assert len(history.only(ExecutionRecovered)) == 1
    assert [event.seq for event in history] == list(range(1, len(history) + 1))


def test_a_panicked_execution_is_restarted_by_the_next_process(workflow, workflow_clock, workflow_faults):
    workflow_faults.panic("work")

    @Workflow.define("w")
    async def flow(ctx):
        await ctx.step("before", lambda: 1)
        return await ctx.step("work", lambda: "done")

    workflow.run("w", "e", detach=True)
    workflow_clock.advance(2_000)
    assert workflow.status("e").status == "panicked"
    workflow.reopen()
    result = workflow.wait("e")
    assert result.output == "done"
    assert workflow_clock.monotonic() == 5
    workflow.history("e").assert_attempts("before", 1)


def test_many_executions_are_recovered_at_once(workflow, workflow_clock):
    @Workflow.define("w")
    async def flow(ctx):
        await ctx.step("first", lambda: ctx.input)
        await ctx.sleep("rest", 60_000)
        return ctx.input

    for number in range(50):
        workflow.run("w", f"e{number}", number, detach=True)
    workflow_clock.advance(1_000)
    workflow.reopen()
    workflow_clock.advance(60_000)
    assert [workflow.status(f"e{number}").output for number in range(50)] == list(range(50))


def test_what_the_dead_engine_still_does_is_not_written(workflow, workflow_clock, workflow_db):
    leaked = []

    @Workflow.define("w")
    async def flow(ctx):
        async def stubborn():
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                leaked.append("cleaned up")
                with contextlib.suppress(Exception):
                    await ctx.step("in-the-grave", lambda: 1)
                raise

        await ctx.step("work", stubborn).with_retry(max_attempts=1)

    workflow.run("w", "e", detach=True)
    workflow_clock.advance(1_000)
    workflow.reopen()
    assert leaked == ["cleaned up"]
    assert [row["step_id"] for row in workflow_db.steps("e")] == ["work"]
    assert workflow.wait("e").status == "failed"


def test_waiting_for_an_execution_that_nobody_runs_is_an_error(workflow, workflow_clock):
    @Workflow.define("w")
    async def flow(ctx):
        await ctx.sleep("rest", 60_000)

    workflow.run("w", "e", detach=True)
    workflow_clock.advance(1_000)
    old = workflow.engine
    definitions, old.definitions = old.definitions, type(old.definitions)()
    workflow.reopen()  # the new process does not know the workflow, so it recovers nothing
    with pytest.raises(InvalidStateError, match="no process runs it"):
        workflow.wait("e")
    workflow.engine.definitions = definitions
    assert workflow.resume("e").status == "completed"
    assert workflow_clock.monotonic() == 60


def test_something_cancelled_inside_a_step_is_a_failed_attempt(workflow):
    @Workflow.define("w")
    async def flow(ctx):
        async def impatient():
            task = asyncio.ensure_future(asyncio.sleep(60))
            task.cancel()
            await task

        await ctx.step("work", impatient)

    result = workflow.run("w")
    assert result.status == "failed"
    assert result.error.type == StepInterruptedError.__name__
    workflow.history(result).assert_attempts("work", 3)


def test_a_step_that_the_workflow_gave_up_does_not_stay_running(workflow, workflow_db):
    @Workflow.define("w")
    async def flow(ctx):
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(ctx.step("slow", lambda: asyncio.sleep(60)).execute(), 5)
        return "went on"

    result = workflow.run("w", "e")
    assert result.output == "went on"
    assert result.steps["slow"].status == "failed"
    assert workflow_db.steps("e")[0]["status"] == "failed"
    assert workflow.status("e").steps["slow"].status == "failed"


def test_a_process_that_lost_its_lease_cannot_write(workflow, workflow_db, workflow_clock):
    @Workflow.define("w")
    async def flow(ctx):
        await ctx.sleep("rest", timedelta(seconds=10))
        await ctx.step("after", lambda: 1)

    workflow.run("w", "e", detach=True)
    workflow_clock.advance(1_000)
    # Another process takes the execution over, as it may once the lease has expired.
    workflow_db.query("UPDATE executions SET fencing_token = fencing_token + 1, revision = revision + 1")
    assert workflow.wait("e").status == "completed"  # who waits goes on with it, because nobody else does
    history = workflow.history("e")
    assert history.of("rest") == [SleepStarted(duration_ms=10_000), SleepCompleted()]  # what was lost wrote nothing
    assert history.of("after") == [StepCompleted(attempt=1)]
    assert sum(isinstance(event, ExecutionRecovered) for event in history) == 1
