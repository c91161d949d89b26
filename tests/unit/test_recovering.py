"""Taking over what other processes have left: what is left alone, what is tried again, and what is told of it."""

import asyncio
import logging
from dataclasses import replace

import pytest

from tests.unit.conftest import Machine, sql
from workflow_core import LeaseLostError, StorageError
from workflow_core.database.directory import DirectoryStore
from workflow_core.database.sqlite import SQLiteStore


class WideStore(SQLiteStore):
    """A database of which two calls at the same time are worth while."""

    concurrency = 2


@pytest.fixture(params=[SQLiteStore, WideStore], ids=["one by one", "two at once"])
def machine(request, clock, tmp_path):
    machine = Machine(lambda: request.param(tmp_path / "w.db"), clock, tmp_path / "w.db")
    machine.define("w")(stuck)
    yield machine
    machine.close()


@pytest.fixture
def told(caplog):
    """Give a function that returns what was logged so far."""
    caplog.set_level(logging.WARNING, "workflow_core")
    return lambda: [record.getMessage() for record in caplog.records if record.name == "workflow_core"]


async def stuck(ctx):
    await asyncio.get_running_loop().create_future()


async def left(machine, *ids, name="w", deaths=0):
    """Begin executions whose process dies, and dies again with those that recovered them."""
    engine = machine.boot()
    for execution_id in ids:
        await engine.start(name, execution_id, detach=True)
        await machine.clock.advance(1)
    for _ in range(deaths):
        await machine.clock.settle()
        engine = await machine.reboot(engine)
    await machine.clock.settle()
    await machine.crash(engine)


def running(engine):
    return sorted(execution.execution_id for execution in engine.running())


def refusing(engine, method, error, ids=("b",)):
    """Let a method of an engine's store raise an error for some executions, until the list of them is emptied."""
    original, ids = getattr(engine.bare_store, method), list(ids)

    async def refuse(*arguments):
        named = {
            argument if isinstance(argument, str) else getattr(argument, "execution_id", None) for argument in arguments
        }
        if named & set(ids):
            raise error
        return await original(*arguments)

    setattr(engine.bare_store, method, refuse)
    return ids


def test_all_that_was_left_is_taken_over(machine):
    async def scenario():
        await left(machine, "a", "b", "c", "d", "e")
        engine = machine.boot()
        assert await engine.recover() == ["a", "b", "c", "d", "e"]
        assert running(engine) == ["a", "b", "c", "d", "e"]
        assert await engine.recover() == []

    asyncio.run(scenario())


def test_workflows_that_are_not_defined_here_are_counted(machine, told):
    async def scenario():
        machine.define("other")(stuck)
        await left(machine, "a", "b", name="other")
        await left(machine, "c")
        del machine.definitions["other"]
        assert await machine.boot().recover() == ["c"]

    asyncio.run(scenario())
    assert told() == ['Executions of workflow "other" wait to be recovered (2), but it is not defined in this process']


@pytest.mark.parametrize("change", ["removed", "changed hands"])
def test_what_is_gone_when_its_turn_comes_is_left_alone(machine, told, change):
    async def scenario():
        await left(machine, "a", "b", "c")
        engine = machine.boot()
        load = engine.bare_store.load_whole

        async def changed(workflow_name, execution_id):
            whole = await load(workflow_name, execution_id)
            if execution_id != "b":
                return whole
            record = replace(whole.record, fencing_token=whole.record.fencing_token + 1)
            return None if change == "removed" else whole._replace(record=record)

        engine.bare_store.load_whole = changed
        assert await engine.recover() == ["a", "c"]
        assert running(engine) == ["a", "c"]

    asyncio.run(scenario())
    assert told() == []


def test_who_is_faster_has_it(machine, told):
    async def scenario():
        await left(machine, "a", "b", "c")
        engine = machine.boot()
        refusing(engine, "execution_recovered", LeaseLostError("gone", "b"))
        assert await engine.recover() == ["a", "c"]

    asyncio.run(scenario())
    assert told() == []


def test_what_cannot_be_read_is_told_and_keeps_nothing_else_from_being_recovered(machine, told):
    async def scenario():
        await left(machine, "a", "b", "c")
        engine = machine.boot()
        await sql(engine.bare_store, "UPDATE executions SET retry_config = '{\"max_attempts\": 0}' WHERE id = 'b'")
        assert await engine.recover() == ["a", "c"]
        await machine.clock.advance(10_000)
        assert running(engine) == ["a", "c"]

    asyncio.run(scenario())
    assert told() == ['Execution "b" cannot be recovered']


def test_a_database_that_is_away_is_asked_again_after_a_while(machine, told):
    async def scenario():
        await left(machine, "a", "b", "c")
        engine = machine.boot(storage_patience_ms=0)
        away = refusing(engine, "load_whole", StorageError("away", "the disk", "full"), ("a", "b", "c"))
        assert await engine.recover() == []
        away.clear()
        await machine.clock.advance(4_999)
        assert running(engine) == []
        await machine.clock.advance(1)
        assert running(engine) == ["a", "b", "c"]
        await machine.clock.advance(10_000)

    asyncio.run(scenario())
    assert told()[-1] == "Executions of the disk are recovered when it works again"


@pytest.mark.parametrize("error", [StorageError("away", None, "full"), ValueError("no")], ids=repr)
def test_without_patience_nothing_is_asked_again(machine, told, error):
    async def scenario():
        await left(machine, "a", "b", "c")
        engine = machine.boot(storage_patience_ms=None)
        refusing(engine, "load_whole", error)
        assert await engine.recover() == ["a", "c"]
        await machine.clock.settle()
        assert not [timer for timer in machine.clock.timers if not timer.cancelled]

    asyncio.run(scenario())
    assert told() == ['Execution "b" cannot be recovered']


@pytest.mark.parametrize("closed", [False, True])
def test_a_database_that_is_still_away_is_told_unless_the_engine_was_closed(machine, told, caplog, closed):
    async def scenario():
        await left(machine, "a")
        engine = machine.boot(storage_patience_ms=0)
        refusing(engine, "load_whole", StorageError("away", "the disk", "full"), ("a",))
        await engine.recover()

        async def broken():
            raise StorageError("broken")

        engine.recover = broken
        if closed:
            engine.close()
        await machine.clock.advance(5_000)

    asyncio.run(scenario())
    assert told()[3:] == ([] if closed else ["Executions cannot be recovered"])
    if not closed:
        assert str(caplog.records[-1].exc_info[1]) == "broken"


def test_who_is_cancelled_while_it_recovers_leaves_nothing_behind(machine):
    async def scenario():
        await left(machine, "a", "b")
        engine = machine.boot()
        cut_off = []

        async def endless(workflow_name, execution_id):
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                cut_off.append(execution_id)

        engine.bare_store.load_whole = endless
        recovering = asyncio.ensure_future(engine.recover())
        await machine.clock.settle()
        recovering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await recovering
        assert cut_off == (["a", "b"] if engine.bare_store.concurrency == 2 else ["a"])

    asyncio.run(scenario())


def test_the_least_suspicious_come_first_and_then_those_that_were_begun_first(machine):
    async def scenario():
        await left(machine, "c", "z", "b", deaths=1)
        await left(machine, "a", deaths=1)  # while "c" was tried, which died again therefore
        engine = machine.boot()
        assert await engine.recover() == ["z", "b", "a", "c"]
        await machine.clock.settle()
        assert running(engine) == ["z"]
        await engine.recover()
        await machine.clock.settle()
        assert running(engine) == ["z"]  # it is tried still

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("error", "messages"),
    [(LeaseLostError("gone", "a"), []), (StorageError("no", None, "damaged"), ['Execution "a" cannot be recovered'])],
    ids=repr,
)
def test_a_suspect_that_cannot_be_taken_over_keeps_no_other_from_it(machine, told, error, messages):
    async def scenario():
        await left(machine, "a", "b", deaths=1)
        engine = machine.boot()
        refusing(engine, "execution_recovered", error, ("a",))
        assert await engine.recover() == ["a", "b"]
        await machine.clock.settle()
        assert running(engine) == ["b"]
        assert not engine._recovery.suspects("a")

    asyncio.run(scenario())
    assert told() == messages


def test_an_engine_that_is_closed_takes_no_suspect_over_any_more(machine):
    async def scenario():
        await left(machine, "a", "b", deaths=1)
        engine = machine.boot()
        await engine.recover()
        await engine.aclose()
        assert await machine.boot().recover() == ["a", "b"]

    asyncio.run(scenario())


def test_two_that_ask_for_an_execution_at_once_take_it_over_once(machine):
    @machine.define("w")
    async def flow(ctx):
        await ctx.sleep("rest", 10)
        return "done"

    async def scenario():
        await left(machine, "a")
        engine = machine.boot()
        take_over = engine.bare_store.execution_recovered

        async def slow(*arguments):
            await machine.clock.sleep(5)
            return await take_over(*arguments)

        engine.bare_store.execution_recovered = slow
        results = await machine.clock.finish(asyncio.gather(engine.resume("a"), engine.start("w", "a")))
        assert [result.output for result in results] == ["done", "done"]
        kinds = [type(event).__name__ for event in await engine.history("a")]
        assert kinds.count("ExecutionRecovered") == 1

    asyncio.run(scenario())


def test_without_a_limit_nobody_is_suspected(machine):
    async def scenario():
        await left(machine, "a", "b", deaths=1)
        engine = machine.boot(max_recoveries=None)
        await engine.recover()
        assert running(engine) == ["a", "b"]

    asyncio.run(scenario())


def test_an_execution_in_a_runtime_directory_is_taken_over_by_who_starts_it(clock, tmp_path):
    machine = Machine(lambda: DirectoryStore(tmp_path / "state"), clock, tmp_path / "state")

    @machine.define("w")
    async def flow(ctx):
        await ctx.sleep("rest", 10)
        return "done"

    async def scenario():
        await left(machine, "a")
        engine = machine.boot()
        assert (await clock.finish(engine.start("w", "a"))).output == "done"

    asyncio.run(scenario())
    machine.close()


def test_of_a_workflow_whose_database_is_away_one_execution_is_asked_for(clock, tmp_path):
    machine = Machine(lambda: DirectoryStore(tmp_path / "state"), clock, tmp_path / "state")
    asked = []

    async def scenario():
        for name in ("bad", "good"):
            machine.define(name)(stuck)
            await left(machine, f"{name}-1", f"{name}-2", name=name)
        engine = machine.boot(storage_patience_ms=0)

        async def away(workflow_name, execution_id):
            asked.append(execution_id)
            raise StorageError("away", engine.bare_store.location("bad"), "full")

        engine.bare_store.workflow("bad").load_whole = away
        assert await engine.recover() == ["good-1", "good-2"]

    asyncio.run(scenario())
    assert asked == ["bad-1"]
    machine.close()


@pytest.mark.parametrize("reason", ["locked", "damaged"])
def test_a_workflow_whose_executions_cannot_be_read_is_asked_again_if_that_may_help(clock, tmp_path, told, reason):
    machine = Machine(lambda: DirectoryStore(tmp_path / "state"), clock, tmp_path / "state")

    async def scenario():
        for name in ("bad", "good"):
            machine.define(name)(stuck)
            await left(machine, f"{name}-1", f"{name}-2", name=name)
        engine = machine.boot(storage_patience_ms=0)
        bad = engine.bare_store.workflow("bad")
        read = bad.unfinished_executions

        async def away(after, limit):
            raise StorageError("away", engine.bare_store.location("bad"), reason)

        bad.unfinished_executions = away
        assert await engine.recover() == ["good-1", "good-2"]
        bad.unfinished_executions = read
        await clock.advance(5_000)
        again = ["bad-1", "bad-2"] if reason == "locked" else []
        assert running(engine) == [*again, "good-1", "good-2"]

    asyncio.run(scenario())
    messages = ['The executions of workflow "bad" cannot be read']
    if reason == "locked":
        path = tmp_path / "state" / "workflows" / "bad" / "bad.db"
        messages.append(f"Executions of {path} are recovered when it works again")
    assert told() == messages
    machine.close()
