"""Waiting for a database that cannot be used for a while, on a clock that a test moves."""

import asyncio
import logging
import sqlite3

import pytest

from workflow_core import LeaseLostError, Settings, StorageError, WorkflowTimeoutError, hookimpl
from workflow_core.database.diagnosis import storage_error

FULL = "database or disk is full"
LOCKED = "database is locked"


class BadDisk:
    """A plugin that refuses durable points as SQLite does, for as long as ``says`` is set.

    Attributes:
        says: What SQLite says.
        points: The durable points that are refused; all of them if it is empty.
        tries: When each try was made, in milliseconds.
    """

    def __init__(self, clock, path):
        self.clock, self.path = clock, path
        self.says, self.points, self.tries = None, (), []

    @hookimpl
    def before_durable_point(self, point):
        if self.says is not None and (not self.points or point.name in self.points):
            self.tries.append(self.clock.elapsed_ms)
            raise storage_error(sqlite3.OperationalError(self.says), str(self.path))


@pytest.fixture
def disk(machine):
    return BadDisk(machine.clock, machine.path)


def boot(machine, disk, **settings):
    return machine.boot([disk], **{"storage_patience_ms": 1_000, **settings})


@pytest.fixture
def ran(machine):
    """The steps that ran, of a workflow that strikes its disk in its first step."""
    ran = []

    @machine.define("w")
    async def flow(ctx):
        await ctx.step("one", lambda: ran.append("one"))
        await ctx.step("two", lambda: ran.append("two"))
        return "done"

    return ran


def test_the_waits_double_and_who_waits_is_told(machine, disk, ran, caplog):
    caplog.set_level(logging.INFO, "workflow_core")

    async def scenario():
        engine = boot(machine, disk, storage_patience_ms=10_000)
        disk.says, disk.points = FULL, ("step_completed",)
        began = asyncio.ensure_future(engine.start("w", "x"))
        await machine.clock.advance(9_999)
        assert not began.done()
        await machine.clock.advance(1)
        with pytest.raises(StorageError, match="goes on by itself") as caught:
            await began
        assert (caught.value.reason, caught.value.location) == ("full", str(machine.path))
        waits = 'workflow "w", execution "x" waits for it, and goes on by itself when it works again'
        assert str(caught.value) == f"{caught.value.__cause__}; {waits}"
        assert disk.tries == [0, 50, 150, 350, 750, 1_550, 3_150, 6_350, 10_000]
        waiting = asyncio.ensure_future(engine.wait("x"))
        await machine.clock.advance(5_000)
        assert disk.tries[9:] == [15_000]
        assert engine.running()[0].waiting_for()[0].startswith("the database: ")
        disk.says = None
        assert (await machine.clock.finish(waiting)).output == "done"
        assert ran == ["one", "two"]
        assert [event.attempt for event in await engine.history("x") if type(event).__name__ == "StepStarted"] == [1, 1]

    asyncio.run(scenario())
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert caplog.records[1].message == f"{machine.path} works again, after 20.0 s"


@pytest.mark.parametrize("said", [FULL, LOCKED, "disk I/O error", "attempt to write a readonly database"])
def test_each_durable_point_is_waited_for(machine, disk, said):
    @machine.define("every", panic_config={"restart_delay_ms": 1_000})
    async def flow(ctx):
        await ctx.sleep("z", 10)
        await ctx.step("tried", lambda: 1 / (ctx.attempt - 1)).with_retry(max_attempts=2)
        await (
            ctx.step("broken", lambda: 1 / 0)
            .with_retry(max_attempts=1)
            .with_circuit_breaker(1)
            .catch(lambda error, ctx: None)
        )
        await ctx.step("broken too", lambda: 1).with_circuit_breaker(1)
        if ctx.restart_attempt == 1:
            raise RuntimeError("outside every step")
        return "done"

    class Flaky(BadDisk):
        def __init__(self, clock, path):
            super().__init__(clock, path)
            self.seen = set()

        @hookimpl
        def before_durable_point(self, point):
            place = (point.name, point.step_id)
            self.says = None if place in self.seen else said
            self.seen.add(place)
            super().before_durable_point(point)

    async def scenario():
        flaky = Flaky(machine.clock, machine.path)
        engine = boot(machine, flaky)
        result = await machine.clock.finish(engine.start_and_wait("every", "x"))
        assert result.output == "done"
        assert len(flaky.tries) == len(flaky.seen)
        names = {name for name, _ in flaky.seen}
        assert {"execution_started", "sleep_completed", "step_attempt_failed", "step_retrying"} <= names
        assert {"execution_panicked", "execution_restarted", "execution_completed", "circuit_admitted"} <= names
        history = await engine.history("x")
        assert [event.seq for event in history] == list(range(1, len(history) + 1))

    asyncio.run(scenario())


def test_what_passes_at_once_is_no_incident(machine, disk, ran, caplog):
    caplog.set_level(logging.INFO, "workflow_core")

    async def scenario():
        engine = boot(machine, disk)
        disk.says = LOCKED
        began = asyncio.ensure_future(engine.start("w", "x"))
        await machine.clock.advance(600)
        disk.says = None
        assert (await machine.clock.finish(began)).output == "done"
        assert disk.tries == [0, 5, 15, 35, 75, 155, 315, 565]  # a lock is asked for more often

    asyncio.run(scenario())
    assert not caplog.records


def test_what_does_not_pass_is_told_at_once(machine, disk, ran):
    async def scenario():
        engine = boot(machine, disk)
        disk.says, disk.points = "database disk image is malformed", ("step_completed",)
        with pytest.raises(StorageError, match="restore it from a backup") as caught:
            await engine.start("w", "x")
        assert (caught.value.reason, machine.clock.elapsed_ms) == ("damaged", 0)
        disk.says = None
        assert (await engine.resume("x")).output == "done"

    asyncio.run(scenario())


def test_damage_during_the_wait_ends_it(machine, disk, ran):
    async def scenario():
        engine = boot(machine, disk)
        disk.says, disk.points = FULL, ("step_completed",)
        began = asyncio.ensure_future(engine.start("w", "x"))
        await machine.clock.advance(100)
        disk.says = "database disk image is malformed"
        with pytest.raises(StorageError) as caught:
            await machine.clock.finish(began)
        assert caught.value.reason == "damaged"

    asyncio.run(scenario())


def test_without_patience_an_execution_stops_at_once(machine, disk, ran):
    async def scenario():
        engine = boot(machine, disk, storage_patience_ms=None)
        disk.says, disk.points = FULL, ("step_completed",)
        with pytest.raises(StorageError):
            await engine.start("w", "x")
        assert engine.running() == []
        disk.says = None
        assert (await engine.resume("x")).output == "done"
        assert ran == ["one", "one", "two"]

    asyncio.run(scenario())


def test_who_waits_without_patience_is_told_at_once_and_the_execution_goes_on(machine, disk, ran):
    async def scenario():
        engine = boot(machine, disk, storage_patience_ms=0)
        disk.says, disk.points = FULL, ("step_completed",)
        with pytest.raises(StorageError, match="goes on by itself"):
            await engine.start("w", "x")
        assert machine.clock.elapsed_ms == 0
        disk.says = None
        assert (await machine.clock.finish(engine.wait("x"))).output == "done"
        assert ran == ["one", "two"]

    asyncio.run(scenario())


def test_who_was_told_may_ask_again_and_other_threads_are_told_too(machine, disk, ran):
    async def scenario():
        engine = boot(machine, disk, storage_patience_ms=0)
        disk.says, disk.points = FULL, ("step_completed",)
        with pytest.raises(StorageError, match="goes on by itself"):
            await engine.start("w", "x")
        with pytest.raises(StorageError, match="goes on by itself"):
            await asyncio.to_thread(lambda: asyncio.run(engine.wait("x")))
        again = asyncio.ensure_future(engine.start("w", "x"))
        await machine.clock.settle()
        assert not again.done()
        disk.says = None
        assert (await machine.clock.finish(again)).output == "done"

    asyncio.run(scenario())


def test_an_execution_that_cannot_be_begun_is_not_begun(machine, disk, ran):
    async def scenario():
        engine = boot(machine, disk)
        disk.says = FULL
        began = asyncio.ensure_future(engine.start("w", "x"))
        await machine.clock.advance(999)
        assert not began.done()
        await machine.clock.advance(1)
        with pytest.raises(StorageError, match="gave up after 1000 ms"):
            await began
        await machine.clock.advance(100_000)
        assert engine.running() == [] and disk.tries[-1] == 1_000
        disk.says = None
        assert (await engine.start("w", "x")).output == "done"

    asyncio.run(scenario())


def test_the_time_of_an_execution_runs_on_while_it_waits(machine, disk, ran):
    async def scenario():
        engine = boot(machine, disk, storage_patience_ms=100_000)
        disk.says, disk.points = FULL, ("step_completed", "execution_failed")
        began = asyncio.ensure_future(engine.start("w", "x", timeout_ms=3_000))
        await machine.clock.advance(4_000)
        assert not began.done()
        disk.says = None
        with pytest.raises(WorkflowTimeoutError):
            await machine.clock.finish(began)
        assert (await engine.get_status("x")).status == "failed"

    asyncio.run(scenario())


def test_who_took_the_execution_over_meanwhile_has_it(machine, disk, ran):
    async def scenario():
        engine = boot(machine, disk)
        disk.says, disk.points = FULL, ("step_completed",)
        began = asyncio.ensure_future(engine.start("w", "x"))
        await machine.clock.advance(100)
        machine.dead.add(engine.owner.owner_id)  # as it looks from elsewhere
        other = machine.boot()
        assert await other.recover() == ["x"]
        assert (await machine.clock.finish(other.wait("x"))).output == "done"
        disk.says = None
        result = await asyncio.gather(machine.clock.finish(began), return_exceptions=True)
        assert isinstance(result[0], LeaseLostError) or result[0].output == "done"
        assert ran == ["one", "one", "two"]

    asyncio.run(scenario())


def test_steps_beside_each_other_wait_each_for_itself(machine, disk):
    ran = []

    @machine.define("wide")
    async def flow(ctx):
        await asyncio.gather(*(ctx.step(f"s{number}", lambda n=number: ran.append(n)) for number in range(5)))
        await ctx.sleep("z", 10)
        return await ctx.step("last", lambda: 1)

    async def scenario():
        engine = boot(machine, disk)
        disk.says, disk.points = FULL, ("step_completed",)
        began = asyncio.ensure_future(engine.start("wide", "x"))
        await machine.clock.advance(500)
        disk.says = None
        assert (await machine.clock.finish(began)).output == 1
        assert sorted(ran) == list(range(5))
        history = await engine.history("x")
        assert sorted(event.seq for event in history) == list(range(1, len(history) + 1))
        # the first success lets the others try at once
        assert machine.clock.elapsed_ms < 800

    asyncio.run(scenario())


def test_what_cannot_be_recovered_is_recovered_later(machine, disk):
    @machine.define("sleepy")
    async def flow(ctx):
        await ctx.sleep("z", 10)
        return "done"

    async def scenario():
        first = boot(machine, disk)
        for number in range(20):
            await first.start("sleepy", f"x{number}", detach=True)
        await machine.clock.settle()
        await machine.crash(first)
        disk.says = FULL
        second = boot(machine, disk)
        assert await machine.clock.finish(second.recover()) == []
        assert machine.clock.elapsed_ms == 1_000  # for all of them, not for each
        disk.says = None
        await machine.clock.advance(6_000)
        results = [await machine.clock.finish(second.wait(f"x{number}")) for number in range(20)]
        assert {result.output for result in results} == {"done"}

    asyncio.run(scenario())


def test_closing_the_engine_ends_the_wait(machine, disk, ran):
    async def scenario():
        engine = boot(machine, disk)
        disk.says = FULL
        disk.points = ("step_completed", "execution_released")
        began = asyncio.ensure_future(engine.start("w", "x"))
        await machine.clock.advance(100)
        await engine.aclose()
        assert isinstance((await asyncio.gather(began, return_exceptions=True))[0], Exception)
        machine.dead.add(engine.owner.owner_id)
        again = machine.boot()
        await again.recover()
        assert (await machine.clock.finish(again.wait("x"))).output == "done"

    asyncio.run(scenario())


def test_a_lease_of_one_database_is_renewed_although_another_fails(tmp_path, clock):
    from workflow_core import WorkflowEngine
    from workflow_core.database.directory import DirectoryStore

    store = DirectoryStore(tmp_path)
    engine = WorkflowEngine(store, clock, settings=Settings(lease_ms=3_000, sync_handlers="inline"))
    for name in ("bad", "good"):
        engine.define(name, lambda ctx: ctx.sleep("z", 60_000))

    async def scenario():
        for name in ("bad", "good"):
            await engine.start(name, name, detach=True)
        await clock.settle()

        async def failing(owner, expires_at, leases):
            raise StorageError("it fails", store.location("bad"), "io")

        store.workflow("bad").lease_renewed = failing
        await clock.advance(10_000)
        (expires_at,) = store.workflow("good").select("SELECT lease_expires_at FROM owners")[0]
        assert expires_at > (clock.now().timestamp() + 1) * 1_000
        assert {execution.execution_id for execution in engine.running()} == {"bad", "good"}
        del store.workflow("bad").lease_renewed
        await clock.advance(1_000)
        (expires_at,) = store.workflow("bad").select("SELECT lease_expires_at FROM owners")[0]
        assert expires_at > (clock.now().timestamp() + 1) * 1_000
        await engine.aclose()

    asyncio.run(scenario())
