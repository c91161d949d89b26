"""How a worker that is cancelled, and executions that are cancelled from elsewhere, come to an end, on PostgreSQL."""

import asyncio
import logging

import pytest

from workflow_core import Settings, WorkflowEngine

pytest.importorskip("procrastinate")
from workflow_core.cluster import worker as worker_module
from workflow_core.cluster.settings import WorkerSettings

NO_RENEWALS = Settings(poll_interval_ms=10, sync_handlers="inline", lease_ms=None)


class Held:
    """Engines with a workflow whose step ends when it is told to, and one that rests."""

    def __init__(self, make_store):
        self.go, self.begun, self.cut_off = asyncio.Event(), asyncio.Semaphore(0), asyncio.Event()
        self._make_store = make_store

    def engine(self):
        engine = WorkflowEngine(self._make_store(), settings=NO_RENEWALS)

        async def body():
            self.begun.release()
            try:
                await self.go.wait()
            except asyncio.CancelledError:
                self.cut_off.set()
                raise

        @engine.define("held")
        async def held(ctx):
            await ctx.step("a", body)

        return engine


@pytest.fixture
def run_held(make_postgres_store, postgres_queue):
    def run(scenario):
        async def all_of_it():
            async with asyncio.timeout(30):
                await scenario(Held(make_postgres_store))

        asyncio.run(all_of_it())

    return run


async def place(engine, execution_id):
    return (await engine.bare_store.dispatch_state(execution_id)).place


def test_a_worker_that_is_cancelled_hands_everything_back_at_once(run_held):
    async def scenario(held):
        client, first, second = held.engine(), held.engine(), held.engine()
        ids = ["a", "b", "c", "d", "e"]
        for execution_id in ids:
            await client.enqueue("held", execution_id)
        worker = worker_module.Worker(first, WorkerSettings(concurrency=3, grace_ms=3_600_000))
        run = asyncio.create_task(worker.run(asyncio.Event()))
        for _ in range(3):
            await held.begun.acquire()
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        assert [await place(client, execution_id) for execution_id in ids] == ["ready"] * 5
        assert (await client.bare_store.cluster_state()).workers == []
        await first.aclose()
        held.go.set()
        stop = asyncio.Event()
        again = asyncio.create_task(worker_module.Worker(second, WorkerSettings()).run(stop))
        results = [await client.wait(execution_id) for execution_id in ids]
        assert [(result.status, result.steps["a"].attempt) for result in results] == [("completed", 1)] * 5
        stop.set()
        await again
        await second.aclose()
        await client.aclose()

    run_held(scenario)


def test_an_execution_that_is_cancelled_elsewhere_leaves_its_place_within_moments(run_held, caplog):
    async def scenario(held):
        client, engine = held.engine(), held.engine()
        await client.enqueue("held", "cancelled")
        await client.enqueue("held", "next")
        stop = asyncio.Event()
        run = asyncio.create_task(worker_module.Worker(engine, WorkerSettings(concurrency=1)).run(stop))
        await held.begun.acquire()
        with caplog.at_level(logging.INFO, "workflow_core"):
            await client.cancel("cancelled")
            await held.cut_off.wait()
            await held.begun.acquire()
        assert 'Execution "cancelled" of workflow "held" was cancelled' in caplog.text
        held.go.set()
        assert (await client.wait("next")).status == "completed"
        stop.set()
        await run
        await engine.aclose()
        await client.aclose()

    run_held(scenario)
