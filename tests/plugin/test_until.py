"""`until`: an execution stops at a place, and nothing moves before the test goes on."""

from __future__ import annotations

import asyncio
import functools
import time

import pytest

from pytest_workflow import (
    ExecutionRecovered,
    ExecutionRestarted,
    ExecutionStarted,
    SleepStarted,
    StepCompleted,
    StepFailed,
    StepRetrying,
    StepStarted,
    VirtualClock,
    WorkflowStuckError,
)
from workflow_core import ExecutionNotFoundError, ValidationError, hookimpl

pytest_plugins = ["pytester"]


@pytest.fixture
def ran(workflow):
    """What the workflow `flow` has done: steps before, beside and after each other, and a sleep."""
    ran = []

    @workflow.define("flow")
    async def flow(ctx):
        ran.append("begin")
        await ctx.step("a", lambda: ran.append("a"))
        ran.append("after a")
        await asyncio.gather(*(ctx.step(name, lambda name=name: ran.append(name)) for name in ("p-1", "p-2", "p-3")))
        await ctx.sleep("nap", 60_000)
        ran.append("after nap")
        await ctx.step("z", lambda: ran.append("z"))

    return ran


def test_the_code_after_the_step_has_not_run(workflow, workflow_db, ran):
    result = workflow.run("flow", "x", until="a")
    assert ran == ["begin", "a"]
    assert (result.status, result.steps["a"].status) == ("running", "completed")
    assert workflow.history("x")[-1] == StepCompleted("a")
    assert workflow_db.query("SELECT step_id, status FROM steps") == [{"step_id": "a", "status": "completed"}]


def test_nothing_moves_before_the_test_goes_on(workflow, ran):
    workflow.run("flow", "x", until="a")
    for _ in range(3):
        workflow.status("x")
    assert ran == ["begin", "a"]
    assert workflow.wait("x").status == "completed"
    assert ran[2] == "after a"


@pytest.mark.parametrize(("until", "done"), [("p-1", ["p-1"]), ("p-2", ["p-1", "p-2"]), ("p-*", ["p-1"])])
def test_parallel_steps_stop_as_well(workflow, ran, until, done):
    workflow.run("flow", "x", until=until)
    assert ran == ["begin", "a", "after a", *done]


def test_a_stop_changes_nothing_of_what_happens(workflow, ran):
    whole = workflow.history(workflow.run("flow", "whole"))
    ran_whole = list(ran)
    ran.clear()
    workflow.run("flow", "x", until="running")
    for event in whole:
        workflow.wait("x", until=event.__class__(**event.named_fields()))
    assert workflow.wait("x").status == "completed"
    assert ran == ran_whole
    assert [(type(event), event.named_fields()) for event in workflow.history("x")] == [
        (type(event), event.named_fields()) for event in whole
    ]


def test_the_time_at_the_stop_is_that_of_the_event(workflow, workflow_clock, ran):
    assert workflow.run("flow", "x", until="sleeping").status == "sleeping"
    assert workflow_clock.monotonic() == 0
    assert [wait.step_id for wait in workflow_clock.sleeps] == ["nap"]
    workflow.wait("x", until="nap")
    assert workflow_clock.monotonic() == 60
    assert ran[-1] == "p-3"
    assert workflow.history("x")[-1].at == workflow_clock.now()


def test_running_stops_before_anything_runs(workflow, ran):
    assert workflow.run("flow", "x", until="running").status == "running"
    assert ran == []
    assert workflow.wait("x", until=ExecutionStarted).steps == {}
    assert workflow.wait("x").status == "completed"


def test_a_place_that_was_passed_stops_at_once(workflow, ran):
    workflow.run("flow", "x", until="a")
    before = workflow.history("x")
    for until in ("a", "running", StepStarted("a"), ExecutionStarted):
        workflow.wait("x", until=until)
    assert workflow.history("x") == before
    assert workflow.run("flow", "x", until="completed").status == "completed"
    assert workflow.wait("x", until="p-2").status == "completed"


def test_the_test_goes_on_by_advancing_time(workflow, workflow_clock, ran):
    workflow.run("flow", "x", until="p-1")
    workflow_clock.advance(59_000)
    assert workflow.status("x").status == "sleeping"
    workflow_clock.advance(1_000)
    assert workflow.status("x").status == "completed"


def test_whatever_runs_the_clock_lets_all_executions_go_on(workflow, workflow_clock, ran):
    workflow.run("flow", "x", until="a")
    assert workflow.run("flow", "y", until="sleeping").status == "sleeping"
    assert workflow.status("x").status == "sleeping"
    assert workflow_clock.monotonic() == 0
    assert workflow.wait("x").status == workflow.wait("y").status == "completed"


@pytest.mark.parametrize(
    ("until", "last", "handled"),
    [
        (StepFailed("f"), StepFailed("f", attempt=1), 0),
        (StepFailed("f", attempt=2), StepFailed("f", attempt=2), 1),
        (StepRetrying, StepRetrying(attempt=1), 1),
        (StepStarted("f", attempt=2), StepStarted("f", attempt=2), 1),
    ],
)
def test_events(workflow, workflow_faults, until, last, handled):
    seen = []

    def handle(error, ctx):
        seen.append(error)
        raise error

    workflow.define("failing", lambda ctx: ctx.step("f", lambda: 1).catch(handle))
    workflow_faults.fail("f", ValueError("no"), attempts=[1, 2])
    workflow.run("failing", "x", until=until)
    assert workflow.history("x")[-1] == last
    assert len(seen) == handled
    assert workflow.wait("x").status == "completed"


def test_panicked_and_restarted(workflow, workflow_faults, workflow_clock, ran):
    workflow_faults.panic("z")
    assert workflow.run("flow", "x", until="panicked").error.indicator == "out of memory"
    assert workflow.wait("x", until=ExecutionRestarted).status == "restarting"
    assert workflow_clock.monotonic() == 65
    assert ran.count("begin") == 1
    assert workflow.wait("x").restart_attempt == 2


def test_panicked_for_good(workflow, workflow_faults, ran):
    workflow_faults.panic("a")
    config = {"enable_auto_restart": False}
    assert workflow.run("flow", "x", panic_config=config, until="panicked").status == "panicked"
    assert workflow.restart("x").status == "completed"


def test_a_crash_at_the_stop(workflow, workflow_clock, ran):
    workflow.run("flow", "x", until="p-1")
    workflow.reopen()
    assert workflow.wait("x", until=ExecutionRecovered).status in {"running", "sleeping"}
    assert workflow.wait("x", until="nap").status == "running"
    assert ran.count("p-1") == ran.count("p-2") == 1
    assert ran.count("after nap") == 0
    assert workflow.wait("x").status == "completed"


def test_an_injected_crash_before_the_stop(workflow, workflow_faults, ran):
    workflow_faults.crash("step_completed", "a")
    workflow.run("flow", "x", until="p-1")
    assert ran == ["begin", "a", "begin", "after a", "p-1"]
    assert workflow.wait("x").status == "completed"


def test_cancelled_at_the_stop(workflow, ran):
    workflow.run("flow", "x", until="p-1")
    assert workflow.cancel("x").status == "cancelled"
    assert "after nap" not in ran
    assert "p-3" not in ran


def test_resumed_and_joined_at_the_stop(workflow, ran):
    workflow.run("flow", "x", until="a")
    assert workflow.resume("x").status == "completed"
    assert workflow.run("flow", "x").status == "completed"


@pytest.mark.workflow_clock(manual=True)
def test_a_manual_clock(workflow, workflow_clock, ran):
    workflow.run("flow", "x", until=SleepStarted)
    with pytest.raises(WorkflowStuckError, match="manual mode"):
        workflow.wait("x", until="nap")
    workflow_clock.advance(60_000)
    assert workflow.status("x").status == "completed"


def test_a_test_may_end_at_the_stop(pytester, run_within):
    pytester.makepyfile(
        """
        import asyncio
        import pytest

        @pytest.mark.parametrize("until", ["running", "p", "q", "sleeping"])
        def test_it(workflow, until):
            @workflow.define("flow")
            async def flow(ctx):
                await asyncio.gather(ctx.step("p", lambda: 1), ctx.step("q", lambda: 2))
                await ctx.sleep("nap", 1_000)

            workflow.run("flow", until=until)

        @pytest.mark.asyncio
        @pytest.mark.parametrize("until", ["running", "p", "q", "sleeping"])
        async def test_asynchronous(workflow, until):
            @workflow.define("flow")
            async def flow(ctx):
                await asyncio.gather(ctx.step("p", lambda: 1), ctx.step("q", lambda: 2))
                await ctx.sleep("nap", 1_000)

            await workflow.start("flow", until=until)
        """
    )
    result = run_within("-W", "error")
    result.assert_outcomes(passed=8)


# Never reached -------------------------------------------------------------------------------------------------------


def test_never_reached(workflow, workflow_faults, ran):
    workflow_faults.fail("z", ValueError("no"))
    with pytest.raises(AssertionError) as raised:
        workflow.run("flow", "x", until="settle")
    lines = str(raised.value).splitlines()
    assert lines[:5] == [
        "execution \"x\" is failed and was never at until='settle'",
        "error: ValueError: no",
        "completed: a, p-1, p-2, p-3, nap",
        "begun, but not completed: z",
        'history of "x" (flow)',
    ]
    assert "ExecutionFailed" in lines[-1]


@pytest.mark.parametrize("until", ["failed", "panicked", "cancelled", StepFailed, StepCompleted("a", attempt=2)])
def test_other_places_that_are_never_reached(workflow, ran, until):
    with pytest.raises(AssertionError, match='execution "x" is completed and was never at until='):
        workflow.run("flow", "x", until=until)


def test_a_failing_assertion_in_the_workflow_is_the_tests_own(workflow):
    def check():
        assert 1 + 1 == 3, "arithmetic"

    workflow.define("wrong", lambda ctx: ctx.step("check", check))
    for until in ("failed", "check"):
        with pytest.raises(AssertionError, match="arithmetic"):
            workflow.run("wrong", until=until)


def test_a_deadlock_before_the_place(workflow):
    @workflow.define("stuck")
    async def stuck(ctx):
        await asyncio.Event().wait()

    with pytest.raises(WorkflowStuckError):
        workflow.run("stuck", until="a")


@pytest.mark.parametrize("until", ["", 7, object, ["a"]])
def test_what_names_no_place(workflow, workflow_db, ran, until):
    with pytest.raises(ValidationError, match="until takes a status"):
        workflow.run("flow", "x", until=until)
    assert workflow_db.executions() == []
    workflow.run("flow", "x")
    with pytest.raises(ValidationError, match="until takes a status"):
        workflow.wait("x", until=until)


def test_detach_and_until_exclude_each_other(workflow, ran):
    with pytest.raises(ValidationError, match="detach"):
        workflow.run("flow", detach=True, until="a")


def test_an_execution_that_is_not_there(workflow, ran):
    with pytest.raises(ExecutionNotFoundError):
        workflow.wait("x", until="a")


# Asynchronous tests --------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_asynchronous(workflow, workflow_clock, ran):
    result = await workflow.start("flow", "x", until="p-1")
    assert result.steps["p-1"].status == "completed"
    assert ran == ["begin", "a", "after a", "p-1"]
    await asyncio.sleep(0)
    assert ran[-1] == "p-1"
    await asyncio.sleep(1)
    assert ran[-1] == "p-3"
    assert (await workflow.reach("x", "nap")).status == "running"
    assert (workflow_clock.monotonic(), ran[-1]) == (60, "p-3")
    assert (await workflow.engine.wait("x")).status == "completed"


@pytest.mark.asyncio
async def test_two_tasks_wait_for_the_same_place(workflow, ran):
    await workflow.start("flow", "x", until="running")
    both = await asyncio.gather(workflow.reach("x", "a"), workflow.reach("x", "*"))
    assert [result.steps["a"].status for result in both] == ["completed", "completed"]
    assert (await workflow.engine.wait("x")).status == "completed"


@pytest.mark.asyncio
async def test_the_hold_ends_before_time_moves(workflow, workflow_clock, ran):
    await workflow.start("flow", "x", until="a")
    seen = []
    asyncio.get_running_loop().call_later(0.001, lambda: seen.append(list(ran)))
    await workflow_clock.advance(1)
    assert seen == [["begin", "a", "after a", "p-1", "p-2", "p-3"]]


def test_other_watchers_are_told_before_the_stop(workflow, ran):
    told = []

    class Watcher:
        @hookimpl
        def on_event(self, event):
            told.append(type(event).__name__)

    workflow.engine.register(Watcher())
    workflow.run("flow", "x", until="a")
    assert told == ["ExecutionStarted", "StepStarted", "StepCompleted"]


def test_a_clock_that_lets_go_of_a_loop_gives_back_what_it_set_aside():
    clock, loop = VirtualClock(), asyncio.SelectorEventLoop()
    clock.attach(loop)

    async def other():
        return 42

    async def main():
        task = asyncio.ensure_future(other())
        clock.pause()
        return task

    task = loop.run_until_complete(main())
    assert not task.done()
    clock.detach()
    for _ in range(3):
        loop.run_until_complete(asyncio.sleep(0))
    assert task.done()
    loop.close()


@pytest.mark.workflow_crash_everywhere
@pytest.mark.parametrize("until", ["running", "a", "p-1", "sleeping"])
def test_the_process_may_die_everywhere(workflow, ran, until):
    workflow.run("flow", "x", until=until)
    assert workflow.wait("x").status == "completed"


def test_steps_in_threads_and_task_groups(workflow, workflow_clock):
    @workflow.define("threads")
    async def threads(ctx):
        async with asyncio.timeout(5), asyncio.TaskGroup() as group:
            for seconds in (1, 2, 3):
                body = functools.partial(asyncio.to_thread, time.sleep, seconds)
                group.create_task(ctx.step(f"s-{seconds}", body).execute())

    for seconds in (1, 2, 3):
        result = workflow.run("threads", "x", until=f"s-{seconds}")
        assert workflow_clock.monotonic() == seconds
        assert [step.status for step in result.steps.values()].count("completed") == seconds
    assert workflow.wait("x").status == "completed"
