"""What those who wait for an execution are told when it is cut off, and what the log says then."""

import asyncio
import gc
import logging
import weakref

import pytest

from tests.unit.conftest import Machine, sql
from workflow_core import ExecutionNotFoundError, InvalidStateError, LeaseLostError, StorageError, hookimpl
from workflow_core.database.directory import DirectoryStore


@pytest.fixture
def resting(machine):
    @machine.define("w")
    async def flow(ctx):
        await ctx.sleep("rest", 10_000)
        await ctx.step("s", lambda: None)

    return machine


async def begun(engine, clock):
    """Begin an execution; return what waits for it where it runs."""
    await engine.start("w", "e", detach=True)
    waiting = asyncio.ensure_future(engine.wait("e"))
    await clock.settle()
    return waiting


def test_who_waits_for_what_is_cancelled_is_given_what_is_stored_of_it(resting, clock):
    async def scenario():
        engine = resting.boot()
        waiting = await begun(engine, clock)
        cancelled = await engine.cancel("e")
        assert cancelled.completed_at == clock.now()
        assert await waiting == cancelled

    asyncio.run(scenario())


def test_who_waits_when_the_engine_is_closed_is_told_how_to_go_on(resting, clock):
    async def scenario():
        engine = resting.boot()
        waiting = await begun(engine, clock)
        await engine.aclose()
        with pytest.raises(InvalidStateError) as caught:
            await waiting
        assert str(caught.value) == (
            'workflow "w", execution "e": the engine stopped before it ended; resume() or recover() goes on with it'
        )

    asyncio.run(scenario())


class Damage:
    """A plugin that lets no sleep end."""

    @hookimpl
    def before_durable_point(self, point):
        if point.name == "sleep_completed":
            raise StorageError("file is not a database")


@pytest.mark.parametrize("closed", [False, True])
def test_what_keeps_an_execution_from_going_on_is_logged_unless_the_engine_was_closed(resting, clock, caplog, closed):
    caplog.set_level(logging.ERROR, "workflow_core")

    async def scenario():
        engine = resting.boot([Damage()])
        waiting = await begun(engine, clock)
        if closed:
            engine.close()
        await clock.advance(10_000)
        with pytest.raises(StorageError):
            await waiting

    asyncio.run(scenario())
    told = [] if closed else ['workflow "w", execution "e" stopped and can be resumed']
    assert [record.getMessage() for record in caplog.records if record.name == "workflow_core"] == told


class Leavings:
    """A plugin that is told why a process has nothing more to do with an execution."""

    def __init__(self):
        self.told = []

    @hookimpl
    def wrap_run(self, run):
        return None

    @hookimpl
    def on_run_left(self, run, leaving):
        self.told.append(leaving)


@pytest.mark.parametrize("error", [StorageError("broken", None, "damaged"), LeaseLostError("gone", "e")], ids=repr)
def test_what_cannot_be_given_back_is_left_all_the_same(resting, clock, error):
    async def broken(*arguments):
        raise error

    async def scenario():
        engine = resting.boot([leavings])
        waiting = await begun(engine, clock)
        engine.bare_store.execution_released = broken
        await engine.aclose()
        with pytest.raises(InvalidStateError, match="the engine stopped before it ended"):
            await waiting

    leavings = Leavings()
    asyncio.run(scenario())
    assert leavings.told == ["released"]


def test_who_waits_for_what_was_removed_is_told(resting, clock):
    async def scenario():
        engine = resting.boot([leavings])
        waiting = await begun(engine, clock)
        await sql(resting.boot().bare_store, "DELETE FROM executions")
        await clock.advance(10_000)
        with pytest.raises(ExecutionNotFoundError):
            await waiting

    leavings = Leavings()
    asyncio.run(scenario())
    assert leavings.told == ["lost"]


def test_what_is_handed_back_belongs_to_nobody_at_once(machine, clock):
    @machine.define("w")
    async def flow(ctx):
        await ctx.step("s", lambda: asyncio.Event().wait())

    async def scenario():
        engine = machine.boot([leavings])
        await begun(engine, clock)
        assert "workflow e" in {task.get_name() for task in asyncio.all_tasks()}
        await engine.hand_back()
        other = machine.boot()
        record = await other.bare_store.load_execution("e")
        assert record.owner_id is None
        assert [type(event).__name__ for event in await other.history("e")][-1] == "StepInterrupted"
        assert await other.recover() == ["e"]

    leavings = Leavings()
    asyncio.run(scenario())
    assert leavings.told[0] == "released"


def test_a_database_of_a_directory_that_is_damaged_fails_no_execution(clock, tmp_path):
    class DamagedOnce:
        @hookimpl
        def before_durable_point(self, point):
            if point.name == "sleep_completed":
                raise StorageError("damaged", machine.engines[0].bare_store.location("w"), "damaged")

    machine = Machine(lambda: DirectoryStore(tmp_path / "state"), clock, tmp_path / "state")

    @machine.define("w")
    async def flow(ctx):
        await ctx.sleep("rest", 10_000)
        return "done"

    async def scenario():
        engine = machine.boot([DamagedOnce()])
        waiting = await begun(engine, clock)
        await clock.advance(10_000)
        with pytest.raises(StorageError, match="damaged"):
            await waiting
        other = await machine.reboot(engine)
        assert (await clock.finish(other.wait("e"))).output == "done"

    asyncio.run(scenario())
    machine.close()


# What is left of one that has ended ----------------------------------------------------------------------------------


def test_an_execution_that_has_ended_is_freed_without_the_garbage_collector(machine):
    known = []

    @machine.define("w")
    async def flow(ctx):
        known.append(weakref.ref(ctx._execution))
        ctx.logger.info("%s", ctx.config)
        await ctx.step("s", lambda: 1)
        await asyncio.gather(ctx.step("left", lambda: 1), ctx.step("right", lambda: 1))

        def flaky():
            if ctx.attempt == 1:
                raise ConnectionError

        await ctx.step("retried", flaky).with_retry(max_attempts=2, backoff_ms=0)
        await ctx.step("caught", flaky).catch(lambda error, ctx: None)
        if ctx.execution_id == "forgetful":
            ctx.step("never awaited", lambda: 1)

    async def scenario():
        engine = machine.boot()
        for execution_id in ("first", "forgetful", "last"):
            await engine.start("w", execution_id)
        await asyncio.sleep(0)  # for the callbacks of the last one's task
        return [each() for each in known]

    gc.disable()
    try:
        with pytest.warns(RuntimeWarning, match="never awaited"):
            assert asyncio.run(scenario()) == [None] * 3
    finally:
        gc.enable()


def test_one_that_was_cancelled_before_it_began_can_be_handed_back_all_the_same(resting, clock):
    async def scenario():
        engine = resting.boot()
        await engine.start("w", "e", detach=True)
        active = engine._running.find("e")
        active.task.cancel()
        await asyncio.sleep(0)  # its task has ended, and its callbacks are due
        await engine.hand_back()
        assert engine.running() == []
        return await engine.store.load_execution("e")

    assert asyncio.run(scenario()).status == "running"


def test_what_is_kept_of_an_execution_answers_after_its_end_as_before(machine):
    kept = []

    @machine.define("w")
    async def flow(ctx):
        kept.append(ctx)
        await ctx.step("s", lambda: 1)

    async def scenario():
        await machine.boot().start("w", "e", {"n": 1})
        await asyncio.sleep(0)
        (ctx,) = kept
        assert (repr(ctx), ctx.input, ctx.attempt, ctx.restart_attempt) == ("<WorkflowContext w e>", {"n": 1}, 1, 1)
        assert ctx.config.environment
        ctx.logger.info("late")
        for late in (ctx.step("t", lambda: 1), ctx.sleep("z", 1), ctx.skip("k"), ctx.step("s", lambda: 1)):
            with pytest.raises(InvalidStateError, match="its handler has ended"):
                await late
        assert ctx._execution.store.location("w")
        assert ctx._execution.context.execution_id == "e"

    asyncio.run(scenario())
