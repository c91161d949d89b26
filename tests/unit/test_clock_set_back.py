"""The clock of the server, or of a worker, is set back: moments that lie in the future then hold nothing up."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from tests.unit.dispatch_cluster import NOW, in_schema
from workflow_core import Settings, WorkflowEngine
from workflow_core.limits import Limits

pytest.importorskip("procrastinate")

from workflow_core.cluster.settings import WorkerSettings
from workflow_core.cluster.worker import Worker

DAY = "clock_timestamp() + interval '1 day'"
RATE = Limits(starts=1, period_ms=60_000)


async def move(store, what):
    await in_schema(store, f"UPDATE {what}")


def test_limits_that_were_declared_in_the_future_give_way(run_cluster):
    async def scenario(cluster):
        await cluster.store.limits_noted("w", Limits(concurrency=1))
        await move(cluster.store, f"limits SET declared_at = {DAY}")
        await cluster.store.limits_noted("w", Limits(concurrency=2), 1_000)
        assert await cluster.store.fetch("SELECT concurrency FROM {s}.limits") == [(2,)]
        await cluster.store.limits_noted("w", Limits(concurrency=3), 2_000)  # of an older deployment, as ever
        assert await cluster.store.fetch("SELECT concurrency FROM {s}.limits") == [(2,)]

    run_cluster(scenario)


def test_a_rate_limit_counts_what_began_in_the_future_as_begun_now(run_cluster):
    async def scenario(cluster):
        await cluster.enqueue("a")
        await cluster.enqueue("b")
        await cluster.claim("a")
        await move(cluster.store, f"dispatches SET first_start_at = {DAY} WHERE has_started")
        await cluster.store.mend_future(None)
        assert await cluster.store.admit_missed() == 0  # it keeps nobody waiting for longer, and lets nobody in before
        await cluster.past(61)
        assert await cluster.store.wake_due() == 1
        assert await cluster.states() == {"a": "claimed", "b": "queued"}

    run_cluster(scenario, RATE)


@pytest.mark.parametrize("key", [None, "k"])
def test_who_is_to_begin_later_than_a_rate_limit_can_say_is_looked_at_again(run_cluster, key):
    async def scenario(cluster):
        await cluster.enqueue("a", limit_key=key)
        await cluster.enqueue("b", limit_key=key)
        await cluster.run("a")
        await move(cluster.store, f"dispatches SET first_start_at = {DAY} WHERE NOT has_started")
        await cluster.past(61)
        assert await cluster.store.wake_due() == 0
        await cluster.store.mend_future(None)
        assert await cluster.store.admit_missed() == 1

    run_cluster(scenario, RATE if key is None else Limits(starts_per_key=1, key="k", period_ms=60_000))


def test_whom_a_rate_limit_delays_goes_on_waiting(run_cluster):
    async def scenario(cluster):
        for execution_id in "ab":
            await cluster.enqueue(execution_id)
        await cluster.claim("a")
        waits = "SELECT execution_id, first_start_at FROM {s}.dispatches ORDER BY 1"
        before = await cluster.store.fetch(waits)
        assert await cluster.store.mend_future(datetime.now(UTC) - timedelta(seconds=5)) > NOW
        assert await cluster.store.fetch(waits) == before

    run_cluster(scenario, RATE)


def test_a_worker_that_died_in_the_future_is_missed_from_now_on(run_cluster):
    async def scenario(cluster):
        await cluster.store.make_queue()
        await in_schema(cluster.store, f"INSERT INTO procrastinate_workers (last_heartbeat) VALUES ({DAY})")
        await cluster.store.mend_future(None)
        found = "SELECT last_heartbeat BETWEEN clock_timestamp() - interval '1 minute' AND clock_timestamp()"
        assert await cluster.store.fetch(f"{found} FROM {{s}}.procrastinate_workers") == [(True,)]

    run_cluster(scenario)


@pytest.mark.parametrize("was_set_back", [True, False])
def test_a_job_that_was_put_off_to_the_future_comes_now(run_cluster, was_set_back):
    async def scenario(cluster):
        await cluster.enqueue("e")
        await move(cluster.store, f"procrastinate_jobs SET scheduled_at = {DAY}")
        known = datetime.now(UTC) + timedelta(hours=23 if was_set_back else 0)
        await cluster.store.mend_future(known)
        due = "SELECT scheduled_at <= clock_timestamp() FROM {s}.procrastinate_jobs"
        assert await cluster.store.fetch(due) == [(was_set_back,)]

    run_cluster(scenario)


def test_an_execution_without_a_job_gets_one_although_it_was_changed_in_the_future(run_cluster):
    async def scenario(cluster):
        await cluster.enqueue("e")
        await cluster.claim("e")
        await in_schema(cluster.store, "DELETE FROM procrastinate_jobs")
        for when, found in (("clock_timestamp() + interval '30 seconds'", 0), (DAY, 1)):
            await move(cluster.store, f"executions SET updated_at = {when}, revision = revision + 1")
            assert await cluster.store.queue_orphans(60_000) == found

    run_cluster(scenario)


def test_a_worker_whose_own_clock_is_set_back_looks_itself_for_the_dead(make_postgres_store, clock, monkeypatch):
    """Until its clock is where it was, Procrastinate makes no job there that does."""

    async def scenario():
        engine = WorkflowEngine(make_postgres_store(), clock, settings=Settings(lease_ms=None))
        worker = Worker(engine, WorkerSettings(heartbeat_ms=100))
        upkeep, known, swept = worker._upkeep, [], asyncio.Event()

        async def mend_future(moment):
            known.append(moment)
            if len(known) == 2:
                clock.time -= timedelta(days=1)
            return NOW

        async def sweep(manager):
            assert len(known) >= 2
            swept.set()

        monkeypatch.setattr(worker._store, "mend_future", mend_future)
        monkeypatch.setattr(upkeep, "sweep", sweep)
        task = asyncio.create_task(upkeep.heed_the_clock(worker._app.job_manager))
        await swept.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert known[:2] == [None, NOW]
        await engine.aclose()

    asyncio.run(scenario())
