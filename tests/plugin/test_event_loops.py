"""Event loops that workflows cannot run in are refused before anything is written."""

from __future__ import annotations

import asyncio

import pytest

from pytest_workflow import WorkflowStuckError
from workflow_core import InvalidStateError, Workflow, WorkflowEngine
from workflow_core.database.sqlite import SQLiteStore


class ForeignLoop(asyncio.AbstractEventLoop):
    """An event loop that is none of asyncio's own, as uvloop's is."""


CALLS = {
    "start": lambda engine: engine.start("quick"),
    "start_and_wait": lambda engine: engine.start_and_wait("quick"),
    "wait": lambda engine: engine.wait("q-1"),
    "resume": lambda engine: engine.resume("q-1"),
    "restart": lambda engine: engine.restart("q-1"),
    "cancel": lambda engine: engine.cancel("q-1"),
    "recover": lambda engine: engine.recover(),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_no_event_loop_of_asyncio(call, workflow):
    production = WorkflowEngine(SQLiteStore())
    for engine in (production, workflow.engine):
        with pytest.raises(InvalidStateError, match="trio is not supported: with anyio, use its asyncio backend"):
            call(engine).send(None)
    production.close()


@pytest.mark.parametrize("start", [*CALLS.values(), lambda engine: Workflow.start("quick")])
def test_an_event_loop_that_cannot_run_on_virtual_time(start, workflow, workflow_db):
    workflow.define("quick", lambda ctx: 1)
    asyncio._set_running_loop(ForeignLoop())
    try:
        with pytest.raises(InvalidStateError, match=r"ForeignLoop cannot run on virtual time; use asyncio's own"):
            start(workflow.engine).send(None)
    finally:
        asyncio._set_running_loop(None)
    assert workflow_db.executions() == []


def test_the_harness_itself_without_an_event_loop_of_asyncio(workflow, workflow_db):
    workflow.define("quick", lambda ctx: 1)
    with pytest.raises(InvalidStateError, match="asyncio backend"):
        workflow.start("quick").send(None)
    assert workflow_db.executions() == []


def test_trio(workflow, workflow_db):
    trio = pytest.importorskip("trio")
    workflow.define("quick", lambda ctx: 1)
    with pytest.raises(InvalidStateError, match="asyncio backend"):
        trio.run(Workflow.start, "quick")
    assert workflow_db.executions() == []


class Completions:
    """What stands in for a selector in the event loop of Windows: it has operations, and no sockets to choose from."""

    def __init__(self, selector):
        self._selector = selector
        self._cache = dict.fromkeys(["the loop's own wake-up"])

    def select(self, timeout=None):
        return self._selector.select(timeout)

    def close(self):
        self._selector.close()


def test_a_stuck_test_is_told_of_in_the_event_loop_of_windows(workflow_clock):
    loop = asyncio.SelectorEventLoop()
    selector = loop._selector
    loop._selector = Completions(selector)

    async def stuck():
        workflow_clock.attach(asyncio.get_running_loop(), own=False)
        await asyncio.Event().wait()

    with pytest.raises(WorkflowStuckError, match="no code is runnable"):
        loop.run_until_complete(stuck())
    loop._selector = selector
    loop.close()


def test_virtual_time_is_exact_where_the_systems_is_coarse(workflow_clock):
    loop = asyncio.SelectorEventLoop()
    loop._clock_resolution = 0.015_625  # as on Windows before Python 3.13
    woken = []

    async def sleep(seconds):
        await asyncio.sleep(seconds)
        woken.append(workflow_clock.monotonic())

    async def main():
        workflow_clock.attach(asyncio.get_running_loop(), own=False)
        await asyncio.gather(*map(sleep, (0.010, 0.020, 0.025)))

    loop.run_until_complete(main())
    assert woken == pytest.approx([0.010, 0.020, 0.025])
    workflow_clock.detach()
    assert loop._clock_resolution == 0.015_625
    loop.close()


def test_uvloop(workflow, workflow_db):
    uvloop = pytest.importorskip("uvloop")
    workflow.define("quick", lambda ctx: 1)
    loop = uvloop.new_event_loop()
    with pytest.raises(InvalidStateError, match=r"uvloop\.Loop cannot run on virtual time"):
        loop.run_until_complete(Workflow.start("quick"))
    loop.close()
    assert workflow_db.executions() == []
