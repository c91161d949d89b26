"""Two at the same execution at the same moment: ends that must not be undone, and waits that must end."""

import asyncio
import os
import sys
import threading
from datetime import timedelta

import pytest

from tests.unit.conftest import every_store_kind
from workflow_core import (
    InvalidStateError,
    LeaseLostError,
    PanicError,
    Settings,
    StorageError,
    WorkflowEngine,
    WorkflowError,
    WorkflowTimeoutError,
)
from workflow_core.database.directory import DirectoryStore
from workflow_core.database.sqlite import SQLiteStore
from workflow_core.errors import ExecutionConflictError
from workflow_core.hookspecs import hookimpl

store_kind = every_store_kind

QUICK = {"sync_handlers": "inline", "poll_interval_ms": 10}


@pytest.fixture
def engine():
    engine = WorkflowEngine(SQLiteStore(), settings=Settings(**QUICK))
    yield engine
    engine.close()


class Once:
    """Does something once, just before a durable point."""

    def __init__(self, name, act):
        self.name, self.act = name, act

    @hookimpl
    def before_durable_point(self, point):
        if point.name == self.name and self.act is not None:
            act, self.act = self.act, None
            act()


# Ends stay ends ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled"])
def test_what_is_at_rest_cannot_be_taken_over_or_cancelled(machine, status):
    @machine.define("w", retry_config={"max_attempts": 1})
    async def flow(ctx):
        if status == "cancelled":
            await ctx.sleep("z", 1)
        await ctx.step("s", lambda: 1 / (status == "completed"))

    async def scenario():
        first = machine.boot()
        await first.start("w", "x", detach=True)
        stale = await first.store.load_execution("x")
        if status == "cancelled":
            await first.cancel("x")
        assert (await machine.clock.finish(first.wait("x"))).status == status
        second = machine.boot()
        with pytest.raises(LeaseLostError):
            await second._recovery.take_over(stale)
        with pytest.raises(InvalidStateError, match=status):
            await second.cancel("x")
        assert (await second.get_status("x")).status == status

    asyncio.run(scenario())


def test_a_cancellation_that_comes_too_late_is_refused(machine):
    @machine.define("w")
    async def flow(ctx):
        await ctx.sleep("z", 1_000)
        return "done"

    async def scenario():
        runner = machine.boot()
        loop = asyncio.get_running_loop()
        await runner.start("w", "x", detach=True)
        await machine.clock.settle()
        done = loop.create_future()

        store = machine.make_store()
        load_execution = store.load_execution

        async def completes_first(execution_id):
            record = await load_execution(execution_id)
            if not done.done():
                done.set_result(await machine.clock.finish(runner.wait("x")))
            return record

        store.load_execution = completes_first
        late = WorkflowEngine(store, machine.clock, settings=Settings(**QUICK))
        with pytest.raises(InvalidStateError, match="completed already"):
            await late.cancel("x")
        assert (await late.get_status("x")).status == "completed"
        late.close()

    asyncio.run(scenario())


def test_one_id_belongs_to_one_workflow(tmp_path):
    barrier = threading.Barrier(2)
    found = []

    def run(name):
        engine = WorkflowEngine(DirectoryStore(tmp_path), settings=Settings(**QUICK))

        @engine.define(name)
        async def flow(ctx):
            return name

        engine.run(name, "warm-" + name)
        for number in range(30):
            barrier.wait()
            try:
                found.append((number, engine.run(name, f"x{number}").output))
            except ExecutionConflictError:
                found.append((number, None))
        engine.close()

    threads = [threading.Thread(target=run, args=(name,)) for name in ("wa", "wb")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winners = [[name for other, name in found if other == number and name] for number in range(30)]
    assert [len(each) for each in winners] == [1] * 30


def test_an_index_row_without_an_execution_does_not_hold_its_id(tmp_path):
    store = DirectoryStore(tmp_path)
    engine = WorkflowEngine(store, settings=Settings(**QUICK))
    engine.define("wa", lambda ctx: "a")
    engine.define("wb", lambda ctx: "b")
    engine.run("wa", "warm")
    store._registry._rows("INSERT INTO execution_index VALUES ('x', 'wa')")
    assert engine.run("wb", "x").output == "b"
    assert asyncio.run(engine.get_status("x")).workflow_name == "wb"
    engine.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("store_kind", ["directory", "sqlite", "postgres"])
def test_a_forked_child_is_a_process_of_its_own(make_store):
    engine = WorkflowEngine(make_store(), settings=Settings(**QUICK))
    engine.define("w", lambda ctx: os.getpid())
    engine.run("w", "warm")
    owner = engine.owner.owner_id
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            new = engine.owner.owner_id != owner and engine.owner.pid == os.getpid() and not engine.running()
            done = engine.run("w", "x").output == os.getpid()
            os.write(write, b"y" if new and done else b"n")
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 1) == b"y"
    assert engine.run("w", "x").output == child
    assert engine.owner.owner_id == owner
    engine.close()


# Waits end -----------------------------------------------------------------------------------------------------------


def test_a_cancellation_before_the_first_step_of_the_loop(engine):
    @engine.define("w")
    async def flow(ctx):
        return 1

    async def scenario():
        await engine.start("w", "x", detach=True)
        assert (await engine.cancel("x")).status == "cancelled"
        assert (await engine.wait("x")).status == "cancelled"
        assert (await engine.start("w", "x")).status == "cancelled"

    asyncio.run(scenario())


def test_the_engine_closes_before_an_execution_has_begun(engine):
    @engine.define("w")
    async def flow(ctx):
        await asyncio.Event().wait()

    async def scenario():
        task = asyncio.ensure_future(engine.start("w", "x"))
        await asyncio.sleep(0)
        await engine.aclose()
        with pytest.raises(InvalidStateError, match="stopped before it ended"):
            await task

    asyncio.run(scenario())


def test_an_abandoned_execution_that_had_not_begun_tells_who_waits(engine):
    @engine.define("w")
    async def flow(ctx):
        return 1

    async def scenario():
        await engine.start("w", "x", detach=True)
        waiting = asyncio.ensure_future(engine._running.find("x").final.wait())
        engine.abandon()
        with pytest.raises(InvalidStateError, match='workflow "w", execution "x": the engine stopped before it ended'):
            await waiting

    asyncio.run(scenario())


def test_two_restarts_in_the_restart_delay_are_one(machine):
    @machine.define("w")
    async def flow(ctx):
        def body():
            if ctx.restart_attempt == 1:
                raise MemoryError
            return ctx.restart_attempt

        return await ctx.step("s", body)

    async def scenario():
        engine = machine.boot()
        with pytest.raises(PanicError):
            await engine.start("w", "x")
        results = await asyncio.gather(engine.restart("x"), engine.restart("x"))
        assert [(result.status, result.output) for result in results] == [("completed", 2)] * 2

    asyncio.run(scenario())


def test_a_start_joins_the_run_after_an_automatic_restart(machine):
    @machine.define("w")
    async def flow(ctx):
        def body():
            if ctx.restart_attempt == 1:
                raise MemoryError

        await ctx.step("s", body)
        await ctx.sleep("z", 1_000)

    async def scenario():
        engine = machine.boot()
        with pytest.raises(PanicError):
            await engine.start("w", "x")
        await machine.clock.advance(5_500)
        assert (await engine.get_status("x")).status == "sleeping"
        assert (await machine.clock.finish(engine.start("w", "x"))).status == "completed"

    asyncio.run(scenario())


def test_a_closed_event_loop_runs_nothing_any_more(engine):
    @engine.define("w")
    async def flow(ctx):
        if len(engine.running()) and not woken:
            await asyncio.Event().wait()
        return "done"

    woken = []

    async def begin():
        await engine.start("w", "x", detach=True)
        await asyncio.sleep(0)

    loop = asyncio.new_event_loop()
    loop.run_until_complete(begin())
    task = engine._running.find("x").task
    task._log_destroy_pending = False
    loop.close()
    woken.append(True)
    assert engine.run("w", "x").output == "done"


def test_a_restart_from_another_event_loop(engine):
    panicked = threading.Event()

    @engine.define("w", panic_config={"restart_delay_ms": 600_000})
    async def flow(ctx):
        def body():
            if ctx.restart_attempt == 1:
                raise MemoryError

        await ctx.step("s", body)
        return "done"

    class Watch:
        @hookimpl
        def on_event(self, event):
            if type(event).__name__ == "ExecutionPanicked":
                threading.Timer(0, panicked.set).start()

    engine.register(Watch())
    results = []
    thread = threading.Thread(target=lambda: results.append(engine.run("w", "x")))
    thread.start()
    assert panicked.wait(20)

    async def restart():
        while engine._running.find("x").restart_now is None:
            await asyncio.sleep(0)
        return await engine.restart("x")

    assert asyncio.run(restart()).output == "done"
    thread.join(20)
    assert results[0].output == "done"


def test_threads_of_one_engine_begin_an_execution_once(engine):
    ran = []
    barrier = threading.Barrier(4)

    @engine.define("w")
    async def flow(ctx):
        ran.append(ctx.execution_id)
        await asyncio.sleep(0)

    async def recover_and_start(number):
        await engine.recover()
        return await engine.start("w", f"x{number}")

    def work():
        for number in range(25):
            barrier.wait()
            assert asyncio.run(recover_and_start(number)).status == "completed"

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ran) == sorted(f"x{number}" for number in range(25))


def test_the_engine_cannot_be_closed_inside_a_workflow(engine):
    @engine.define("w", retry_config={"max_attempts": 1})
    async def flow(ctx):
        await ctx.step("s", engine.aclose)

    result = engine.run("w", "x")
    assert (result.status, result.error.type) == ("failed", "InvalidStateError")


def test_code_that_swallows_a_cancellation_does_not_go_on(engine):
    async def scenario():
        begun = asyncio.Event()
        after = []

        @engine.define("w")
        async def flow(ctx):
            try:
                begun.set()
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                after.append("swallowed")
            await ctx.step("s", lambda: after.append("ran"))

        await engine.start("w", "x", detach=True)
        await begun.wait()
        assert (await engine.cancel("x")).status == "cancelled"
        assert after == ["swallowed"]
        assert (await engine.get_status("x")).status == "cancelled"

    asyncio.run(scenario())


# Other processes -----------------------------------------------------------------------------------------------------


def test_a_start_that_joins_another_process_goes_on_when_that_dies(machine):
    @machine.define("w")
    async def flow(ctx):
        await ctx.sleep("z", 10_000)
        return "done"

    async def scenario():
        first, second = machine.boot(), machine.boot()
        await first.start("w", "x", detach=True)
        joined = asyncio.ensure_future(second.start("w", "x"))
        await machine.clock.advance(2_000)
        await machine.crash(first)
        assert (await machine.clock.finish(joined)).output == "done"
        assert machine.clock.elapsed_ms == 10_000

    asyncio.run(scenario())


def test_a_start_that_joins_another_process_raises_what_ended_it(machine):
    @machine.define("w", retry_config={"max_attempts": 1})
    async def flow(ctx):
        await ctx.sleep("z", 1_000)
        await ctx.step("s", lambda: 1 / 0)

    async def scenario():
        first, second = machine.boot(), machine.boot()
        await first.start("w", "x", detach=True)
        with pytest.raises(WorkflowError, match="division by zero"):
            await machine.clock.finish(second.start("w", "x"))
        assert (await second.start("w", "x")).status == "failed"
        await first.start("w", "y", detach=True, timeout_ms=500)
        with pytest.raises(WorkflowTimeoutError):
            await machine.clock.finish(second.start("w", "y"))

    asyncio.run(scenario())


# Time-outs of executions ---------------------------------------------------------------------------------------------


def test_a_deadline_that_passed_while_nobody_ran_it(machine):
    ran = []

    @machine.define("w")
    async def flow(ctx):
        await ctx.sleep("z", 100)
        await ctx.step("charge", lambda: ran.append(1))

    async def scenario():
        engine = machine.boot()
        await engine.start("w", "x", detach=True, timeout_ms=50)
        await machine.clock.settle()
        await machine.crash(engine)
        await machine.clock.advance(300)
        again = machine.boot()
        with pytest.raises(WorkflowTimeoutError):
            await again.start("w", "x")
        assert ran == []

    asyncio.run(scenario())


def test_a_deadline_that_passes_between_two_steps_that_never_wait(machine):
    ran = []

    @machine.define("w")
    async def flow(ctx):
        def slow(number):
            ran.append(number)
            machine.clock.time += step

        for number in range(5):
            await ctx.step(f"s{number}", lambda number=number: slow(number))

    step = timedelta(milliseconds=40)

    async def scenario():
        engine = machine.boot()
        with pytest.raises(WorkflowTimeoutError):
            await engine.start("w", "x", timeout_ms=100)
        assert ran == [0, 1, 2]

    asyncio.run(scenario())


def test_a_deadline_ends_the_wait_for_a_restart(machine):
    @machine.define("w", panic_config={"restart_delay_ms": 2_500})
    async def flow(ctx):
        raise ValueError("no")

    async def scenario():
        engine = machine.boot()
        with pytest.raises(PanicError):
            await engine.start("w", "x", timeout_ms=1_000)
        result = await machine.clock.finish(engine.wait("x"))
        assert (result.status, result.error.type) == ("failed", "WorkflowTimeoutError")
        assert machine.clock.elapsed_ms == 1_000

    asyncio.run(scenario())


def test_a_restart_by_hand_gives_the_time_again(machine):
    slow = [True]

    @machine.define("w")
    async def flow(ctx):
        await ctx.sleep("z", 1_000 if slow else 10)
        return "done"

    async def scenario():
        engine = machine.boot()
        began = asyncio.ensure_future(engine.start("w", "x", timeout_ms=600))
        with pytest.raises(WorkflowTimeoutError):
            await machine.clock.finish(began)
        result = await machine.clock.finish(engine.restart("x"))
        assert result.output == "done"
        assert machine.clock.elapsed_ms == 1_000  # the sleep went on where it was
        assert result.steps["z"].status == "completed"

    asyncio.run(scenario())


# Errors that are somebody else's -------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [StorageError("theirs"), LeaseLostError("theirs"), StorageError("x", "/their.db")])
def test_the_engines_errors_from_elsewhere_are_ordinary_errors(engine, error):
    calls = []

    @engine.define("w")
    async def flow(ctx):
        async def body():
            calls.append(ctx.attempt)
            raise error

        return await ctx.step("s", body).with_retry(max_attempts=2, backoff_ms=0).catch(lambda error, ctx: "caught")

    assert engine.run("w", "x").output == "caught"
    assert calls == [1]


def test_what_breaks_out_of_a_step_uses_the_attempt_up(engine):
    class Outbreak(BaseException):
        pass

    runs = []

    @engine.define("w", retry_config={"max_attempts": 2})
    async def flow(ctx):
        async def body():
            runs.append(ctx.attempt)
            raise Outbreak

        await ctx.step("s", body)

    for _ in range(2):
        with pytest.raises(Outbreak):
            engine.run("w", "x")
    result = engine.run("w", "x")
    assert (result.status, result.error.type, runs) == ("failed", "StepInterruptedError", [1, 2])


def test_a_sleep_that_the_workflow_gave_up_is_failed(engine):
    @engine.define("w")
    async def flow(ctx):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(ctx.sleep("z", 60_000), 0.001)
        return "done"

    result = engine.run("w", "x")
    assert (result.output, result.steps["z"].status) == ("done", "failed")


def test_a_uuid_in_capitals_is_the_same_id(engine):
    engine.define("w", lambda ctx: 1)
    strict = WorkflowEngine(engine._bare_store, settings=Settings(execution_id_format="uuid", **QUICK))
    strict.define("w", lambda ctx: ctx.execution_id)
    small = "6f0fdc0c-94c5-4e29-8ff4-0ec31d1ad8c0"
    assert strict.run("w", small.upper()).output == strict.run("w", small).output == small


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not let an open file be replaced")
def test_a_damaged_database_does_not_keep_the_others_from_being_recovered(tmp_path, caplog):
    first = WorkflowEngine(DirectoryStore(tmp_path), settings=Settings(**QUICK))
    for name in ("good", "worse"):
        first.define(name, lambda ctx: ctx.sleep("z", 200))
        first.run(name, f"warm-{name}")

    async def begin():
        await first.start("good", "x", detach=True)
        await asyncio.sleep(0)
        first.abandon()

    asyncio.run(begin())
    (tmp_path / "workflows" / "worse" / "worse.db").write_bytes(b"garbage" * 1000)
    for leftover in (tmp_path / "workflows" / "worse").glob("worse.db-*"):
        leftover.unlink()

    class Ended:
        def __init__(self):
            self.real = first._probe

        def make_owner(self):
            return self.real.make_owner()

        def has_ended(self, owner):
            return True

    second = WorkflowEngine(DirectoryStore(tmp_path), settings=Settings(**QUICK), process_probe=Ended())
    second.define("good", lambda ctx: ctx.sleep("z", 200))

    async def recover():
        assert await second.recover() == ["x"]
        await second.aclose()

    asyncio.run(recover())
    assert 'workflow "worse" cannot be read' in caplog.text
