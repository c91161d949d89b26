"""A history never goes back in time, however late it changes hands, and whatever the clock of its next writer says."""

import asyncio
from datetime import timedelta

import pytest

from tests.unit.dispatch_cluster import Cluster
from tests.unit.store_calls import NOW, OWNER, begin, start_step
from workflow_core import RetryConfig, Settings, WorkflowEngine
from workflow_core.clock import to_epoch_ms
from workflow_core.database.store import Lease, StepRecord
from workflow_core.ownership import Owner

EARLIER, LATER = NOW - timedelta(seconds=1), NOW + timedelta(seconds=1)
OTHER = Owner("other", 2, "0")
FAILED = '{"type":"E","message":"m"}'


@pytest.fixture
def store_kind(every_store_kind):
    return every_store_kind


def moments(events):
    return [event.at for event in events]


async def recover(store, lease):
    taken = await store.execution_recovered(lease, OTHER, None, 3, EARLIER)
    assert taken.recovered[:2] == (4, LATER)


async def restart(store, lease):
    await store.execution_failed(lease, FAILED, "m", 4, LATER)
    await store.execution_restarted(lease, OTHER, None, 2, None, 5, EARLIER)


async def cancel(store, lease):
    await store.execution_cancelled(lease, 0, EARLIER)


@pytest.mark.parametrize("change", [recover, restart, cancel])
def test_who_takes_an_execution_from_another_one_is_not_before_what_that_one_wrote(make_store, change):
    """When it asked for the time it had not locked the row, and its clock may be another machine's."""
    store = make_store()
    lease = begin(store)
    step = start_step(store, lease)

    async def scenario():
        await store.step_completed(lease, step, "1", None, 3, LATER, None, None)
        await change(store, lease)
        events = await store.load_events("w", "e")
        assert moments(events) == sorted(moments(events))
        assert events[-1].at == LATER
        assert (await store.load_steps("w", "e"))[1][:2] == (events[-1].seq, LATER)
        store.close()

    asyncio.run(scenario())


def test_an_execution_goes_on_where_it_was_on_a_machine_whose_clock_is_behind(machine, clock):
    @machine.define("w", retry_config=RetryConfig(max_attempts=2, backoff_ms=1_000))
    async def flow(ctx):
        def body():
            if ctx.attempt == 1:
                raise ConnectionError("503")

        await ctx.step("a", body)
        await ctx.sleep("rest", 1_000)
        return await ctx.step("b", lambda: {2: "done"}[ctx.restart_attempt]).with_retry(RetryConfig(max_attempts=1))

    async def scenario():
        engine = machine.boot()
        await engine.start("w", "e", detach=True)
        await clock.advance(1_500)
        clock.time -= timedelta(hours=1)
        engine = await machine.reboot(engine)
        assert (await clock.finish(engine.wait("e"))).status == "failed"
        clock.time -= timedelta(hours=1)
        assert (await engine.restart("e")).output == "done"
        events = await engine.history("e")
        assert moments(events) == sorted(moments(events))
        assert [event.seq for event in events] == list(range(1, len(events) + 1))

    asyncio.run(scenario())


@pytest.fixture
def worker_engine(make_postgres_store, clock):
    clock.time = NOW - timedelta(hours=1)
    engine = WorkflowEngine(make_postgres_store(), clock, settings=Settings(sync_handlers="inline", lease_ms=None))

    @engine.define("w")
    async def flow(ctx):
        return await ctx.step("s", lambda: "done")

    yield engine
    engine.close()


@pytest.mark.parametrize("parked", [False, True])
def test_a_worker_whose_clock_is_behind_goes_on_where_another_one_was(worker_engine, make_postgres_store, parked):
    async def scenario():
        cluster = Cluster(make_postgres_store())
        await cluster.enqueue("e")
        if parked:
            claim = await cluster.claim("e")
            lease = Lease("w", "e", claim.record.fencing_token)
            step = await begin_sleep(cluster.store, lease)
            await cluster.store.sleep_completed(lease, step, 3, LATER, None)
            await cluster.store.execution_parked(lease, to_epoch_ms(NOW), LATER)
            assert await cluster.store.wake_due() == 1
        store, job = worker_engine.bare_store, await cluster.job("e")
        claim = await store.execution_claimed("e", job, worker_engine.owner, None, worker_engine.clock.now())
        assert claim.kind == ("woken" if parked else "begun")
        active = await worker_engine.run_claimed(claim)
        assert (await active.final.wait()).output == "done"
        events = await cluster.store.load_events("w", "e")
        assert moments(events) == sorted(moments(events))
        assert events[-1].at == (LATER if parked else NOW)
        cluster.store.close()

    asyncio.run(scenario())


async def begin_sleep(store, lease):
    step = StepRecord("z", kind="sleep", status="sleeping")
    await store.sleep_started(lease, step, 1, to_epoch_ms(NOW), 2, NOW, None)
    return step


def test_a_claim_of_the_same_engine_by_the_same_job_is_not_left_by_anybody(make_postgres_store):
    """Its answer was lost, and who asks again later has another time; its own claim is no death of another worker."""

    async def scenario():
        cluster = Cluster(make_postgres_store())
        await cluster.enqueue("e")
        job = await cluster.job("e")
        claims = [await cluster.store.execution_claimed("e", job, OWNER, None, at) for at in (NOW, LATER)]
        assert [claim.kind for claim in claims] == ["begun", "begun"]
        lease = claims[1].record.lease
        assert lease == claims[0].record.lease
        await begin_sleep(cluster.store, lease)
        assert (await cluster.store.execution_claimed("e", job, OWNER, None, LATER)).kind == "woken"
        assert (await cluster.store.execution_claimed("e", job, OTHER, None, LATER)).kind == "abandoned"
        taken = await cluster.store.execution_recovered(lease, OTHER, None, 3, LATER)
        again = await cluster.store.execution_claimed("e", job, OTHER, None, LATER + timedelta(seconds=1))
        assert (again.kind, again.record.lease) == ("woken", taken)
        cluster.store.close()

    asyncio.run(scenario())
