"""Executions that rest are let go of, and others go on with them: as workers do it, on a database without any."""

import asyncio
import logging
from dataclasses import replace

import pytest

from tests.unit.conftest import Machine
from workflow_core import LeaseLostError, StorageError, hookimpl
from workflow_core.clock import to_epoch_ms
from workflow_core.database.dispatch import Claim
from workflow_core.database.sqlite import SQLiteStore
from workflow_core.database.store import NewExecution
from workflow_core.parking import Parking


async def unused(*arguments):
    raise AssertionError


class QueueStore(SQLiteStore):
    """A database whose executions are handed out by a test.

    Attributes:
        parked: What was let go of, until when, in milliseconds since 1970, and when.
        troubles: What letting go raises, one after the other.
    """

    limits_noted = execution_enqueued = execution_claimed = cancelled_among = cluster_state = dispatch_state = unused

    def __init__(self, path):
        super().__init__(path)
        self.parked, self.troubles = [], []

    async def load_execution(self, execution_id):
        record = await super().load_execution(execution_id)
        return record and replace(record, queue="default")

    async def execution_parked(self, lease, due_at, at):
        if self.troubles:
            raise self.troubles.pop(0)
        self.parked.append((lease.execution_id, due_at, at))
        self.connection.execute("UPDATE executions SET owner_id = NULL, fencing_token = fencing_token + 1")
        self.connection.commit()

    async def claim(self, kind, owner):
        self.connection.execute("UPDATE executions SET owner_id = ?", (owner.owner_id,))
        self.connection.commit()
        return Claim(await self.load_execution("e"), kind)


class Watch:
    """A plugin that notes what it is told of an execution."""

    def __init__(self):
        self.told, self.events = [], []

    @hookimpl
    def wrap_run(self, run):
        return None

    @hookimpl
    def on_event(self, event):
        self.told.append(type(event).__name__)
        self.events.append(event)

    @hookimpl
    def on_run_left(self, run, leaving):
        self.told.append(leaving)


class Worker:
    """An engine that lets go of what rests."""

    def __init__(self, machine):
        self.watch = Watch()
        self.engine = machine.boot([self.watch])
        self.engine.parking = Parking(self.engine._running, machine.clock, 1)

    @property
    def store(self):
        return self.engine.bare_store

    async def begin(self, deadline_at=None):
        """Begin an execution that was queued; return what it is here."""
        new = NewExecution("w", "e", None, "{}", "{}", deadline_at)
        await self.store.execution_started(new, self.engine.owner, None, self.engine.clock.now())
        return await self.go_on("begun")

    async def go_on(self, kind):
        active = await self.engine.run_claimed(await self.store.claim(kind, self.engine.owner))
        await self.engine.clock.settle()
        return active

    async def names(self):
        return [type(event).__name__ for event in await self.engine.history("e")]


@pytest.fixture
def queue(clock, tmp_path):
    machine = Machine(lambda: QueueStore(tmp_path / "w.db"), clock, tmp_path / "w.db")

    @machine.define("w")
    async def flow(ctx):
        await ctx.sleep("rest", 60_000)
        return await ctx.step("s", lambda: "done")

    yield machine
    machine.close()


def after(clock, milliseconds):
    return to_epoch_ms(clock.now()) + milliseconds


def test_who_waits_for_what_was_let_go_of_is_given_what_another_worker_makes_of_it(queue, clock):
    async def scenario():
        first, second = Worker(queue), Worker(queue)
        active = await first.begin()
        assert first.store.parked == [("e", after(clock, 60_000), clock.now())]
        assert first.engine.running() == []
        assert first.watch.told == ["ExecutionStarted", "SleepStarted", "released"]
        with pytest.raises(LeaseLostError) as caught:
            await active.final.wait()
        assert str(caught.value) == 'workflow "w", execution "e" waits, and a worker goes on with it'
        assert caught.value.execution_id == "e"
        await clock.advance(60_000)
        waiting = asyncio.ensure_future(first.engine.wait("e"))
        await clock.settle()
        assert not waiting.done()
        await second.go_on("woken")
        gone_on_at = clock.now()
        assert (await clock.finish(waiting)).output == "done"
        woken, *others = second.watch.events
        assert (type(woken).__name__, woken.seq, woken.at) == ("ExecutionRecovered", 2, gone_on_at)
        assert first.watch.events + others == await second.engine.history("e")
        assert await second.names() == [
            "ExecutionStarted",
            "SleepStarted",
            "SleepCompleted",
            "StepStarted",
            "StepCompleted",
            "ExecutionCompleted",
        ]

    asyncio.run(scenario())


def test_what_a_dead_worker_left_is_recovered(queue, clock):
    async def scenario():
        first = Worker(queue)
        first.engine.parking = None
        await first.begin()
        await queue.crash(first.engine)
        second = Worker(queue)
        second.engine.parking = None
        record = await second.store.load_execution("e")
        active = await second.engine.run_claimed(Claim(record, "abandoned"))
        assert await second.engine.run_claimed(Claim(record, "woken")) is active
        assert (await clock.finish(second.engine.wait("e"))).output == "done"
        assert (await second.names())[:3] == ["ExecutionStarted", "SleepStarted", "ExecutionRecovered"]

    asyncio.run(scenario())


def test_a_database_that_is_away_is_waited_for_to_let_go(queue, clock, caplog):
    caplog.set_level(logging.DEBUG, "workflow_core")

    async def scenario():
        worker = Worker(queue)
        worker.store.troubles = [StorageError("it is full", None, "full")]
        due = after(clock, 60_000)
        await worker.begin()
        await clock.advance(499)
        assert worker.store.parked == []
        await clock.advance(1)
        assert [until for _, until, _ in worker.store.parked] == [due]
        assert worker.watch.told[-1] == "released"

    asyncio.run(scenario())
    assert 'workflow "w", execution "e" could not be let go of: it is full' in caplog.messages


@pytest.mark.parametrize("trouble", [StorageError("broken", None, "damaged"), LeaseLostError("gone", "e")], ids=repr)
def test_what_cannot_be_let_go_of_is_left(queue, clock, trouble):
    async def scenario():
        worker = Worker(queue)
        worker.store.troubles = [trouble]
        await worker.begin()
        assert worker.engine.running() == []
        assert (worker.watch.told[-1], worker.store.parked) == ("released", [])

    asyncio.run(scenario())


@pytest.mark.parametrize(("deadline_ms", "due_ms"), [(None, 5_000), (9_000, 5_000), (3_000, 3_000)])
def test_who_waits_for_a_restart_is_let_go_of_until_it_or_the_deadline(queue, clock, deadline_ms, due_ms):
    @queue.define("w")
    async def flow(ctx):
        if ctx.restart_attempt == 1:
            raise MemoryError

    async def scenario():
        worker = Worker(queue)
        due = after(clock, due_ms)
        active = await worker.begin(None if deadline_ms is None else after(clock, deadline_ms))
        assert active.parked_until == due
        assert [until for _, until, _ in worker.store.parked] == [due]
        assert worker.engine.running() == []
        assert worker.watch.told == ["ExecutionStarted", "ExecutionPanicked", "released"]

    asyncio.run(scenario())


@pytest.mark.parametrize(("deadline_ms", "due_ms"), [(None, 60_000), (90_000, 60_000), (20_000, 20_000)])
def test_who_sleeps_is_let_go_of_until_its_end_or_the_deadline(queue, clock, deadline_ms, due_ms):
    async def scenario():
        worker = Worker(queue)
        due = after(clock, due_ms)
        await worker.begin(None if deadline_ms is None else after(clock, deadline_ms))
        assert [until for _, until, _ in worker.store.parked] == [due]

    asyncio.run(scenario())


@pytest.mark.parametrize(("beside", "is_let_go"), [("a sleep", True), ("a step", False)])
def test_what_does_something_beside_its_sleep_is_kept(queue, clock, monkeypatch, beside, is_let_go):
    monkeypatch.setattr("workflow_core.parking._SETTLED_SECONDS", 0)

    @queue.define("w")
    async def flow(ctx):
        other = ctx.sleep("nap", 50_000) if beside == "a sleep" else ctx.step("s", asyncio.Event().wait)
        await asyncio.gather(other, ctx.sleep("rest", 60_000))

    async def scenario():
        worker = Worker(queue)
        due = after(clock, 50_000)
        await worker.begin()
        assert [until for _, until, _ in worker.store.parked] == [due] * is_let_go

    asyncio.run(scenario())


async def panics_and_rests(ctx):
    if ctx.restart_attempt == 1:
        raise MemoryError
    await ctx.sleep("rest", 60_000)


def test_what_rests_for_a_moment_or_was_not_queued_is_kept(queue, clock):
    queue.define("w")(panics_and_rests)

    async def scenario():
        worker = Worker(queue)
        worker.engine.parking = Parking(worker.engine._running, clock, 10_000)
        await worker.begin()
        assert worker.store.parked == []
        await clock.advance(5_000)
        assert [until for _, until, _ in worker.store.parked] == [after(clock, 60_000)]
        worker.engine.parking = Parking(worker.engine._running, clock, 1)
        await worker.engine.start("w", "other", detach=True)
        await clock.advance(10_000)
        assert len(worker.store.parked) == len(worker.engine.running()) == 1

    asyncio.run(scenario())


@pytest.mark.parametrize("goes_on", [False, True])
def test_a_handler_that_catches_its_cancellation_is_let_go_of_all_the_same(queue, clock, goes_on):
    told = []

    @queue.define("w")
    async def flow(ctx):
        try:
            await ctx.sleep("rest", 60_000)
        except asyncio.CancelledError:
            if goes_on:
                try:
                    await ctx.step("s", lambda: "saved")
                except asyncio.CancelledError as error:
                    told.append(str(error))
            return "saved"

    async def scenario():
        worker = Worker(queue)
        await worker.begin()
        assert len(worker.store.parked) == 1
        assert await worker.names() == ["ExecutionStarted", "SleepStarted"]
        assert worker.engine.running() == []

    asyncio.run(scenario())
    assert told == (['workflow "w", execution "e" waits, and a worker goes on with it'] if goes_on else [])


def test_a_run_that_has_ended_is_not_let_go_of(queue, clock):
    queue.define("w")(panics_and_rests)

    async def scenario():
        worker = Worker(queue)
        worker.engine.parking = Parking(worker.engine._running, clock, 100_000)
        active = await worker.begin()
        first = active.execution
        await clock.advance(5_000)
        running = worker.engine._running
        running.park(first, after(clock, 60_000))
        await clock.settle()
        assert [execution.restart_attempt for execution in worker.engine.running()] == [2]
        await clock.finish(worker.engine.wait("e"))
        running.park(active.execution, after(clock, 60_000))
        assert worker.store.parked == []

    asyncio.run(scenario())
