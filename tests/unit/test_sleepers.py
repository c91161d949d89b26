"""Sleeping executions beyond the resident ones: they wait in the database, and go on as the resident ones do."""

import asyncio
import functools
import logging

import pytest

from tests.unit.conftest import every_store_kind, sql
from workflow_core import InvalidStateError, Settings, StorageError
from workflow_core.database.store import Lease
from workflow_core.events import ExecutionRecovered
from workflow_core.hookspecs import hookimpl
from workflow_core.sleepers import Sleepers

store_kind = every_store_kind

SLEEP_MS = 60_000


def in_a_loop(test):
    @functools.wraps(test)
    def run(**arguments):
        asyncio.run(test(**arguments))

    return run


@pytest.fixture
def sleepers(machine):
    """Three executions that sleep for one, two and three minutes, and whose process is gone."""

    @machine.define("nap")
    async def nap(ctx):
        first = await ctx.step("first", lambda: ctx.input)
        await ctx.sleep("settle", ctx.input * SLEEP_MS)
        return await ctx.step("last", lambda: first + 1)

    async def begin():
        engine = machine.boot()
        for number in (3, 1, 2):
            await engine.start("nap", f"n{number}", number, detach=True)
        await machine.clock.settle()
        await machine.crash(engine)

    return begin


def reads_of(engine, monkeypatch):
    read = []
    kind = type(engine.bare_store)
    original = kind.load_steps

    async def load_steps(store, workflow_name, execution_id):
        read.append(execution_id)
        return await original(store, workflow_name, execution_id)

    monkeypatch.setattr(kind, "load_steps", load_steps)
    return read


@in_a_loop
async def test_they_are_read_when_they_are_due(machine, clock, sleepers, monkeypatch):
    await sleepers()
    engine = machine.boot(resident_sleepers=0)
    read = reads_of(engine, monkeypatch)
    assert await engine.recover() == ["n1", "n2", "n3"]
    await clock.settle()
    assert read == []
    assert engine.running() == []
    assert len([timer for timer in clock.timers if not timer.cancelled]) == 1
    await clock.advance(SLEEP_MS - 1)
    assert read == []
    await clock.advance(1)
    assert read == ["n1"]
    await clock.advance(SLEEP_MS)
    assert read == ["n1", "n2"]
    await clock.advance(SLEEP_MS)
    for number in (1, 2, 3):
        result = await engine.get_status(f"n{number}")
        assert (result.status, result.output) == ("completed", number + 1)
        kinds = [type(event).__name__ for event in await engine.history(f"n{number}")]
        assert kinds.count("ExecutionRecovered") == 1
        assert kinds[-1] == "ExecutionCompleted"


@in_a_loop
async def test_only_those_beyond_the_resident_ones(machine, clock, sleepers):
    await sleepers()
    engine = machine.boot(resident_sleepers=2)
    await engine.recover()
    assert sorted(execution.execution_id for execution in engine.running()) == ["n1", "n2"]
    await clock.advance(3 * SLEEP_MS)
    assert (await engine.get_status("n3")).status == "completed"


@in_a_loop
async def test_another_engine_leaves_them_alone(machine, sleepers):
    await sleepers()
    engine = machine.boot(resident_sleepers=0)
    await engine.recover()
    other = machine.boot()
    assert await other.recover() == []
    assert await engine.recover() == []
    with pytest.raises(InvalidStateError, match="another process"):
        await other.resume("n1")


@pytest.mark.parametrize("ask", ["wait", "resume", "start"])
@in_a_loop
async def test_who_asks_for_one_is_told(machine, clock, sleepers, ask):
    await sleepers()
    engine = machine.boot(resident_sleepers=0)
    await engine.recover()
    asked = engine.start("nap", "n2", 2) if ask == "start" else getattr(engine, ask)("n2")
    assert (await clock.finish(asked)).output == 3
    kinds = [type(event).__name__ for event in await engine.history("n2")]
    assert kinds.count("ExecutionRecovered") == 1
    await clock.advance(SLEEP_MS)
    assert (await engine.get_status("n3")).status == "completed"


@in_a_loop
async def test_one_that_is_cancelled_does_not_wake(machine, clock, sleepers):
    await sleepers()
    engine = machine.boot(resident_sleepers=0)
    await engine.recover()
    assert (await engine.cancel("n1")).status == "cancelled"
    await clock.advance(3 * SLEEP_MS)
    assert (await engine.get_status("n1")).status == "cancelled"
    assert (await engine.get_status("n2")).status == "completed"


@in_a_loop
async def test_one_that_another_process_cancelled_does_not_wake(machine, clock, sleepers):
    await sleepers()
    engine = machine.boot(resident_sleepers=0)
    await engine.recover()
    await machine.boot().cancel("n1")
    await clock.advance(SLEEP_MS)
    assert engine.running() == []
    assert (await engine.get_status("n1")).status == "cancelled"


@pytest.mark.parametrize("end", ["close", "crash"])
@in_a_loop
async def test_the_next_engine_has_them(machine, clock, sleepers, end):
    await sleepers()
    engine = machine.boot(resident_sleepers=0)
    await engine.recover()
    if end == "crash":
        await machine.crash(engine)
    else:
        await engine.aclose()
    again = machine.boot(resident_sleepers=0)
    assert len(await again.recover()) == 3
    await clock.advance(3 * SLEEP_MS)
    assert {(await again.get_status(f"n{number}")).status for number in (1, 2, 3)} == {"completed"}


def test_an_event_loop_that_ends_gives_them_back(machine, clock, sleepers):
    asyncio.run(sleepers())
    engine = machine.boot(resident_sleepers=0)
    assert len(asyncio.run(engine.recover())) == 3
    other = machine.boot()
    assert len(asyncio.run(other.recover())) == 3


def test_an_event_loop_that_was_closed_in_the_middle_is_not_told(clock):
    sleepers = Sleepers(clock)
    sleepers.add(Lease("nap", "late", 1), 2**50, clock.now())
    loop = asyncio.new_event_loop()
    waiting = loop.create_task(sleepers.until_due())
    loop.call_soon(loop.call_soon, loop.stop)
    loop.run_forever()
    loop.close()
    sleepers.add(Lease("nap", "early", 1), 2**49, clock.now())
    assert {sleeper.lease.execution_id for sleeper in sleepers} == {"late", "early"}
    waiting._log_destroy_pending = False  # it was abandoned on purpose


@in_a_loop
async def test_observers_are_told_before_it_goes_on(machine, clock, sleepers):
    await sleepers()
    events = []

    class Observer:
        @hookimpl
        def on_event(self, event):
            events.append(event)

    engine = machine.boot([Observer()], resident_sleepers=0)
    await engine.recover()
    await clock.advance(SLEEP_MS)
    assert events == (await engine.history("n1"))[-5:]
    assert type(events[0]) is ExecutionRecovered


@in_a_loop
async def test_a_database_that_cannot_be_read_is_tried_again(machine, clock, sleepers, monkeypatch, caplog):
    await sleepers()
    engine = machine.boot(resident_sleepers=0)
    await engine.recover()
    kind = type(engine.bare_store)
    original = kind.load_steps

    async def broken(store, *args):
        raise StorageError("disk I/O error")

    monkeypatch.setattr(kind, "load_steps", broken)
    with caplog.at_level(logging.CRITICAL, "workflow_core"):
        await clock.advance(SLEEP_MS)
    monkeypatch.setattr(kind, "load_steps", original)
    await clock.advance(1_000)
    assert (await engine.get_status("n1")).status == "completed"


@in_a_loop
async def test_one_that_cannot_go_on_is_given_back(machine, clock, sleepers, caplog):
    await sleepers()
    engine = machine.boot(resident_sleepers=0)
    await engine.recover()
    change = "UPDATE {s}.executions SET retry_config = '{\"max_attempts\": 0}' WHERE id = 'n1'"
    await sql(engine.bare_store, change)
    with caplog.at_level(logging.CRITICAL, "workflow_core"):
        await clock.advance(SLEEP_MS)
    assert await sql(engine.bare_store, "SELECT owner_id FROM {s}.executions WHERE id = 'n1'") == [(None,)]
    await clock.advance(SLEEP_MS)
    assert (await engine.get_status("n2")).status == "completed"


@in_a_loop
async def test_a_deadline_wakes_as_well(machine, clock):
    @machine.define("late")
    async def late(ctx):
        await ctx.sleep("settle", 2 * SLEEP_MS)

    engine = machine.boot()
    await engine.start("late", "l", timeout_ms=SLEEP_MS, detach=True)
    await clock.settle()
    await machine.crash(engine)
    engine = machine.boot(resident_sleepers=0)
    await engine.recover()
    await clock.advance(SLEEP_MS)
    assert (await engine.get_status("l")).error.type == "WorkflowTimeoutError"


@in_a_loop
async def test_recovery_reads_page_by_page(machine, clock, sleepers, monkeypatch):
    await sleepers()
    monkeypatch.setattr("workflow_core.recovering._RECOVERY_PAGE", 1)
    engine = machine.boot(resident_sleepers=1)
    assert await engine.recover() == ["n1", "n2", "n3"]
    await clock.advance(3 * SLEEP_MS)
    assert {(await engine.get_status(f"n{number}")).status for number in (1, 2, 3)} == {"completed"}


def test_the_setting_has_bounds():
    assert Settings(resident_sleepers=0).resident_sleepers == 0
