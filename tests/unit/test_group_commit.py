"""Durable points of several tasks that fall into one turn of the event loop, committed together."""

import asyncio
import contextlib
import os
import sqlite3
import threading

import pytest

from tests.unit.faulty_connection import Faulty, Interrupted
from tests.unit.store_calls import NOW, OWNER
from workflow_core import LeaseLostError, RetryConfig, Settings, StorageError, WorkflowEngine, WorkflowError
from workflow_core.database import group_commit
from workflow_core.database.directory import DirectoryStore
from workflow_core.database.sqlite import SQLiteStore
from workflow_core.database.store import ErrorRecord, Lease, NewExecution, StepRecord
from workflow_core.ownership import Owner

QUICK = {"sync_handlers": "inline", "poll_interval_ms": 10}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "w.db"


@pytest.fixture
def store(path):
    store = SQLiteStore(path, busy_timeout_ms=1)
    for execution_id in ("a", "b", "c", "d"):
        new = NewExecution("w", execution_id, "1", "{}", "{}", None)
        asyncio.run(store.execution_started(new, OWNER, None, NOW))
    yield store
    store.close()


def start(store, execution_id, step_id="s", token=1):
    return store.step_started(Lease("w", execution_id, token), StepRecord(step_id), 1, 2, NOW, None)


def fail(store, execution_id, error_type="E"):
    error = ErrorRecord(error_type, "m", None, None, 1, 0)
    return store.step_failed(Lease("w", execution_id, 1), StepRecord("s"), error, True, NOW)


def steps(path):
    """Return the steps that another connection sees."""
    connection = sqlite3.connect(path)
    try:
        return sorted(connection.execute("SELECT execution_id, step_id, status FROM steps").fetchall())
    finally:
        connection.close()


def running(*execution_ids, step_id="s"):
    return [(execution_id, step_id, "running") for execution_id in execution_ids]


async def in_one_turn(*writes):
    """Make durable points in tasks of their own; return them once all are made and the first alone is committed."""
    tasks = [asyncio.ensure_future(write) for write in writes]
    await asyncio.sleep(0)
    return tasks


def stopped_in_its_turn(loop, *writes):
    """Stop a loop in the turn in which tasks make durable points; return the tasks."""
    tasks = [loop.create_task(write) for write in writes]
    loop.call_soon(loop.stop)
    loop.run_forever()
    return tasks


@contextlib.contextmanager
def interrupted(*writes):
    """Let an interrupt end the loop in which tasks make durable points; give what lets it run again, to their end."""
    loop = asyncio.new_event_loop()
    try:
        everything = asyncio.gather(*[loop.create_task(write) for write in writes])
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(everything)
        yield lambda: loop.run_until_complete(everything)
    finally:
        loop.close()


def traced(store):
    """Return the list into which the store's transactions are noted."""
    said = []
    store.connection.set_trace_callback(
        lambda sql: said.append(sql.split()[0]) if sql.startswith(("BEGIN", "COMMIT", "ROLLBACK")) else None
    )
    return said


# When they wait for one another --------------------------------------------------------------------------------------


def test_what_several_tasks_make_in_one_turn_is_one_transaction(store, path):
    said = traced(store)

    async def scenario():
        await asyncio.gather(*(start(store, execution_id) for execution_id in "abcd"))

    asyncio.run(scenario())
    assert said == ["BEGIN", "COMMIT"]  # the first has committed itself, before it could be known that others follow
    assert steps(path) == running(*"abcd")


def test_one_task_alone_never_waits(store, path):
    async def scenario():
        turns = []
        asyncio.get_running_loop().call_soon(turns.append, "over")
        for number in range(5):
            await start(store, "a", f"s{number}")
            await fail(store, "a")
        assert turns == []
        await asyncio.sleep(0)
        await asyncio.ensure_future(start(store, "b"))  # another task, in another turn
        asyncio.get_running_loop().call_soon(turns.append, "over again")
        await asyncio.sleep(0)
        await start(store, "a")

    said = traced(store)
    asyncio.run(scenario())
    assert said.count("BEGIN") == 5  # of the failures, which take two statements


def test_one_task_is_alone_again_after_some_turns_that_brought_no_other(store):
    async def scenario():
        await asyncio.gather(*(start(store, execution_id) for execution_id in "abcd"))
        for number in range(8):
            await start(store, "a", f"s{number}")
        turns = []
        asyncio.get_running_loop().call_soon(turns.append, "over")
        await start(store, "a", "u")
        assert turns == []

    asyncio.run(scenario())


def test_each_returns_only_after_its_commit(store, path):
    seen = {}

    async def write(execution_id):
        await start(store, execution_id)
        seen[execution_id] = steps(path)

    async def scenario():
        tasks = await in_one_turn(*(write(execution_id) for execution_id in "abcd"))
        assert seen == {"a": running("a")}
        await asyncio.gather(*tasks)

    asyncio.run(scenario())
    assert seen == {"a": running("a"), **dict.fromkeys("bcd", running(*"abcd"))}


def test_nobody_reads_what_is_not_committed(store):
    async def scenario():
        tasks = await in_one_turn(*(start(store, execution_id) for execution_id in "abcd"))
        assert (await store.load_steps("w", "b"))[0] == {}
        assert store.select("SELECT count(*) FROM steps") == [(1,)]
        await asyncio.gather(*tasks)
        assert set((await store.load_steps("w", "b"))[0]) == {"s"}

    asyncio.run(scenario())


def test_a_large_group_is_committed_in_parts(store, path, monkeypatch):
    monkeypatch.setattr(group_commit, "_MOST_MEMBERS", 3)
    said = traced(store)

    async def scenario():
        await asyncio.gather(*(start(store, "a", f"s{number}") for number in range(8)))

    asyncio.run(scenario())
    assert said == ["BEGIN", "COMMIT"] * 3
    assert len(steps(path)) == 8


def test_in_memory_nothing_waits():
    store = SQLiteStore()
    said = traced(store)

    async def scenario():
        new = (NewExecution("w", name, "1", "{}", "{}", None) for name in "abcd")
        await asyncio.gather(*(store.execution_started(one, OWNER, None, NOW) for one in new))

    asyncio.run(scenario())
    assert said == ["BEGIN", "COMMIT"]  # the first also records the owner; each of the others is one statement
    assert not store.groups.is_grouping
    store.close()


# Failures ------------------------------------------------------------------------------------------------------------


def results(store, *writes):
    async def scenario():
        return await asyncio.gather(*writes, return_exceptions=True)

    return asyncio.run(scenario())


def test_a_lost_lease_is_that_of_one_alone(store, path):
    found = results(store, start(store, "a"), start(store, "b"), start(store, "c", token=7), start(store, "d"))
    assert [type(one) for one in found] == [type(None), type(None), LeaseLostError, type(None)]
    assert steps(path) == running("a", "b", "d")


def test_what_fails_after_it_has_written_takes_back_its_own_writes_alone(store, path):
    results(store, *(start(store, execution_id) for execution_id in "abcd"))
    found = results(store, fail(store, "a"), fail(store, "b"), fail(store, "c", error_type=None), fail(store, "d"))
    assert [type(one) for one in found] == [type(None), type(None), StorageError, type(None)]
    assert "NOT NULL" in str(found[2])
    assert steps(path) == [("a", "s", "failed"), ("b", "s", "failed"), ("c", "s", "running"), ("d", "s", "failed")]
    assert store.select("SELECT execution_id FROM step_errors ORDER BY 1") == [("a",), ("b",), ("d",)]


def test_an_owner_whose_record_was_taken_back_is_recorded_again(store):
    other = Owner("host", 2, "0")

    def recover(execution_id, token=1):
        return store.execution_recovered(Lease("w", execution_id, token), other, 5_000, 2, NOW)

    found = results(store, start(store, "a"), start(store, "b"), recover("c", token=7))
    assert [type(one) for one in found] == [type(None), type(None), LeaseLostError]
    assert asyncio.run(store.load_owner(other.owner_id)) is None
    asyncio.run(recover("c"))
    assert asyncio.run(store.load_owner(other.owner_id)) == (other, 5_000)


def test_an_owner_is_recorded_although_another_of_the_group_has_failed(store):
    other = Owner("host", 2, "0")
    recovered = store.execution_recovered(Lease("w", "c", 1), other, 5_000, 2, NOW)
    found = results(store, start(store, "a"), start(store, "b"), recovered, start(store, "d", token=7))
    assert [type(one) for one in found] == [type(None), type(None), Lease, LeaseLostError]
    assert asyncio.run(store.load_owner(other.owner_id)) == (other, 5_000)


def test_after_a_failed_commit_nothing_of_the_group_is_kept(store, path):
    full = sqlite3.OperationalError("database or disk is full")
    store._connection = Faulty(store.connection, "COMMIT", full)
    found = results(store, start(store, "a"), start(store, "b"), start(store, "c", token=7), start(store, "d"))
    assert found[0] is None
    assert [(type(error), error.reason) for error in found[1:]] == [(StorageError, "full")] * 3
    assert len({id(error) for error in found[1:]}) == 3
    assert steps(path) == running("a")
    assert not store.connection.in_transaction
    assert results(store, start(store, "b"), start(store, "c"), start(store, "d")) == [None] * 3
    assert steps(path) == running(*"abcd")


def test_a_full_disk_in_the_middle_fails_the_whole_group(store, path):
    pages = store.select("PRAGMA page_count")[0][0]
    store.connection.execute(f"PRAGMA max_page_count = {pages}")

    def large(execution_id):
        error = ErrorRecord("E", "m" * 100_000, None, None, 1, 0)
        return store.step_failed(Lease("w", execution_id, 1), StepRecord("s"), error, True, NOW)

    found = results(store, start(store, "a"), start(store, "b"), large("c"), start(store, "d"))
    assert found[0] is None
    assert [(type(error), error.reason) for error in found[1:]] == [(StorageError, "full")] * 3
    assert steps(path) == running("a")


def test_a_database_that_another_one_locks_fails_each_of_the_group(store, path):
    other = sqlite3.connect(path, isolation_level=None)

    async def scenario():
        tasks = await in_one_turn(*(start(store, execution_id) for execution_id in "abcd"))
        other.execute("BEGIN IMMEDIATE")
        return await asyncio.gather(*tasks, return_exceptions=True)

    found = asyncio.run(scenario())
    other.close()
    assert [getattr(error, "reason", None) for error in found] == [None, "locked", "locked", "locked"]
    assert steps(path) == running("a")


def test_an_interrupt_during_the_commit_keeps_nothing_and_the_next_turn_commits(store, path):
    store._connection = Faulty(store.connection, "COMMIT", KeyboardInterrupt())
    with interrupted(*(start(store, execution_id) for execution_id in "abcd")) as go_on:
        assert steps(path) == running("a")
        go_on()
    assert steps(path) == running(*"abcd")


@pytest.mark.parametrize("statement", ["BEGIN", "ROLLBACK", "INSERT INTO steps", "COMMIT"])
def test_an_interrupt_during_any_statement_neither_loses_a_write_nor_makes_it_twice(store, path, statement):
    loop = asyncio.new_event_loop()
    try:
        tasks = stopped_in_its_turn(loop, *(start(store, name, token=7 if name == "c" else 1) for name in "abcd"))
        store._connection = Interrupted(store.connection, statement, KeyboardInterrupt())
        everything = asyncio.gather(*tasks, return_exceptions=True)
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(everything)
        assert not store.connection.in_transaction
        found = loop.run_until_complete(everything)
    finally:
        loop.close()
    assert [type(one) for one in found] == [type(None), type(None), LeaseLostError, type(None)]
    assert steps(path) == running("a", "b", "d")


@pytest.mark.parametrize(("faulty", "statement"), [(Interrupted, "BEGIN"), (Interrupted, "COMMIT"), (Faulty, "COMMIT")])
def test_an_interrupt_at_the_ends_of_a_transaction_leaves_none_open(store, path, faulty, statement):
    store._connection = faulty(store.connection, statement, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        asyncio.run(fail(store, "a"))
    assert not store.connection.in_transaction
    other = sqlite3.connect(path, timeout=0, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    other.close()
    asyncio.run(fail(store, "b"))
    assert ("b",) in store.select("SELECT execution_id FROM step_errors")


def test_an_interrupt_after_a_failure_leaves_nobody_with_a_result_that_is_not_kept(store, path, monkeypatch):
    store._connection = Faulty(store.connection, "COMMIT", sqlite3.OperationalError("database or disk is full"))
    interrupts = [KeyboardInterrupt()]

    def roll_back():
        SQLiteStore.roll_back(store)
        if interrupts:
            raise interrupts.pop()

    monkeypatch.setattr(store, "roll_back", roll_back)
    with interrupted(*(start(store, execution_id) for execution_id in "abcd")) as go_on:
        assert steps(path) == running("a")
        go_on()
    assert steps(path) == running(*"abcd")


def test_an_interrupt_after_the_commit_lets_everybody_go_on(store, path, monkeypatch):
    def committed(points):
        assert points == len("bcd")
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr(store, "committed", committed)
    with interrupted(*(start(store, execution_id) for execution_id in "abcd")) as go_on:
        assert steps(path) == running(*"abcd")
        assert go_on() == [None] * 4


def test_executions_whose_common_commit_failed_go_on_and_no_step_runs_twice(path):
    store = SQLiteStore(path)
    engine = WorkflowEngine(store, settings=Settings(**QUICK))
    calls = []

    @engine.define("w")
    async def flow(ctx):
        async def work(number):
            await asyncio.sleep(0)
            calls.append((ctx.execution_id, number))

        for number in range(3):
            await ctx.step(f"s{number}", lambda number=number: work(number))
        return "done"

    async def scenario():
        await asyncio.gather(*(engine.start("w", f"warm-{number}") for number in range(20)))
        store._connection = Faulty(store.connection, "COMMIT", sqlite3.OperationalError("disk I/O error"))
        await asyncio.gather(*(engine.start("w", f"x-{number}") for number in range(20)))
        assert store._connection.error is None
        await engine.aclose()

    asyncio.run(scenario())
    assert len(calls) == len(set(calls)) == 120
    assert_no_gaps(path)


def assert_no_gaps(path):
    connection = sqlite3.connect(path)
    found = {}
    for execution_id, seq in connection.execute("SELECT execution_id, seq FROM step_events ORDER BY 1, 2"):
        found.setdefault(execution_id, []).append(seq)
    connection.close()
    assert found
    assert {name: places for name, places in found.items() if places != list(range(1, len(places) + 1))} == {}


# Threads, event loops, processes -------------------------------------------------------------------------------------


def test_another_thread_that_writes_commits_what_waits_first(store, path):
    seen = []

    def write():
        asyncio.run(store.circuit_forced("w", "s", lambda state: state))
        seen.append(steps(path))

    async def scenario():
        tasks = await in_one_turn(*(start(store, execution_id) for execution_id in "abcd"))
        thread = threading.Thread(target=write)
        thread.start()
        thread.join(10)
        assert not any(task.done() for task in tasks[1:])
        await asyncio.gather(*tasks)

    asyncio.run(scenario())
    assert seen == [running(*"abcd")]


def test_groups_of_several_event_loops_get_on_with_each_other(store, path):
    barrier = threading.Barrier(2)
    found = []

    def work(execution_id):
        async def one(number):
            for turn in range(5):
                await start(store, execution_id, f"{number}-{turn}")
                await asyncio.sleep(0)

        async def scenario():
            barrier.wait(10)
            await asyncio.gather(*(one(number) for number in range(20)))

        asyncio.run(scenario())
        found.append(execution_id)

    threads = [threading.Thread(target=work, args=(execution_id,)) for execution_id in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(found) == ["a", "b"]
    assert len(steps(path)) == 200


def test_a_loop_that_stands_still_locks_nobody_out(store, path):
    loop = asyncio.new_event_loop()
    try:
        tasks = stopped_in_its_turn(loop, *(start(store, execution_id) for execution_id in "abcd"))
        assert steps(path) == running("a")
        other = sqlite3.connect(path, timeout=0, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        other.execute("ROLLBACK")
        other.close()
        loop.run_until_complete(asyncio.gather(*tasks))
    finally:
        loop.close()
    assert steps(path) == running(*"abcd")


def test_another_loop_commits_what_waits_in_one_that_stands_still_and_has_groups_of_its_own(store, path):
    async def write():
        await asyncio.wait_for(asyncio.gather(*(start(store, "d", f"s{number}") for number in range(3))), 5)

    loop = asyncio.new_event_loop()
    try:
        tasks = stopped_in_its_turn(loop, *(start(store, execution_id) for execution_id in "abc"))
        asyncio.run(write())
        expected = running(*"abc") + [("d", f"s{number}", "running") for number in range(3)]
        assert steps(path) == expected
        loop.run_until_complete(asyncio.gather(*tasks))
    finally:
        loop.close()


def test_what_waits_when_the_store_is_closed_is_committed(store, path):
    async def scenario():
        tasks = await in_one_turn(*(start(store, execution_id) for execution_id in "abcd"))
        store.close()
        await asyncio.gather(*tasks)
        found = await asyncio.gather(*(start(store, "a", "late") for _ in range(3)), return_exceptions=True)
        assert [error.reason for error in found] == ["closed"] * 3

    asyncio.run(scenario())
    assert steps(path) == running(*"abcd")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_leaves_what_waits_to_its_parent(store, path):
    async def scenario():
        tasks = await in_one_turn(*(start(store, execution_id) for execution_id in "abcd"))
        pid = os.fork()
        if not pid:
            try:
                asyncio.set_event_loop(None)
                asyncio._set_running_loop(None)
                asyncio.run(store.circuit_forced("w", "s", lambda state: state))
                os._exit(0 if steps(path) == running("a") else 1)
            finally:
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        await asyncio.gather(*tasks)

    asyncio.run(scenario())
    assert steps(path) == running(*"abcd")


# Cancellations -------------------------------------------------------------------------------------------------------


def test_a_task_that_is_cancelled_while_it_waits_has_its_commit_and_is_cancelled_where_it_waits_next(store, path):
    noted = []

    async def write(execution_id):
        await start(store, execution_id)
        noted.append(steps(path))
        await asyncio.sleep(0)
        noted.append("not reached")

    async def scenario():
        tasks = await in_one_turn(start(store, "a"), start(store, "b"), write("c"), start(store, "d"))
        tasks[2].cancel("enough")
        with pytest.raises(asyncio.CancelledError, match="enough"):
            await tasks[2]
        assert tasks[2].cancelling() == 1
        await asyncio.gather(tasks[0], tasks[1], tasks[3])

    asyncio.run(scenario())
    assert noted == [running(*"abcd")]


class CutsOff(SQLiteStore):
    """Cancels the task that makes a durable point, in the turn in which it waits for its commit.

    The first execution of several opens the group, so it is cancelled before the commit. The others are cancelled
    after the commit, and before they go on.
    """

    def __init__(self, path, point, execution_id, cut):
        super().__init__(path)
        self.cut = cut
        method = getattr(self, point)

        async def cut_off(lease, step, *args):
            if self.cut is not None and (lease.execution_id, step.step_id) == (execution_id, "s"):
                cut, self.cut = self.cut, None
                cut(asyncio.current_task())
            return await method(lease, step, *args)

        setattr(self, point, cut_off)


async def work(ctx, point=None):
    await asyncio.sleep(0)
    if point == "step_attempt_failed" and ctx.attempt == 1:
        raise ConnectionError
    return ctx.attempt


def outputs(engine):
    async def scenario():
        found = await asyncio.gather(*(engine.start("w", f"x-{number}") for number in range(6)))
        await engine.aclose()
        return [result.output for result in found]

    return asyncio.run(scenario())


victims = pytest.mark.parametrize("victim", ["x-0", "x-3"])


@victims
@pytest.mark.parametrize("point", ["step_started", "step_completed", "step_attempt_failed", "step_skipped"])
def test_a_step_that_is_cancelled_at_its_durable_point_is_known_to_the_engine(path, point, victim):
    """It is run again, by the same id: its rows and the engine's memory have to agree."""
    ends = []
    store = CutsOff(path, point, victim, lambda task: asyncio.get_running_loop().call_soon(task.cancel))
    engine = WorkflowEngine(store, settings=Settings(**QUICK))

    @engine.define("w", retry_config=RetryConfig(max_attempts=3, backoff_ms=100))
    async def flow(ctx):
        async def step():
            return await (ctx.skip("s", 1) if point == "step_skipped" else ctx.step("s", lambda: work(ctx, point)))

        task = asyncio.ensure_future(step())
        await asyncio.wait([task])
        ends.append((ctx.execution_id, task.cancelled()))
        result = await step()
        await ctx.step("after", lambda: work(ctx))
        return result

    found = outputs(engine)
    assert store.cut is None
    assert [execution_id for execution_id, cancelled in ends if cancelled] == [victim]
    attempts = {"step_started": 2, "step_completed": 1, "step_attempt_failed": 2, "step_skipped": 1}
    others = 2 if point == "step_attempt_failed" else 1
    assert found == [attempts[point] if f"x-{number}" == victim else others for number in range(6)]
    assert_no_gaps(path)


@victims
@pytest.mark.parametrize("point", ["step_completed", "step_failed", "step_skipped", "sleep_completed"])
def test_a_time_out_that_ends_at_a_durable_point_is_a_time_out_and_nothing_is_left_of_it(path, point, victim):
    outcomes, timeouts = [], []
    store = CutsOff(path, point, victim, lambda _: timeouts[0].reschedule(0))
    engine = WorkflowEngine(store, settings=Settings(**QUICK))

    @engine.define("w", retry_config=RetryConfig(max_attempts=1))
    async def flow(ctx):
        async def step():
            match point:
                case "step_skipped":
                    await ctx.skip("s")
                case "sleep_completed":
                    await ctx.sleep("s", 0)
                case "step_failed":
                    with contextlib.suppress(WorkflowError):
                        await ctx.step("s", lambda: work(ctx, "step_attempt_failed"))
                case _:
                    await ctx.step("s", lambda: work(ctx))

        try:
            async with asyncio.timeout(600) as timeout:
                if ctx.execution_id == victim:
                    timeouts.append(timeout)
                await step()
        except TimeoutError:
            outcomes.append(ctx.execution_id)
        await asyncio.sleep(0)
        assert asyncio.current_task().cancelling() == 0
        await step()
        return "done"

    assert outputs(engine) == ["done"] * 6
    assert store.cut is None
    assert outcomes == [victim]
    assert_no_gaps(path)


def test_an_engine_that_is_closed_at_once_gives_everything_back(path):
    engine = WorkflowEngine(SQLiteStore(path), settings=Settings(**QUICK))

    @engine.define("w")
    async def flow(ctx):
        async def work():
            await asyncio.sleep(0)

        for number in range(50):
            await ctx.step(f"s{number}", work)

    async def scenario():
        for number in range(20):
            await engine.start("w", f"x-{number}", detach=True)
        for _ in range(31):
            await asyncio.sleep(0)
        await engine.aclose()

    asyncio.run(scenario())
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT DISTINCT owner_id FROM executions").fetchall() == [(None,)]
    assert connection.execute("SELECT count(*) FROM steps WHERE status = 'running'").fetchone() == (0,)
    assert connection.execute("SELECT count(*) FROM steps WHERE status = 'completed'").fetchone()[0] > 0
    connection.close()


# Of one execution ----------------------------------------------------------------------------------------------------


def test_a_step_that_begins_in_the_turn_of_a_sleep_keeps_the_execution_running(machine):
    seen = []

    @machine.define("w")
    async def flow(ctx):
        async def work():
            await asyncio.sleep(0)
            seen.append((await engine.store.load_execution(ctx.execution_id)).status)

        await asyncio.gather(ctx.sleep("z", 1_000), ctx.step("s", work))
        await asyncio.gather(ctx.sleep("y", 1_000), ctx.sleep("x", 2_000))

    engine = machine.boot()

    async def scenario():
        handles = asyncio.gather(*(engine.start("w", f"x-{number}") for number in range(5)))
        await machine.clock.settle()
        statuses = [(await engine.store.load_execution(f"x-{number}")).status for number in range(5)]
        assert statuses == ["sleeping"] * 5
        await machine.clock.finish(handles)

    asyncio.run(scenario())
    assert seen == ["running"] * 5


def test_parallel_steps_with_circuits_leave_no_gap_in_the_history(path):
    engine = WorkflowEngine(SQLiteStore(path), settings=Settings(**QUICK))

    @engine.define("w", retry_config=RetryConfig(max_attempts=2, backoff_ms=1))
    async def flow(ctx):
        async def work(name):
            await asyncio.sleep(0)
            if name == "flaky" and ctx.attempt == 1:
                raise ConnectionError

        guarded = [
            ctx.step(name, lambda name=name: work(name)).with_circuit_breaker(failure_threshold=50)
            for name in ("flaky", "left", "right")
        ]
        await asyncio.gather(*guarded, *(ctx.step(name, lambda: work("plain")) for name in ("p", "q")))

    async def scenario():
        await asyncio.gather(*(engine.start("w", f"x-{number}") for number in range(8)))
        await engine.aclose()

    asyncio.run(scenario())
    assert_no_gaps(path)


def test_executions_of_a_runtime_directory_share_commits(tmp_path):
    store = DirectoryStore(tmp_path)
    engine = WorkflowEngine(store, settings=Settings(**QUICK))

    @engine.define("w")
    async def flow(ctx):
        async def work():
            await asyncio.sleep(0)

        for number in range(4):
            await ctx.step(f"s{number}", work)

    async def scenario():
        await engine.start("w", "first")
        said = traced(store.workflow("w"))
        await asyncio.gather(*(engine.start("w", f"x-{number}") for number in range(10)))
        await engine.aclose()
        return said

    assert asyncio.run(scenario()).count("COMMIT") < 40  # of 100 durable points
