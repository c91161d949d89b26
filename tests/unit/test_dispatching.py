"""Executions that are handed to workers: how PostgreSQL queues, claims, parks and wakes them."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from tests.unit.dispatch_cluster import NOW, OTHER, OWNER, lease_of
from workflow_core import LeaseLostError
from workflow_core.clock import to_epoch_ms
from workflow_core.database.store import Lease, NewExecution
from workflow_core.limits import Limits


def test_an_execution_and_its_job_are_recorded_together(run_cluster):
    async def scenario(cluster):
        assert await cluster.enqueue("e", queue="mail", priority=7) is None
        record = await cluster.store.load_execution("e")
        assert (record.status, record.queue, record.owner_id) == ("queued", "mail", None)
        rows = await cluster.store.fetch("SELECT queue_name, priority, task_name FROM {s}.procrastinate_jobs")
        assert rows == [("mail", 7, "workflow_core.run")]
        existing = await cluster.enqueue("e", queue="mail")  # as a client whose answer was lost does
        assert existing is None
        assert (await cluster.jobs())[0] == ["e"]

    run_cluster(scenario)


def test_an_id_that_is_in_use_is_found_and_not_queued_again(run_cluster):
    async def scenario(cluster):
        await cluster.store.execution_started(NewExecution("w", "e", "1", "{}", "{}", None), OWNER, None, NOW)
        found = await cluster.enqueue("e")
        assert found.input_data == "1"
        assert await cluster.states() == {}

    run_cluster(scenario)


def test_a_claim_begins_an_execution_without_a_word_in_its_history(run_cluster):
    async def scenario(cluster):
        await cluster.enqueue("e")
        claim = await cluster.claim("e")
        assert (claim.kind, claim.record.status, claim.record.owner_id) == ("begun", "running", "one")
        await cluster.store.execution_completed(lease_of(claim), None, False, 2, NOW)
        assert await cluster.states() == {"e": "ended"}
        names = [type(event).__name__ for event in await cluster.store.load_events("w", "e")]
        assert names == ["ExecutionStarted", "ExecutionCompleted"]

    run_cluster(scenario)


def test_a_job_that_is_out_of_date_claims_nothing(run_cluster):
    async def scenario(cluster):
        await cluster.enqueue("e")
        assert await cluster.store.execution_claimed("e", 999, OWNER, None, NOW) is None
        job = await cluster.job("e")
        await cluster.run("e")
        assert await cluster.store.execution_claimed("e", job, OWNER, None, NOW) is None
        assert await cluster.store.execution_claimed("gone", 1, OWNER, None, NOW) is None

    run_cluster(scenario)


def test_what_a_dead_worker_left_is_claimed_by_the_same_job_and_belongs_to_the_dead_one_until_it_is_taken_over(
    run_cluster,
):
    async def scenario(cluster):
        await cluster.enqueue("e")
        zombie = lease_of(await cluster.claim("e"))
        again = await cluster.claim("e", OTHER)
        assert (again.kind, again.record.owner_id) == ("abandoned", "one")
        await cluster.store.execution_recovered(lease_of(again), OTHER, None, 2, NOW)
        with pytest.raises(LeaseLostError):
            await cluster.store.execution_completed(zombie, None, False, 2, NOW)

    run_cluster(scenario)


def test_a_parked_execution_has_no_job_until_it_is_due(run_cluster):
    async def scenario(cluster):
        await cluster.enqueue("e")
        lease = lease_of(await cluster.claim("e"))
        now = datetime.now(UTC)
        due = now + timedelta(hours=1)
        await cluster.store.execution_parked(lease, to_epoch_ms(due), now)
        assert (await cluster.states(), await cluster.job("e")) == ({"e": "parked"}, None)
        assert await cluster.store.wake_due() == 0
        await cluster.past(3_601)
        assert await cluster.store.wake_due() == 1
        claim = await cluster.claim("e")
        assert (claim.kind, claim.record.owner_id) == ("woken", "one")
        with pytest.raises(LeaseLostError):
            await cluster.store.execution_parked(lease, to_epoch_ms(due), NOW)
        await cluster.store.execution_completed(lease_of(claim), None, False, 2, NOW)
        names = [type(event).__name__ for event in await cluster.store.load_events("w", "e")]
        assert names == ["ExecutionStarted", "ExecutionCompleted"]

    run_cluster(scenario)


def test_a_worker_whose_clock_is_behind_is_not_woken_before_its_own_time(run_cluster):
    async def scenario(cluster):
        await cluster.enqueue("e")
        lease = lease_of(await cluster.claim("e"))
        here = datetime.now(UTC) - timedelta(hours=2)
        await cluster.store.execution_parked(lease, to_epoch_ms(here + timedelta(hours=1)), here)
        assert await cluster.store.wake_due() == 0
        await cluster.past(3_601)
        assert await cluster.store.wake_due() == 1

    run_cluster(scenario)


def test_whoever_gives_an_execution_back_queues_it_in_the_same_transaction(run_cluster):
    async def scenario(cluster):
        await cluster.enqueue("e")
        lease = lease_of(await cluster.claim("e"))
        first = await cluster.job("e")
        await cluster.store.execution_released(lease, True, NOW)
        assert (await cluster.states(), await cluster.job("e") != first) == ({"e": "queued"}, True)
        assert (await cluster.claim("e")).kind == "abandoned"  # so that the history says that it was recovered

    run_cluster(scenario)


def test_a_cancelled_execution_is_neither_woken_nor_claimed(run_cluster):
    async def scenario(cluster):
        await cluster.enqueue("e")
        job = await cluster.job("e")
        await cluster.store.execution_cancelled(Lease("w", "e", 1), 2, NOW)
        assert await cluster.store.execution_claimed("e", job, OWNER, None, NOW) is None
        assert await cluster.states() == {"e": "ended"}

    run_cluster(scenario)


def test_an_execution_whose_job_has_disappeared_gets_another_one(run_cluster):
    async def scenario(cluster):
        await cluster.enqueue("e")
        assert await cluster.store.queue_orphans(1_000) == 0
        await cluster.store.fetch("UPDATE {s}.dispatches SET job_id = 999 RETURNING 1")
        assert await cluster.store.queue_orphans(1_000) == 1
        assert (await cluster.claim("e")).kind == "begun"

    run_cluster(scenario)


def test_other_processes_do_not_recover_what_workers_run(run_cluster):
    async def scenario(cluster):
        await cluster.enqueue("e")
        await cluster.claim("e")
        assert await cluster.store.unfinished_executions() == []

    run_cluster(scenario)


def test_several_processes_make_the_queue_at_the_same_moment(make_postgres_store):
    async def scenario():
        stores = [make_postgres_store() for _ in range(8)]
        await asyncio.gather(*(store.make_queue() for store in stores))
        ((count,),) = await stores[0].fetch("SELECT count(*) FROM {s}.queue_migrations")
        assert count == 1

    asyncio.run(scenario())


def test_what_is_claimed_together_is_what_is_claimed_one_by_one(run_cluster, monkeypatch):
    async def scenario(cluster):
        ids = [f"e{number}" for number in range(8)]
        for execution_id in ids:
            await cluster.enqueue(execution_id)
        await cluster.claim("e7")
        await cluster.store.execution_released(lease_of(await cluster.claim("e5")), True, NOW)
        await cluster.store.execution_parked(lease_of(await cluster.claim("e6")), 1, NOW)
        await cluster.store.wake_due()
        cluster.limits = Limits(concurrency=1)
        await cluster.enqueue("limited")
        await cluster.enqueue("waits")
        sent, fetch = [], cluster.store._groups._fetch

        async def noted(statement, values=None):
            sent.append(statement)
            return await fetch(statement, values)

        monkeypatch.setattr(cluster.store._groups, "_fetch", noted)
        monkeypatch.setattr(cluster.store, "fetch", noted)
        jobs = {execution_id: await cluster.job(execution_id) for execution_id in [*ids, "limited"]}
        await asyncio.gather(*(cluster.store.owner_recorded(OTHER, None) for _ in range(5)))
        assert sum("INTO {s}.owners" in statement for statement in sent) == 1
        sent.clear()
        claims = await asyncio.gather(
            *(cluster.store.execution_claimed(name, job, OTHER, None, NOW) for name, job in jobs.items()),
            cluster.store.execution_claimed("e0", 999, OTHER, None, NOW),
        )
        assert [claim and claim.kind for claim in claims] == [
            *["begun"] * 5,
            "abandoned",
            "woken",
            "abandoned",
            "begun",
            None,
        ]
        assert [claim.record.owner_id for claim in claims[:-1]] == [*["two"] * 5, None, "two", "one", "two"]
        for claim in claims[:-1]:
            assert claim.record == await cluster.store.load_execution(claim.record.execution_id)
        assert set((await cluster.states()).values()) == {"claimed", "waiting"}
        assert sum("unnest" in statement for statement in sent) <= 2

    run_cluster(scenario)
