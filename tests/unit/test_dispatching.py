"""Executions that are handed to workers: how PostgreSQL queues, limits, claims, parks and wakes them."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from workflow_core import LeaseLostError, ValidationError
from workflow_core.clock import to_epoch_ms
from workflow_core.database.dispatch import Dispatch
from workflow_core.database.store import Lease, NewExecution
from workflow_core.limits import Limits
from workflow_core.ownership import Owner

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
OWNER, OTHER = Owner("host", 1, "0", "one"), Owner("host", 2, "0", "two")


class Cluster:
    """A store, and what a worker does with it."""

    def __init__(self, store, limits=None):
        self.store = store
        self.limits = limits

    async def enqueue(self, execution_id, **dispatch):
        if self.limits is not None:
            await self.store.limits_noted("w", self.limits)
        new = NewExecution("w", execution_id, None, "{}", "{}", None)
        return await self.store.execution_enqueued(new, Dispatch(limits=self.limits, **dispatch), NOW)

    async def job(self, execution_id):
        rows = await self.store.fetch(
            "SELECT job_id FROM {s}.dispatches WHERE execution_id = %(id)s", {"id": execution_id}
        )
        return rows[0][0]

    async def claim(self, execution_id, owner=OWNER):
        job = await self.job(execution_id)
        return None if job is None else await self.store.execution_claimed(execution_id, job, owner, None, NOW)

    async def run(self, execution_id):
        lease = lease_of(await self.claim(execution_id))
        await self.store.execution_completed(lease, None, False, 2, NOW)

    async def states(self):
        rows = await self.store.fetch("SELECT execution_id, state FROM {s}.dispatches ORDER BY position")
        return dict(rows)

    async def jobs(self):
        rows = await self.store.fetch(
            "SELECT args ->> 'execution_id', scheduled_at > now() FROM {s}.procrastinate_jobs ORDER BY id"
        )
        return [execution_id for execution_id, _ in rows], [bool(later) for _, later in rows]

    async def past(self, seconds):
        """Let time pass, as far as rate limits and parked executions see it."""
        await self.store.fetch(
            "UPDATE {s}.dispatches SET first_start_at = first_start_at - %(s)s * interval '1 second',"
            " due_at = due_at - %(s)s * interval '1 second' RETURNING 1",
            {"s": seconds},
        )


def lease_of(claim):
    return Lease("w", claim.record.execution_id, claim.record.fencing_token)


@pytest.fixture
def run_cluster(make_postgres_store):
    def run(scenario, limits=None):
        asyncio.run(scenario(Cluster(make_postgres_store(), limits)))

    return run


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
        await cluster.store.execution_recovered(lease_of(again), OTHER, None, "running", 2, NOW)
        with pytest.raises(LeaseLostError):
            await cluster.store.execution_completed(zombie, None, False, 2, NOW)

    run_cluster(scenario)


def test_a_parked_execution_has_no_job_until_it_is_due(run_cluster):
    async def scenario(cluster):
        await cluster.enqueue("e")
        lease = lease_of(await cluster.claim("e"))
        due = datetime.now(UTC) + timedelta(hours=1)
        await cluster.store.execution_parked(lease, to_epoch_ms(due), NOW)
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


def test_whoever_gives_an_execution_back_queues_it_in_the_same_transaction(run_cluster):
    async def scenario(cluster):
        await cluster.enqueue("e")
        lease = lease_of(await cluster.claim("e"))
        first = await cluster.job("e")
        await cluster.store.execution_released(lease, True, NOW, 2)
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


# Limits --------------------------------------------------------------------------------------------------------------


def test_a_limit_of_concurrency_lets_the_next_one_in_when_one_ends(run_cluster):
    async def scenario(cluster):
        for execution_id in "abc":
            await cluster.enqueue(execution_id)
        await cluster.enqueue("d", priority=1)
        assert await cluster.states() == {"a": "queued", "b": "queued", "c": "waiting", "d": "waiting"}
        await cluster.run("a")
        assert await cluster.states() == {"a": "ended", "b": "queued", "c": "waiting", "d": "queued"}
        await cluster.store.execution_cancelled(Lease("w", "b", 1), 2, NOW)
        assert (await cluster.states())["c"] == "queued"

    run_cluster(scenario, Limits(concurrency=2))


def test_a_limit_for_each_key_keeps_nobody_else_waiting(run_cluster):
    async def scenario(cluster):
        for execution_id in ("a1", "a2", "a3", "b1"):
            await cluster.enqueue(execution_id, limit_key=execution_id[0])
        await cluster.enqueue("nobody's")
        assert await cluster.states() == {
            "a1": "queued",
            "a2": "waiting",
            "a3": "waiting",
            "b1": "queued",
            "nobody's": "queued",
        }
        await cluster.run("a1")
        assert (await cluster.states())["a2"] == "queued"
        assert (await cluster.states())["a3"] == "waiting"

    run_cluster(scenario, Limits(concurrency_per_key=1))


def test_both_limits_hold_together(run_cluster):
    async def scenario(cluster):
        for execution_id in ("a1", "a2", "b1", "c1"):
            await cluster.enqueue(execution_id, limit_key=execution_id[0])
        assert await cluster.states() == {"a1": "queued", "a2": "waiting", "b1": "queued", "c1": "waiting"}
        await cluster.run("a1")  # frees a slot of all and one of its key; c1 was there before a2 had that of its key
        states = await cluster.states()
        assert sorted((states["a2"], states["c1"])) == ["queued", "waiting"]

    run_cluster(scenario, Limits(concurrency=2, concurrency_per_key=1))


@pytest.mark.parametrize("held", [True, False])
def test_a_slot_is_held_while_an_execution_waits_unless_it_is_not_to_be(run_cluster, held):
    async def scenario(cluster):
        await cluster.enqueue("a")
        await cluster.enqueue("b")
        lease = lease_of(await cluster.claim("a"))
        await cluster.store.execution_parked(lease, to_epoch_ms(datetime.now(UTC)) - 1, NOW)
        assert await cluster.states() == {"a": "parked", "b": "waiting" if held else "queued"}
        await cluster.store.wake_due()
        assert await cluster.states() == {
            "a": "queued" if held else "waiting",
            "b": "waiting" if held else "queued",
        }
        if not held:
            await cluster.run("b")
            assert (await cluster.claim("a")).kind == "woken"

    run_cluster(scenario, Limits(concurrency=1, held_while_waiting=held))


def test_limits_that_are_raised_let_in_who_waits_already(run_cluster):
    async def scenario(cluster):
        for execution_id in "abc":
            await cluster.enqueue(execution_id)
        cluster.limits = Limits(concurrency=3)
        await cluster.enqueue("d")
        assert await cluster.states() == {"a": "queued", "b": "queued", "c": "queued", "d": "waiting"}

    run_cluster(scenario, Limits(concurrency=1))


def test_a_rate_limit_schedules_who_is_too_early(run_cluster):
    async def scenario(cluster):
        for execution_id in "abcde":
            await cluster.enqueue(execution_id)
        assert await cluster.jobs() == (list("abcde"), [False, False, True, True, True])
        starts = await cluster.store.fetch("SELECT first_start_at FROM {s}.dispatches ORDER BY position")
        (a, b, c, d, e) = (row[0] for row in starts)
        assert (c - a, d - b, e - c) == (timedelta(minutes=1),) * 3

    run_cluster(scenario, Limits(starts=2, period_ms=60_000))


def test_a_rate_limit_holds_when_the_workers_were_away(run_cluster):
    async def scenario(cluster):
        for execution_id in "abcd":
            await cluster.enqueue(execution_id)
        await cluster.past(3_600)  # all are due, and nobody has begun any
        assert (await cluster.claim("a")).kind == "begun"
        assert (await cluster.claim("b")).kind == "begun"
        job = await cluster.job("c")
        assert await cluster.claim("c") is None
        assert await cluster.job("c") != job
        await cluster.past(60)
        assert (await cluster.claim("c")).kind == "begun"

    run_cluster(scenario, Limits(starts=2, period_ms=60_000))


def test_a_rate_limit_for_each_key(run_cluster):
    async def scenario(cluster):
        for execution_id in ("a1", "b1", "a2"):
            await cluster.enqueue(execution_id, limit_key=execution_id[0])
        assert await cluster.jobs() == (["a1", "b1", "a2"], [False, False, True])

    run_cluster(scenario, Limits(starts_per_key=1, period_ms=60_000))


def test_processes_that_end_executions_at_once_never_give_a_slot_away_twice(run_cluster, make_postgres_store):
    async def scenario(cluster):
        for number in range(60):
            await cluster.enqueue(f"e{number:02}", limit_key=str(number % 3))
        workers = [Cluster(make_postgres_store()) for _ in range(4)]
        most = 0

        async def work(worker):
            nonlocal most
            while True:
                rows = await worker.store.fetch(
                    "SELECT execution_id FROM {s}.dispatches WHERE state = 'queued' ORDER BY random() LIMIT 1"
                )
                if not rows:
                    if not await worker.store.fetch("SELECT 1 FROM {s}.dispatches WHERE state <> 'ended'"):
                        return
                    await asyncio.sleep(0)
                    continue
                claim = await worker.claim(rows[0][0])
                if claim is None or claim.kind != "begun":
                    continue
                ((running,),) = await worker.store.fetch("SELECT count(*) FROM {s}.dispatches WHERE has_slot")
                most = max(most, running)
                await worker.store.execution_completed(lease_of(claim), None, False, 2, NOW)

        await asyncio.gather(*map(work, workers))
        assert most == 4
        rows = await cluster.store.fetch("SELECT status, count(*) FROM {s}.executions GROUP BY 1")
        assert rows == [("completed", 60)]

    run_cluster(scenario, Limits(concurrency=4, concurrency_per_key=2))


def test_processes_that_want_the_same_limits_at_once_do_not_wait_for_each_other_for_ever(  # noqa: C901
    run_cluster, make_postgres_store
):
    """Without one order of locks each of the three ends in deadlocks, which cost a second and an error each."""
    limits = Limits(concurrency=1_000, held_while_waiting=False)
    names = ["v", "w", "x"]

    async def deadlocks(cluster):
        return await cluster.store.fetch("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")

    async def scenario(cluster):
        before = await deadlocks(cluster)
        stores = [make_postgres_store() for _ in range(3)]
        for name in names:
            await cluster.store.limits_noted(name, limits)
        leases = []
        for number in range(90):
            new = NewExecution(names[number * number % 7 % 3], f"e{number:02}", None, "{}", "{}", None)
            await cluster.store.execution_enqueued(new, Dispatch(limits=limits), NOW)
            claim = await cluster.claim(new.execution_id)
            leases.append(Lease(new.workflow_name, new.execution_id, claim.record.fencing_token))

        async def end(store, some):
            await asyncio.gather(*(store.execution_completed(lease, None, False, 2, NOW) for lease in some))

        async def wake(store):
            while await store.wake_due(10):
                pass

        await asyncio.gather(*(end(store, leases[nth:45:3]) for nth, store in enumerate(stores)))
        now = to_epoch_ms(datetime.now(UTC))
        for number, lease in enumerate(leases[45:]):
            await cluster.store.execution_parked(lease, now - number * 7 % 45, NOW)
        await asyncio.gather(*map(wake, stores))
        assert list((await cluster.states()).values()) == ["ended"] * 45 + ["queued"] * 45

        await cluster.store.limits_noted("y", Limits(concurrency=1))
        for number in range(60):
            new = NewExecution("y", f"y{number:02}", None, "{}", "{}", None)
            await cluster.store.execution_enqueued(new, Dispatch(limits=Limits(concurrency=1)), NOW)

        async def cancel(store, numbers):
            for number in numbers:
                await store.execution_cancelled(Lease("y", f"y{number:02}", 1), 2, NOW)

        await asyncio.gather(*(cancel(store, range(nth, 60, 3)) for nth, store in enumerate(stores)))
        assert (await cluster.states())["y59"] == "ended"
        assert await deadlocks(cluster) == before

    run_cluster(scenario)


def test_who_is_cancelled_before_it_begins_leaves_its_moment_to_others(run_cluster):
    async def scenario(cluster):
        for execution_id in "abcd":
            await cluster.enqueue(execution_id)
        for execution_id in "bcd":
            await cluster.store.execution_cancelled(Lease("w", execution_id, 1), 2, NOW)
        await cluster.enqueue("e")
        rows = await cluster.store.fetch("SELECT max(first_start_at) - min(first_start_at) FROM {s}.dispatches")
        assert rows == [(timedelta(minutes=1),)]

    run_cluster(scenario, Limits(starts=1, period_ms=60_000))


def test_limits_that_cannot_be():
    with pytest.raises(ValidationError, match="limits nothing"):
        Limits()
    with pytest.raises(ValidationError, match="concurrency"):
        Limits(concurrency=0)
    with pytest.raises(ValidationError, match=r'"customer\.id" of the input'):
        Limits(concurrency=1, key="customer.id").key_of({"customer": {"id": []}}, None)


def test_the_key_is_read_from_the_input():
    limits = Limits(concurrency_per_key=1, key="customer.id")
    assert limits.key_of({"customer": {"id": 7}}, None) == "7"
    assert limits.key_of({"customer": None}, None) is None
    assert limits.key_of({"customer": {"id": 7}}, "given") == "given"
