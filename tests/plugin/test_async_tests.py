"""Asynchronous tests, under pytest-asyncio and anyio: the test's own event loop runs on virtual time."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from pytest_workflow import StepCompleted
from workflow_core import PanicError, Workflow, WorkflowError

pytest_plugins = ["pytester"]


@Workflow.define("plugin-nap")
async def nap(ctx):
    await ctx.sleep("nap", 120_000)
    return await ctx.step("awake", lambda: "awake")


@pytest.mark.asyncio
async def test_workflow_start(workflow, workflow_clock):
    result = await workflow.start("plugin-nap", "n")
    assert result.output == "awake"
    assert workflow.history(result).of("awake") == [StepCompleted(attempt=1)]
    assert workflow_clock.now() == datetime(2025, 1, 1, 0, 2, tzinfo=UTC)


@pytest.mark.asyncio
async def test_the_facade_itself(workflow):
    assert (await Workflow.start("plugin-nap", "n")).status == "completed"
    assert workflow.status("n").status == "completed"


@pytest.mark.asyncio
async def test_the_event_loop_is_virtual_before_any_workflow_runs(workflow_clock):
    await asyncio.sleep(3_600)
    assert workflow_clock.monotonic() == pytest.approx(3_600)


@pytest.mark.asyncio
async def test_wait_for_times_out_in_virtual_time(workflow_clock):
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.Event().wait(), 86_400)
    assert workflow_clock.monotonic() == pytest.approx(86_400)


@pytest.mark.asyncio
async def test_advance_is_awaited(workflow, workflow_clock):
    await workflow.start("plugin-nap", "n", detach=True)
    await workflow_clock.advance(60_000)
    assert workflow.status("n").status == "sleeping"
    await workflow_clock.advance(60_000)
    assert workflow.status("n").status == "completed"


@pytest.mark.workflow_clock(manual=True)
@pytest.mark.asyncio
async def test_manual_time(workflow, workflow_clock):
    running = asyncio.create_task(workflow.start("plugin-nap", "n"))
    await workflow_clock.advance(119_999)
    assert not running.done()
    await workflow_clock.advance(1)
    assert running.result().status == "completed"


@pytest.mark.asyncio
async def test_synchronous_methods_say_what_to_use(workflow):
    with pytest.raises(RuntimeError, match=r"await workflow\.start"):
        workflow.run("plugin-nap")


@pytest.mark.asyncio
async def test_errors_are_raised_as_production_code_sees_them(workflow, workflow_faults):
    workflow_faults.fail("awake", "no")
    with pytest.raises(WorkflowError):
        await workflow.start("plugin-nap", "failing", retry_config={"max_attempts": 1})


@pytest.mark.asyncio
async def test_a_panic_is_raised_at_once_and_wait_joins_the_restart(workflow, workflow_faults):
    workflow_faults.panic("awake")
    with pytest.raises(PanicError):
        await workflow.start("plugin-nap", "panicking")
    assert (await Workflow.wait("panicking")).output == "awake"


@pytest.mark.asyncio
async def test_reopen(workflow, workflow_clock):
    await workflow.start("plugin-nap", "n", detach=True)
    await workflow_clock.advance(60_000)
    workflow.reopen()
    assert (await Workflow.wait("n")).status == "completed"
    assert workflow_clock.monotonic() == pytest.approx(120)


@pytest.mark.asyncio
async def test_an_execution_may_be_left_running(workflow):
    await workflow.start("plugin-nap", "left", detach=True)


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_anyio(anyio_backend, workflow, workflow_clock):
    import anyio

    await anyio.sleep(60)
    with anyio.move_on_after(30) as scope:
        await anyio.sleep(60)
    assert scope.cancelled_caught
    assert (await workflow.start("plugin-nap", "n")).status == "completed"
    assert workflow_clock.monotonic() == pytest.approx(210)


TESTS = """
    import asyncio
    import pytest
    from workflow_core import Workflow

    @Workflow.define("nap-{mode}")
    async def nap(ctx):
        await ctx.sleep("nap", 60_000)

    @pytest.fixture
    async def rested(workflow):
        await asyncio.sleep(600)
        return workflow

    {mark}
    async def test_fixture_and_test(rested, workflow_clock):
        assert (await Workflow.start("nap-{mode}")).status == "completed"
        assert round(workflow_clock.monotonic()) == 660

    {mark}
    async def test_left_running(workflow):
        await workflow.start("nap-{mode}", detach=True)

    {mark}
    async def test_nothing_of_it_is_left():
        await asyncio.sleep(0)
        assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("workflow")]

    {mark}
    async def test_deadlock(workflow):
        await asyncio.get_running_loop().create_future()

    {mark}
    async def test_after_the_deadlock(workflow):
        await asyncio.sleep(600)

    {mark}
    async def test_without_virtual_time():
        await asyncio.sleep(0.01)
"""


@pytest.mark.parametrize(
    ("mode", "mark", "options"),
    [
        ("auto", "", ["-o", "asyncio_mode=auto"]),
        ("session", '@pytest.mark.asyncio(loop_scope="session")', ["-o", "asyncio_mode=auto"]),
        ("anyio", '@pytest.mark.parametrize("anyio_backend", ["asyncio"])\n    @pytest.mark.anyio', []),
    ],
    ids=["auto", "session", "anyio"],
)
def test_modes(run_apart, pytester, mode, mark, options):
    pytester.makepyfile(TESTS.format(mode=mode, mark=mark))
    result = run_apart("-W", "error", *options, needed=["anyio"])
    result.assert_outcomes(passed=5, failed=1)
    result.stdout.fnmatch_lines(["*WorkflowStuckError: Nothing can go on*"])
    assert "never retrieved" not in result.stdout.str() + result.stderr.str()


def test_a_stuck_test_names_its_own_line_and_that_of_the_step(pytester, run_within):
    pytester.makepyfile(
        """
        import asyncio

        import pytest

        @pytest.mark.asyncio
        async def test_it(workflow):
            @workflow.define("dead")
            async def dead(ctx):
                await ctx.step("for-ever", lambda: asyncio.get_running_loop().create_future())

            await workflow.start("dead")
        """
    )
    result = run_within()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            'E *step "for-ever", attempt 1, at *test_a_stuck_test*.py:9 in dead',
            "E *the task * waits, at *test_a_stuck_test*.py:11 in test_it",
        ]
    )
