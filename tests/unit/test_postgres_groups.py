"""Durable points that several executions make at the same time on PostgreSQL go together, and none harms another."""

import asyncio
import contextlib
import functools

import pytest

from tests.unit.conftest import sql
from tests.unit.store_calls import NOW, OWNER
from workflow_core import LeaseLostError, Settings, StorageError, WorkflowEngine
from workflow_core.database.postgres import groups
from workflow_core.database.store import Lease, NewExecution, StepRecord
from workflow_core.ownership import Owner

COUNT = 30


def new(number, **options):
    return NewExecution("w", f"e{number}", None, "{}", "{}", None, **options)


def leases(count=COUNT):
    return [Lease("w", f"e{number}", 1) for number in range(count)]


async def start(store, count=COUNT):
    await store.execution_started(new("first"), OWNER, None, NOW)  # the owner is recorded with it
    return await asyncio.gather(*(store.execution_started(new(n), OWNER, None, NOW) for n in range(count)))


async def begin_step(store, held):
    return await asyncio.gather(
        *(store.step_started(lease, StepRecord("s"), 1, 2, NOW, None) for lease in held), return_exceptions=True
    )


async def complete_step(store, held, result='"\\\\ {1,NULL} é \'"'):
    step = StepRecord("s", status="running", attempt=1, started_seq=2, stored=True)
    return await asyncio.gather(
        *(store.step_completed(lease, step, result, None, 3, NOW, None, None) for lease in held),
        return_exceptions=True,
    )


async def complete(store, held):
    return await asyncio.gather(
        *(store.execution_completed(lease, None, False, 4, NOW) for lease in held), return_exceptions=True
    )


@pytest.fixture
def sent(monkeypatch):
    """Give the sizes of the groups that are sent."""
    sizes = []
    original = groups.Groups._write

    def write(self, here, kind, members):
        sizes.append(len(members))
        return original(self, here, kind, members)

    monkeypatch.setattr(groups.Groups, "_write", write)
    return sizes


def test_what_is_written_together_is_what_is_written_one_by_one(make_postgres_store, make_schema, sent):
    async def all_of_it(store, count):
        for number in range(0, COUNT, count):
            held = leases()[number : number + count]
            await asyncio.gather(
                *(store.execution_started(new(lease.execution_id[1:]), OWNER, 5, NOW) for lease in held)
            )
            assert await begin_step(store, held) == [None] * count
            assert await complete_step(store, held) == [None] * count
            assert await complete(store, held) == [None] * count
        return [
            await sql(store, f"SELECT * FROM {{s}}.{table} ORDER BY 1, 2")
            for table in ("executions", "steps", "event_log", "owners", "step_events")
        ]

    async def scenario():
        one_by_one = await all_of_it(make_postgres_store(), 1)
        assert not sent
        store = make_postgres_store(schema=make_schema())
        assert await all_of_it(store, COUNT) == one_by_one
        assert sum(sent) >= 3 * (COUNT - 1) and len(sent) <= 4

    asyncio.run(scenario())


def test_many_executions_at_once_share_their_round_trips(make_postgres_store, proxy):
    async def scenario():
        engine = WorkflowEngine(make_postgres_store(proxy.url), settings=Settings(lease_ms=None))

        @engine.define("w")
        async def work(ctx):
            for number in range(5):
                await ctx.step(f"s{number}", lambda: 1)

        await engine.start("w", "first")
        before = proxy.requests
        await asyncio.gather(*(engine.start("w", f"e{number}") for number in range(COUNT)))
        assert proxy.requests - before < COUNT * (2 + 2 * 5) / 4
        for number in range(6):  # the statements of one alone are prepared
            await engine.start("w", f"warm-{number}")
        before = proxy.requests
        await engine.start("w", "alone")
        assert proxy.requests - before == 2 + 2 * 5
        await engine.aclose()

    asyncio.run(scenario())


def test_a_point_that_is_refused_does_not_harm_those_it_goes_with(make_postgres_store, sent):
    async def scenario():
        store = make_postgres_store()
        await start(store)
        held = leases()
        await sql(store, "UPDATE {s}.executions SET fencing_token = 2 WHERE id = 'e7'")
        await sql(store, "DELETE FROM {s}.executions WHERE id = 'e8'")
        for act in (begin_step, complete_step, complete):
            results = await act(store, held)
            assert [number for number, result in enumerate(results) if result is not None] == [7, 8]
            assert isinstance(results[7], LeaseLostError)
        assert await sql(store, "SELECT count(*) FROM {s}.steps WHERE execution_id IN ('e7', 'e8')") == [(0,)]
        assert await sql(store, "SELECT status, count(*) FROM {s}.executions GROUP BY 1 ORDER BY 1") == [
            ("completed", COUNT - 2),
            ("running", 2),
        ]
        assert max(sent) > 10

    asyncio.run(scenario())


def test_an_id_that_was_started_before_is_told_to_its_starter_alone(make_postgres_store):
    async def scenario():
        store = make_postgres_store()
        other = make_postgres_store()
        owner = Owner("other", 2, "0")
        assert await other.execution_started(new(5), owner, None, NOW) is None
        found = await start(store)
        assert [number for number, record in enumerate(found) if record is not None] == [5]
        assert found[5].owner_id == owner.owner_id

    asyncio.run(scenario())


def test_a_row_that_another_program_changed_is_an_error_of_its_own_execution(make_postgres_store):
    async def scenario():
        store = make_postgres_store()
        await start(store)
        await begin_step(store, leases())
        await sql(store, "UPDATE {s}.steps SET status = 'completed' WHERE execution_id = 'e3'")
        results = await complete_step(store, leases())
        assert isinstance(results.pop(3), StorageError)
        assert results == [None] * (COUNT - 1)

    asyncio.run(scenario())


def test_an_execution_that_is_locked_is_waited_for_by_itself(make_postgres_store, caplog):
    caplog.set_level("DEBUG", "workflow_core")

    async def scenario():
        store, other = make_postgres_store(), make_postgres_store()
        await start(store)
        held, locked, go_on = leases(), asyncio.Event(), asyncio.Event()

        async def lock(connection):
            async with connection.transaction():
                await connection.execute(other.sql("SELECT 1 FROM {s}.executions WHERE id = 'e7' FOR UPDATE"))
                locked.set()
                await go_on.wait()

        locking = asyncio.create_task(other.together(lock))
        await locked.wait()
        others = [*held[:7], *held[8:]]
        tasks = [asyncio.create_task(begin_step(store, [lease])) for lease in held]
        waits = tasks.pop(7)
        assert await asyncio.gather(*tasks) == [[None]] * (COUNT - 1)
        assert await complete_step(store, others) == [None] * (COUNT - 1)
        assert not waits.done()
        go_on.set()
        await locking
        assert await waits == [None]
        assert not caplog.records  # no group had to give up

    asyncio.run(scenario())


@pytest.mark.parametrize("was_used", [True, False], ids=["used before", "new"])
@pytest.mark.parametrize("answer", [0, 1])
def test_points_whose_common_answer_is_lost_are_written_once_and_told_as_success(
    make_postgres_store, proxy, was_used, answer
):
    async def again(call):
        for _ in range(3):
            try:
                return await call()
            except StorageError as error:
                assert error.reason == "unavailable"  # noqa: PT017 - every other error is raised
        raise AssertionError

    async def scenario():
        direct = make_postgres_store()
        await start(direct)
        held = leases()
        step = StepRecord("s", status="running", stored=True)
        for act in (
            lambda store, lease: store.step_started(lease, StepRecord("s"), 1, 2, NOW, None),
            lambda store, lease: store.step_completed(lease, step, "1", None, 3, NOW, None, None),
            lambda store, lease: store.execution_completed(lease, None, False, 4, NOW),
        ):
            through = make_postgres_store(proxy.url, max_connections=3)
            if was_used:
                await asyncio.gather(*(through.open() for _ in range(3)))
            proxy.lose_answer(answer)
            await asyncio.gather(*(again(functools.partial(act, through, lease)) for lease in held))
            assert proxy.lost
            proxy.stop_losing()
        assert await sql(direct, "SELECT status, revision, count(*) FROM {s}.steps GROUP BY 1, 2") == [
            ("completed", 1, COUNT)
        ]
        assert await sql(
            direct,
            "SELECT status, revision, completed_seq, count(*) FROM {s}.executions WHERE id <> 'efirst'"
            " GROUP BY 1, 2, 3",
        ) == [("completed", 1, 4, COUNT)]

    asyncio.run(scenario())


def test_a_task_that_is_cancelled_while_it_waits_hears_of_its_point_first(make_postgres_store):
    heard = []

    async def scenario():
        store = make_postgres_store()
        await start(store)

        async def step(lease):
            await store.step_started(lease, StepRecord("s"), 1, 2, NOW, None)
            heard.append(lease.execution_id)
            await asyncio.sleep(0)

        tasks = [asyncio.create_task(step(lease)) for lease in leases()]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [isinstance(result, asyncio.CancelledError) for result in results] == [True, False] * (COUNT // 2)
        assert sorted(heard) == sorted(lease.execution_id for lease in leases())
        assert await sql(store, "SELECT count(*) FROM {s}.steps") == [(COUNT,)]

    asyncio.run(scenario())


def test_a_cancellation_that_comes_in_the_turn_of_the_answer_comes_after_it(monkeypatch):
    monkeypatch.setattr("workflow_core.database.postgres.database._GRACE_SECONDS", 0)
    told = []

    async def scenario():
        first_is_done = asyncio.Event()

        async def fetch(sql, values):
            asyncio.get_running_loop().call_soon(second.cancel)
            return [(execution_id, "written") for execution_id in values["id"]]

        async def write(execution_id):
            told.append(await waiting.write(kind, (execution_id,), first_is_done.wait))
            await asyncio.sleep(0)

        waiting, kind = groups.Groups(fetch), groups.Kind({"id": "text"}, 1, None, "")
        first, second = (asyncio.create_task(write(execution_id)) for execution_id in ("e1", "e2"))
        await asyncio.sleep(0)
        first_is_done.set()
        await first
        with pytest.raises(asyncio.CancelledError):
            await second
        assert told == [None, ("written",)]

    asyncio.run(scenario())


def test_a_point_that_gave_up_waiting_for_its_turn_holds_up_no_other(monkeypatch):
    monkeypatch.setattr("workflow_core.database.postgres.database._GRACE_SECONDS", 0)

    async def scenario():
        points, may_end = groups.Groups(None), asyncio.Event()
        first, second = (asyncio.create_task(points.in_order("e1", may_end.wait)) for _ in range(2))
        await asyncio.sleep(0)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        third = asyncio.create_task(points.in_order("e1", may_end.wait))
        may_end.set()
        assert await asyncio.wait_for(asyncio.gather(first, third), 10) == [True, True]
        assert await asyncio.wait_for(points.in_order("e1", may_end.wait), 10)

    asyncio.run(scenario())


def test_the_points_of_one_execution_are_committed_in_their_order(make_postgres_store, monkeypatch):
    """Each statement that is sent is looked at when it begins: all that comes before it is in the database."""

    async def scenario():
        store, other = make_postgres_store(), make_postgres_store()
        await start(store, 3)
        positions = []
        original = store._on_connection

        async def looked_at(work):
            rows = await sql(other, "SELECT seq FROM {s}.step_events WHERE execution_id = 'e1' ORDER BY seq")
            positions.append([seq for (seq,) in rows])
            return await original(work)

        monkeypatch.setattr(store, "_on_connection", looked_at)
        lease, seq = Lease("w", "e1", 1), 1

        async def step(name, kind):
            nonlocal seq
            seq += 1
            if kind == "sleep":
                await store.sleep_started(lease, StepRecord(name), 5, 9, seq, NOW, "sleeping" if seq == 4 else None)
                return
            await store.step_started(lease, StepRecord(name), 1, seq, NOW, None)
            seq += 1
            stored = StepRecord(name, status="running", attempt=1, stored=True)
            await store.step_completed(lease, stored, "1", None, seq, NOW, None, None)

        kinds = ["step", "step", "sleep", "step", "step", "sleep", "step"]
        await asyncio.gather(*(step(f"s{number}", kind) for number, kind in enumerate(kinds)))
        assert len(positions) < 2 * len(kinds)
        for found in positions:
            assert found == list(range(1, len(found) + 1))

    asyncio.run(scenario())


def test_a_group_has_an_end(make_postgres_store, monkeypatch, sent):
    monkeypatch.setattr(groups, "_MOST_MEMBERS", 5)

    async def scenario():
        store = make_postgres_store()
        await start(store)
        assert max(sent) == 5
        assert await sql(store, "SELECT count(*) FROM {s}.executions") == [(COUNT + 1,)]

    asyncio.run(scenario())


def test_a_store_that_is_closed_ends_those_who_wait(make_postgres_store):
    async def scenario():
        store = make_postgres_store()
        await start(store)
        waiting = asyncio.create_task(begin_step(store, leases()))
        await asyncio.sleep(0)
        store.close()
        results = await waiting
        assert {type(result) for result in results} == {StorageError}
        assert {result.reason for result in results} == {"closed"}
        with contextlib.suppress(StorageError):
            await store.load_execution("e1")

    asyncio.run(scenario())
