"""Event loops that runs of an exploration use one after the other."""

import asyncio

import pytest

from pytest_workflow.clock import VirtualClock
from pytest_workflow.own_loop import SpareLoops


async def nothing():
    pass


def leave_a_timer():
    asyncio.get_running_loop().call_later(60, print)


def leave_an_exception_handler():
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)


def leave_debug_mode():
    asyncio.get_running_loop().set_debug(True)


def leave_an_executor():
    asyncio.get_running_loop().run_in_executor(None, int)


def leave_a_generator():
    async def numbers():
        yield 1

    generator = numbers()
    left.extend([generator, asyncio.ensure_future(anext(generator))])


left = []


def run(loops, work):
    async def scenario():
        work()
        await asyncio.sleep(0)
        return asyncio.get_running_loop()

    clock = VirtualClock(loops=loops)
    try:
        return clock.run(scenario())
    finally:
        clock.detach()
        left.clear()


def test_a_loop_of_which_nothing_was_changed_is_used_again():
    with SpareLoops() as loops:
        first = run(loops, lambda: None)
        assert not first.is_closed()
        assert run(loops, lambda: None) is first
    assert first.is_closed()


@pytest.mark.parametrize(
    "leave",
    [leave_a_timer, leave_an_exception_handler, leave_debug_mode, leave_an_executor, leave_a_generator],
)
def test_a_loop_that_anything_is_left_in_is_closed(leave):
    with SpareLoops() as loops:
        used = run(loops, leave)
        assert used.is_closed()
        assert run(loops, lambda: None) is not used


def test_a_plugin_of_the_tests_own_survives_a_crash_as_it_was_registered(workflow_crashes):
    told = []

    def scenario(workflow):
        @workflow.define("flow")
        async def flow(ctx):
            return await ctx.step("one", lambda: 1)

        before = list(workflow.engine.extensions)
        workflow.run("flow", "e-1")
        told.append((before, list(workflow.engine.extensions)))

    workflow_crashes.explore(scenario)
    for before, after in told:
        assert before == after  # the same objects in the same order, in the engine that took over
