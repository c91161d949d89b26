"""What is left of a process that dies, of a test that ends, and of a call that an error cuts off: nothing."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
import time

import anyio
import pytest

from pytest_workflow import VirtualClock
from pytest_workflow.environment import Environment
from workflow_core import Settings, Workflow

pytest_plugins = ["pytester"]
pytestmark = pytest.mark.timeout(30)


@pytest.fixture
def nap(workflow):
    """A workflow that says what its process is still doing after its death."""
    traces = []

    @workflow.define("nap")
    async def nap(ctx):
        traces.append("begun")
        try:
            await ctx.sleep("nap", 60_000)
        finally:
            traces.append("ending")
            if traces.count("begun") == 1:
                await WAYS_TO_LINGER[way[0]]()
                traces.append("lingered")

    way = [""]

    def begin(name):
        way[0] = name
        workflow.run("nap", "n", detach=True)
        return traces

    return begin


async def ignoring():
    while True:
        try:
            await asyncio.sleep(1)
        except asyncio.CancelledError:
            pass


async def sleeping():
    await asyncio.sleep(100)


async def for_ever():
    await asyncio.Event().wait()


async def leaving():
    await asyncio.sleep(1)
    sys.exit(3)


WAYS_TO_LINGER = {way.__name__: way for way in (ignoring, sleeping, for_ever, leaving)}


@pytest.mark.parametrize("way", WAYS_TO_LINGER)
@pytest.mark.parametrize("manual", [False, True])
def test_a_dead_process_does_not_linger(request, manual, way):
    request.node.add_marker(pytest.mark.workflow_clock(manual=manual))
    workflow, clock = request.getfixturevalue("workflow"), request.getfixturevalue("workflow_clock")
    traces = request.getfixturevalue("nap")(way)
    clock.advance(1_000)
    workflow.reopen()
    assert clock.monotonic() == 1
    clock.advance(59_000)
    assert workflow.wait("n").status == "completed"
    assert clock.monotonic() == 60
    assert "lingered" not in traces


def test_tasks_threads_and_timers_of_a_dead_process_end_with_it(workflow, workflow_clock, caplog):
    living, started = [], []

    async def child():
        while True:
            await asyncio.sleep(1)
            living.append("task")

    def job():
        time.sleep(5)
        living.append("thread")

    def borrowed():
        time.sleep(5)
        living.append("worker of anyio's")

    @workflow.define("parent")
    async def parent(ctx):
        if not started:
            loop = asyncio.get_running_loop()
            loop.call_later(5, living.append, "timer")
            started.append(asyncio.create_task(child()))
            started.append(loop.run_in_executor(None, job))
            started.append(asyncio.create_task(anyio.to_thread.run_sync(borrowed)))
        await ctx.sleep("nap", 60_000)

    workflow.run("parent", "p", detach=True)
    workflow_clock.advance(2_000)
    assert living.pop(0) == "task"
    living.clear()
    workflow.reopen()
    assert workflow.wait("p").status == "completed"
    assert living == []
    started.clear()
    gc.collect()
    assert "never retrieved" not in caplog.text


class TestThreadedHandlers:
    @pytest.fixture
    def workflow_settings(self):
        return Settings(sync_handlers="thread")

    def test_a_thread_of_a_dead_process_ends_in_its_sleep(self, workflow, workflow_clock):
        woken = []

        def doze():
            time.sleep(50)
            woken.append(workflow_clock.monotonic())

        @workflow.define("dozing")
        async def dozing(ctx):
            return await ctx.step("doze", doze)

        workflow.run("dozing", "d", detach=True)
        workflow_clock.advance(10_000)
        workflow.reopen()
        assert workflow.wait("d").status == "completed"
        assert woken == [pytest.approx(60)]


@pytest.mark.asyncio
async def test_a_dead_process_does_not_linger_in_an_asynchronous_test(workflow, workflow_clock):
    traces = []

    @workflow.define("nap")
    async def nap(ctx):
        traces.append("begun")
        try:
            await ctx.sleep("nap", 60_000)
        finally:
            if traces == ["begun"]:
                await asyncio.sleep(10)
                traces.append("lingered")

    await workflow.start("nap", "n", detach=True)
    await workflow_clock.advance(1_000)
    workflow.reopen()
    assert (await Workflow.wait("n")).status == "completed"
    assert workflow_clock.monotonic() == 60
    assert traces == ["begun", "begun"]


# The end of a test ---------------------------------------------------------------------------------------------------


def test_what_cannot_be_ended_is_reported_and_harms_no_other_test(run_within, pytester):
    pytester.makepyfile(
        """
        import asyncio, time

        async def stubborn():
            while True:
                try:
                    await asyncio.sleep(1)
                except asyncio.CancelledError:
                    pass

        def test_1(workflow_clock):
            async def begin():
                asyncio.get_running_loop().stubborn = asyncio.create_task(stubborn(), name="the stubborn one")
                await asyncio.sleep(0)
            workflow_clock.run(begin())

        def test_2():
            before = time.monotonic()
            asyncio.run(asyncio.sleep(0.05))
            assert 0.04 < time.monotonic() - before < 10

        def test_3(workflow):
            workflow.define("quick", lambda ctx: 7)
            assert workflow.run("quick").output == 7
        """
    )
    result = run_within()
    result.assert_outcomes(passed=3, errors=1)
    result.stdout.fnmatch_lines(
        [
            "*RuntimeError: these tasks were cancelled at the end of the test and went on all the same:",
            "*the stubborn one, at *test_what_cannot_be_ended*.py:* in stubborn",
        ]
    )


def test_a_task_that_leaves_python_at_the_end_of_a_test_is_stopped(run_within, pytester):
    pytester.makepyfile(
        """
        import asyncio, sys

        def test_it(workflow_clock):
            async def leave():
                try:
                    await asyncio.sleep(60)
                finally:
                    sys.exit(3)

            async def begin():
                asyncio.get_running_loop().leaving = asyncio.create_task(leave())
                await asyncio.sleep(0)

            workflow_clock.run(begin())

        def test_after(workflow): ...
        """
    )
    run_within().assert_outcomes(passed=2)


def test_the_error_of_a_task_that_the_end_of_a_test_cancels_is_logged(caplog):
    tasks = []

    async def fail():
        try:
            await asyncio.sleep(60)
        finally:
            raise ValueError("not tidy")

    async def begin():
        tasks.append(asyncio.create_task(fail()))
        await asyncio.sleep(0)

    with contextlib.closing(Environment(VirtualClock())) as environment:
        environment.clock.run(begin())
    assert caplog.messages[0].startswith("a task failed when the test ended")


# What an error cuts off ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
def test_what_ends_python_is_raised_once(workflow, workflow_faults, error, caplog):
    @workflow.define("y")
    async def y(ctx):
        return await ctx.step("a", lambda: 5)

    gc.collect()  # what earlier tests have left
    caplog.clear()
    workflow_faults.fail("a", error, attempts=[1])
    with pytest.raises(type(error)):
        workflow.run("y", "y")
    workflow.reopen()
    assert workflow.wait("y").output == 5
    assert "never retrieved" not in caplog.text


def test_a_call_that_got_stuck_leaves_nothing_behind(workflow_clock):
    traces = []

    async def stuck():
        try:
            await asyncio.Event().wait()
        finally:
            traces.append("ended")

    with pytest.raises(AssertionError, match="no code is runnable"):
        workflow_clock.run(stuck())
    assert traces == ["ended"]


# Deadlocks -----------------------------------------------------------------------------------------------------------


class TestSettings:
    @pytest.fixture
    def workflow_settings(self):
        return Settings(max_sleep_ms=1_000)

    def test_settings_that_are_not_chosen_are_the_harnesss(self, workflow):
        settings = workflow.engine.settings
        assert (settings.max_sleep_ms, settings.sync_handlers, settings.lease_ms) == (1_000, "inline", None)


class TestLeases:
    @pytest.fixture
    def workflow_settings(self):
        return Settings(lease_ms=30_000)

    def test_the_renewal_of_leases_does_not_hide_a_deadlock(self, workflow, workflow_clock):
        @workflow.define("waiting")
        async def waiting(ctx):
            await asyncio.Event().wait()

        with pytest.raises(AssertionError, match="no code is runnable, and no timer is set"):
            workflow.run("waiting")
        assert workflow_clock.monotonic() == 0

    def test_leases_are_renewed(self, workflow, workflow_db):
        @workflow.define("waiting")
        async def waiting(ctx):
            await ctx.step("long", lambda: asyncio.sleep(3_600))

        assert workflow.run("waiting").status == "completed"


def test_jumps_count_from_the_latest_event(workflow, monkeypatch):
    monkeypatch.setattr("pytest_workflow.clock._MOST_JUMPS", 100)

    @workflow.define("eventful")
    async def eventful(ctx):
        for number in range(300):
            await ctx.sleep(f"nap-{number}", 1)

    assert workflow.run("eventful").status == "completed"
