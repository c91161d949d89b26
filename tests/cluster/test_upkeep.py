"""What a worker does for all executions of its database: it writes nothing where there is nothing to do."""

import asyncio
import logging

import pytest

from workflow_core import Settings, StorageError, WorkflowEngine

pytest.importorskip("procrastinate")
from workflow_core.cluster import upkeep as upkeep_module
from workflow_core.cluster import worker as worker_module
from workflow_core.cluster.settings import WorkerSettings


@pytest.fixture
def run_upkeep(make_postgres_store, postgres_queue, monkeypatch):
    """Runs a scenario with an engine, and a function that waits for a number of ticks of its upkeep."""
    monkeypatch.setattr(upkeep_module, "_TICK_MS", 1)

    def run(scenario):
        async def all_of_it():
            engine = WorkflowEngine(make_postgres_store(), settings=Settings(poll_interval_ms=10))
            await engine.bare_store.make_queue()
            ticks = asyncio.Semaphore(0)
            next_start_ms = engine.bare_store.next_start_ms

            async def noting():
                try:
                    return await next_start_ms()
                finally:
                    ticks.release()

            engine.bare_store.next_start_ms = noting

            async def some_ticks(number):
                for _ in range(number):
                    await ticks.acquire()

            upkeep = upkeep_module.Upkeep(engine, engine.bare_store, None, WorkerSettings())
            ticking = asyncio.create_task(upkeep.tick())
            try:
                async with asyncio.timeout(30):
                    await scenario(engine, some_ticks)
            finally:
                ticking.cancel()
                await engine.aclose()

        asyncio.run(all_of_it())

    return run


def test_a_worker_with_nothing_to_do_writes_nothing(run_upkeep):
    async def scenario(engine, some_ticks):
        await some_ticks(1)
        before = await engine.bare_store.fetch("SELECT pg_current_snapshot()::text")
        await some_ticks(5)
        assert await engine.bare_store.fetch("SELECT pg_current_snapshot()::text") == before

    run_upkeep(scenario)


def test_what_keeps_a_worker_from_waking_others_is_told_once(run_upkeep, caplog):
    async def scenario(engine, some_ticks):
        answers = iter([StorageError("the table is gone", "", "damaged")] * 3)

        async def wake_due():
            for error in answers:
                raise error
            return 0

        await some_ticks(1)
        engine.bare_store.wake_due = wake_due
        await some_ticks(3)

    with caplog.at_level(logging.ERROR, "workflow_core"):
        run_upkeep(scenario)
    assert caplog.text.count("the table is gone") == 1


@pytest.mark.parametrize(("heartbeat_ms", "seconds"), [(100, 1), (1_000, 1), (10_000, 10), (3_600_000, 30)])
def test_accidents_are_looked_for_with_each_heartbeat_and_at_least_twice_a_minute(
    make_postgres_store, heartbeat_ms, seconds
):
    async def scenario():
        engine = WorkflowEngine(make_postgres_store())
        worker = worker_module.Worker(engine, WorkerSettings(heartbeat_ms=heartbeat_ms))
        (task,) = worker._app.periodic_registry.periodic_tasks.values()
        task.croniter.set_current(start_time=1_800_000_000)
        moments = [round(task.croniter.get_next(ret_type=float)) for _ in range(7)]
        assert moments == [1_800_000_000 + number * seconds for number in range(1, 8)]
        await engine.aclose()

    asyncio.run(scenario())


@pytest.mark.parametrize(("seconds", "warnings"), [(0.29, 0), (0.31, 1)])
def test_a_worker_that_stood_still_for_three_heartbeats_says_so(
    make_postgres_store, monkeypatch, caplog, seconds, warnings
):
    async def scenario():
        engine = WorkflowEngine(make_postgres_store())
        moments = iter([0.0, 0.0, seconds])
        monkeypatch.setattr(engine.clock, "monotonic", lambda: next(moments), raising=False)
        await upkeep_module.Upkeep(engine, None, None, WorkerSettings(heartbeat_ms=100))._sleep_for_a_heartbeat()
        engine.close()

    with caplog.at_level(logging.WARNING, "workflow_core"):
        asyncio.run(scenario())
    assert caplog.text.count("stood still for 0.3 s") == warnings
