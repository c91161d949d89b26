"""What a worker may do that was taken for dead, and what a session needs that a pooler did not tell, on PostgreSQL."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

pytest.importorskip("procrastinate")

from procrastinate import sql

from tests.unit.dispatch_cluster import NOW, OWNER
from workflow_core import StorageError, ValidationError, WorkflowEngine
from workflow_core.cluster import connector as connector_module
from workflow_core.cluster import upkeep, waiting
from workflow_core.cluster import worker as worker_module
from workflow_core.cluster.settings import WorkerSettings
from workflow_core.database.dispatch import Dispatch
from workflow_core.database.postgres.address import Address
from workflow_core.database.postgres.workers import Sign
from workflow_core.database.removal import Expiry
from workflow_core.database.store import NewExecution
from workflow_core.limits import Limits

QUEUES = ["default"]


@pytest.fixture
def run_with_two(make_postgres_store, postgres_queue):
    """Runs a scenario with a store and the connections of two workers."""

    def run(scenario):
        async def all_of_it():
            store = make_postgres_store()
            await store.make_queue()
            connectors = [connector_module.PatientConnector(*store.connection_string(), 2, 10) for _ in range(2)]
            numbers = []
            for connector in connectors:
                await connector.open_async()
                row = await connector.execute_query_one_async(sql.queries["register_worker"])
                numbers.append(row["worker_id"])
            try:
                await scenario(store, connectors, numbers)
            finally:
                for connector in connectors:
                    await connector.close_async()

        asyncio.run(all_of_it())

    return run


async def fetch(connector, worker_id):
    return (await connector.execute_query_one_async(sql.queries["fetch_job"], queues=QUEUES, worker_id=worker_id))["id"]


async def state_of(store):
    return await store.fetch("SELECT status::text, worker_id FROM {s}.procrastinate_jobs")


def test_a_job_that_was_given_to_another_worker_is_claimed_ended_and_put_back_by_that_one_alone(run_with_two):
    async def scenario(store, connectors, numbers):
        (stale, other), (its_number, others_number) = connectors, numbers
        new = NewExecution("w", "e", None, "{}", "{}", None)
        await store.execution_enqueued(new, Dispatch(), NOW)
        job = await fetch(stale, its_number)
        await other.put_back([job], its_number)
        assert await store.execution_claimed("e", job, OWNER, None, NOW, its_number) is None
        assert await fetch(other, others_number) == job
        held = [("doing", others_number)]

        for group in (1, 3):  # by itself, and together
            claims = (store.execution_claimed("e", job, OWNER, None, NOW, its_number) for _ in range(group))
            assert await asyncio.gather(*claims) == [None] * group
        await stale.execute_query_async(sql.queries["finish_job"], job_id=job, status="succeeded", delete_job=True)
        assert await state_of(store) == held
        await stale.execute_query_async(
            sql.queries["retry_job"], job_id=job, retry_at=NOW, new_priority=None, new_queue_name=None, new_lock=None
        )
        await stale.put_back([job], its_number)
        assert await state_of(store) == held

        claim = await store.execution_claimed("e", job, OWNER, None, NOW, others_number)
        assert claim.kind == "begun"
        await other.execute_query_async(sql.queries["finish_job"], job_id=job, status="succeeded", delete_job=True)
        assert await state_of(store) == []

    run_with_two(scenario)


def test_a_worker_is_silent_by_its_own_heartbeat_and_not_by_that_of_who_looks(run_with_two):
    async def scenario(store, connectors, numbers):
        await store.worker_joined(numbers[0], "host", 1, QUEUES, 10, 60_000)  # the other one has not told its heartbeat
        for seconds, silent in ((0, [False, False]), (60, [False, True]), (170, [False, True]), (190, [True, True])):
            await store.fetch(
                "UPDATE {s}.procrastinate_workers SET last_heartbeat = now() - %(s)s * interval '1 s' RETURNING 1",
                {"s": seconds},
            )
            signs = await store.signs_of_life(1_000)
            assert [(sign.worker_id, sign.is_silent) for sign in signs] == list(zip(numbers, silent, strict=True))
            assert [sign.heartbeat_seconds for sign in signs] == [60, 1]

    run_with_two(scenario)


class Watch:
    """A worker that looks for the dead, each time some seconds later; it gives a sign of life every ten seconds."""

    def __init__(self):
        self.seconds, self.signs, self.clock, self.is_away = 0.0, {}, self, False
        self.upkeep = upkeep.Upkeep(self, self, None, WorkerSettings(heartbeat_ms=10_000))

    def monotonic(self):
        return self.seconds

    async def signs_of_life(self, heartbeat_ms):
        if self.is_away:
            raise StorageError("the database is away", "", "unavailable")
        return [
            Sign(number, NOW + timedelta(seconds=at), 10, self.seconds - at > 30) for number, at in self.signs.items()
        ]

    def dead_after(self, seconds):
        self.seconds += seconds
        try:
            return asyncio.run(self.upkeep.look_for_the_dead())
        except StorageError:
            return "away"


def test_a_worker_is_dead_that_has_given_no_sign_of_life_for_three_heartbeats():
    watch = Watch()
    watch.signs = {1: 0.0, 2: 0.0}
    assert [watch.dead_after(10) for _ in range(3)] == [[], [], []]
    watch.signs[2] = 30.0
    assert watch.dead_after(0.1) == [1]


def test_who_sees_an_old_sign_of_life_for_the_first_time_waits_for_the_next_one():
    watch = Watch()
    watch.signs = {1: -100.0, 2: -100.0}
    assert [watch.dead_after(seconds) for seconds in (1, 14.9)] == [[], []]
    watch.signs[1] = watch.seconds
    assert watch.dead_after(0.1) == [2]


@pytest.mark.parametrize("is_away", [True, False], ids=["not answered", "stood still"])
def test_who_could_not_look_for_a_while_takes_nobody_for_dead_that_could_not_tell_meanwhile(is_away):
    watch = Watch()
    watch.signs = {1: 0.0}
    assert watch.dead_after(5) == []
    if is_away:
        watch.is_away = True
        assert [watch.dead_after(15) for _ in range(3)] == ["away"] * 3
        watch.is_away = False
        watch.seconds -= 45
    assert watch.dead_after(45) == []
    assert watch.dead_after(10) == []
    assert watch.dead_after(5) == [1]


def test_the_jobs_of_the_dead_and_the_forgotten_are_left(run_with_two):
    async def scenario(store, connectors, numbers):
        jobs = []
        for connector, number in zip(connectors, numbers, strict=True):
            new = NewExecution("w", f"e-{number}", None, "{}", "{}", None)
            await store.execution_enqueued(new, Dispatch(), NOW)
            jobs.append(await fetch(connector, number))
        assert await store.left_jobs([]) == []
        assert await store.left_jobs(numbers[1:]) == [(jobs[1], numbers[1])]
        await store.fetch("DELETE FROM {s}.procrastinate_workers WHERE id = %(id)s RETURNING 1", {"id": numbers[0]})
        assert await store.left_jobs([]) == [(jobs[0], None)]

    run_with_two(scenario)


def test_a_session_whose_settings_were_not_passed_on_has_them(run_with_two):
    async def scenario(store, connectors, numbers):
        async with connectors[0].pool.connection() as connection:
            await connection.execute("RESET ALL")
            await connection.execute("SET search_path = nowhere")
            await connector_module.PatientConnector._configure(connectors[0], connection)
        assert await fetch(connectors[0], numbers[0]) is None

    run_with_two(scenario)


def test_a_database_that_is_read_only_for_a_while_is_waited_for(run_with_two):
    async def scenario(store, connectors, numbers):
        async with connectors[0].pool.connection() as connection:
            await connection.execute("SET default_transaction_read_only = on")
        assert await asyncio.wait_for(fetch(connectors[0], numbers[0]), 20) is None
        assert connectors[0].refusal is None

    run_with_two(scenario)


def test_the_options_of_a_url_are_added_to_those_of_every_connection():
    conninfo = Address("postgresql://h/d?options=-c%20work_mem%3D8MB", "s").conninfo
    assert "default_transaction_isolation=read" in conninfo
    assert "datestyle=ISO" in conninfo
    assert conninfo.index("lock_timeout") < conninfo.index("work_mem=8MB")


def test_a_key_that_is_half_a_character_is_refused():
    with pytest.raises(ValidationError, match="A key of limits"):
        Limits(concurrency=1, key="k").key_of({"k": "\ud800"}, None)


def test_a_cleanup_leaves_what_a_rate_limit_counts(run_with_two):
    async def scenario(store, connectors, numbers):
        limits = Limits(starts=1, period_ms=60_000)
        await store.limits_noted("w", limits)
        now = datetime.now(UTC)
        for name in ("first", "second"):
            new = NewExecution("w", name, None, "{}", "{}", None)
            await store.execution_enqueued(new, Dispatch(limits=limits), now)
        claim = await store.execution_claimed("first", await fetch(connectors[0], numbers[0]), OWNER, None, now)
        await store.execution_completed(claim.record.lease, None, False, 2, now)
        expiry = Expiry(before=now + timedelta(seconds=1), statuses=("completed",))
        assert await store.executions_removed("w", expiry, None, 10, lambda: False) == ([], None)
        await store.admit_missed()
        assert await fetch(connectors[0], numbers[0]) is None
        await store.fetch(
            "UPDATE {s}.dispatches SET first_start_at = first_start_at - interval '2 minutes'"
            " WHERE execution_id = 'first' RETURNING 1"
        )
        removed, _ = await store.executions_removed("w", expiry, None, 10, lambda: False)
        assert [candidate.execution_id for candidate in removed] == ["first"]

    run_with_two(scenario)


def test_sweeps_for_which_no_worker_had_room_are_made_up_for_at_once(run_with_two):
    async def scenario(store, connectors, numbers):
        await connectors[0].execute_query_async(
            "INSERT INTO procrastinate_jobs (queue_name, task_name, priority, args) SELECT 'workflow_core',"
            " 'workflow_core.wake', %(priority)s, jsonb_build_object('timestamp', n) FROM generate_series(1, 50) n",
            priority=upkeep.FIRST,
        )
        values = {"priority": upkeep.FIRST, "task": upkeep.SWEEP_TASK}
        assert len(await connectors[0].execute_query_all_async(upkeep.OVERDUE, **values)) == 50
        assert await state_of(store) == []

    run_with_two(scenario)


def test_limits_that_another_worker_is_applying_are_waited_for(make_postgres_store, monkeypatch):
    async def scenario():
        engine = WorkflowEngine(make_postgres_store())
        engine.define("w", lambda ctx: None, limits=Limits(concurrency=1))
        worker, tries = worker_module.Worker(engine), []
        original = engine.bare_store.limits_noted

        async def noted(*arguments):
            if arguments[0] != "w":  # one of the process, which every engine knows
                return
            tries.append(arguments)
            if len(tries) == 1:
                raise StorageError("a lock timeout", "", "locked")
            await original(*arguments)

        monkeypatch.setattr(worker._store, "limits_noted", noted)
        monkeypatch.setattr(waiting, "_PAUSE_SECONDS", 0)
        assert await worker._prepared(asyncio.Event())
        await worker._app.close_async()
        assert len(tries) == 2
        assert await engine.bare_store.fetch("SELECT concurrency FROM {s}.limits") == [(1,)]
        await engine.aclose()

    asyncio.run(scenario())
