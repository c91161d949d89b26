"""How a worker begins: it waits for a database that is away, and says at once what waiting does not mend."""

import asyncio
import logging

import pytest

from workflow_core import Settings, StorageError, WorkflowEngine

pytest.importorskip("procrastinate")
from workflow_core.cluster import waiting
from workflow_core.cluster import worker as worker_module
from workflow_core.cluster.settings import WorkerSettings

pytestmark = pytest.mark.usefixtures("postgres_schema")  # in which a worker begins by making its tables
FAST = Settings(poll_interval_ms=10, sync_handlers="inline")


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(waiting, "_PAUSE_SECONDS", 0.01)


def plain(ctx):
    return ctx.input


def make_worker(store):
    engine = WorkflowEngine(store, settings=FAST)
    engine.define("plain", plain)
    return engine, worker_module.Worker(engine, WorkerSettings(poll_ms=50))


def test_a_database_that_is_away_is_waited_for(make_postgres_store, proxy, caplog):
    async def scenario():
        engine, worker = make_worker(make_postgres_store(proxy.url))
        client = WorkflowEngine(make_postgres_store(), settings=FAST)
        client.define("plain", plain)
        proxy.refusing = True
        stop, ready = asyncio.Event(), asyncio.Event()
        run = asyncio.create_task(worker.run(stop, ready.set))
        async with asyncio.timeout(30):
            while "waits for the database" not in caplog.text:
                await asyncio.sleep(0.01)  # another task is waited for
            proxy.refusing = False
            await ready.wait()
            await client.enqueue("plain", "e", 7)
            assert (await client.wait("e")).output == 7
            stop.set()
            await run
        await engine.aclose()
        await client.aclose()
        assert caplog.text.count("waits for the database") == 1
        assert "and the worker begins" in caplog.text

    with caplog.at_level(logging.WARNING, "workflow_core"):
        asyncio.run(scenario())


def test_a_worker_that_waits_for_its_database_can_be_stopped(make_postgres_store, proxy):
    async def scenario():
        engine, worker = make_worker(make_postgres_store(proxy.url))
        proxy.refusing = True
        stop, tries = asyncio.Event(), []
        original = worker._store.make_queue

        async def make_queue():
            tries.append(1)
            if len(tries) == 3:
                stop.set()
            await original()

        worker._store.make_queue = make_queue
        async with asyncio.timeout(30):
            await worker.run(stop)
        assert len(tries) == 3
        await engine.aclose()

    asyncio.run(scenario())


def test_a_database_that_there_is_not_is_told_at_once(make_postgres_store, postgres_url):
    async def scenario():
        engine, worker = make_worker(make_postgres_store(postgres_url.replace("/postgres?", "/nowhere?")))
        with pytest.raises(StorageError, match='database "nowhere" does not exist'):
            await worker.run(asyncio.Event())
        await engine.aclose()

    asyncio.run(scenario())


def test_a_privilege_that_is_missing_is_told_at_once(make_postgres_store, make_poor_role):
    async def scenario():
        engine, worker = make_worker(make_postgres_store(make_poor_role()))
        with pytest.raises(StorageError, match="permission denied"):
            await worker.run(asyncio.Event())
        await engine.aclose()

    asyncio.run(scenario())
