"""Real worker processes whose PostgreSQL is away, takes no more connections, or has no room."""

import asyncio
import contextlib
import os
import shutil
import signal

import pytest

pytest.importorskip("procrastinate")

import psycopg

from pytest_workflow.postgres.server import FAST
from tests.reliability.disks import small_disk
from tests.reliability.storm_workflows import make_engine
from tests.reliability.worker_storm import enqueue, to_rest, until

BATCHES = 2
MOST_SECONDS = 45
DURABLE = {**FAST, "synchronous_commit": "on"}
"""What a server acknowledges outlasts a crash of it, though not a power cut."""

LONGER = float(os.environ.get("WORKFLOW_OUTAGE_SECONDS", "0"))
OUTAGES = [
    pytest.param(max(2.0, LONGER), 2_000 + round(LONGER * 1_000), id="shorter than what makes a worker count as dead"),
    pytest.param(max(4.0, LONGER), 1_000, id="longer"),
]


@pytest.fixture
def serve(postgres_server):
    """Give a function that starts the server again with other settings; it gets back those that it had."""
    changed = []

    def again(settings, with_signal=signal.SIGINT):
        postgres_server.stop(with_signal)
        postgres_server.start(settings)
        changed.append(settings)

    yield again
    if changed:
        if postgres_server.process.poll() is None:
            postgres_server.stop()
        postgres_server.start()


@pytest.mark.timeout(240)
@pytest.mark.parametrize(("seconds", "heartbeat"), OUTAGES)
def test_workers_wait_for_a_server_that_crashed_and_is_away(
    tmp_path, fleet, postgres_server, serve, seconds, heartbeat
):
    serve(DURABLE)
    fleet.settings["lease_ms"] = 5 * heartbeat  # so longer, too, or shorter
    workers = [fleet.begin(postgres_server.url, heartbeat=heartbeat) for _ in range(3)]

    async def scenario():
        engine = make_engine(tmp_path)
        await until(lambda: all("Working on" in worker.text() for worker in workers))
        await enqueue(engine, *range(1, BATCHES + 1))
        await until(lambda: len((tmp_path / "witness.txt").read_text().splitlines()) > 20)
        postgres_server.stop(signal.SIGQUIT)
        await asyncio.sleep(seconds)
        postgres_server.start(DURABLE)
        await to_rest(engine, BATCHES, MOST_SECONDS)
        await engine.aclose()

    asyncio.run(scenario())
    texts = [worker.text() for worker in workers]
    assert fleet.end() == [0, 0, 0]
    assert fleet.checked(postgres_server.url, BATCHES).violations == []
    assert fleet.deaths(postgres_server.url) == []
    told = [text.count("The database is away, and the worker waits for it") for text in texts]
    assert set(told) <= {0, 1}, told  # who has asked for nothing meanwhile has nothing to tell
    assert 1 in told
    for text, away in zip(texts, told, strict=True):
        assert text.count("The database is back") == away, text
        assert text.count("what needs it waits, and goes on by itself") <= 2, text
        assert " ERROR " not in text, text


@pytest.mark.timeout(240)
def test_workers_wait_for_a_connection_when_the_server_takes_no_more(tmp_path, fleet, postgres_server, serve):
    serve({**FAST, "max_connections": "12"})
    worker = fleet.begin(postgres_server.url)
    hogs = []

    async def scenario():
        engine = make_engine(tmp_path, database_connections=1)
        await engine.bare_store.make_queue()
        await until(lambda: "Working on" in worker.text())
        with contextlib.suppress(psycopg.OperationalError):
            while True:
                hogs.append(psycopg.connect(postgres_server.url, autocommit=True))
        # for so many at once the worker wants more connections than it has
        await enqueue(engine, *range(1, BATCHES + 1))
        await until(lambda: "too many clients" in worker.text())
        late = fleet.begin(postgres_server.url)
        await until(lambda: "too many clients already" in late.text())
        assert "Working on" not in late.text()
        while hogs:
            hogs.pop().close()
        await until(lambda: "Working on" in late.text())
        await to_rest(engine, BATCHES, MOST_SECONDS)
        await engine.aclose()

    try:
        asyncio.run(scenario())
    finally:
        for hog in hogs:
            hog.close()
    text = "".join(worker.text() for worker in fleet.workers)
    assert fleet.end() == [0, 0]
    assert fleet.checked(postgres_server.url, BATCHES).violations == []
    assert "Traceback" not in text


@pytest.mark.timeout(240)
def test_workers_wait_for_room_on_the_disk_of_the_server(tmp_path, fleet, postgres_server):
    place = postgres_server.directory / "small"
    with small_disk(place) as disk:
        if os.geteuid() == 0:
            shutil.chown(place, "nobody")
        with psycopg.connect(postgres_server.url, autocommit=True) as admin:
            admin.execute(f"CREATE TABLESPACE small LOCATION '{place}'")
            admin.execute("ALTER DATABASE postgres SET default_tablespace = small")
            try:
                worker = fleet.begin(postgres_server.url)
                asyncio.run(_fill_and_clear(tmp_path, disk, worker))
                assert fleet.end() == [0]
                assert fleet.checked(postgres_server.url, BATCHES).violations == []
            finally:
                fleet.destroy()
                admin.execute("ALTER DATABASE postgres RESET default_tablespace")
                disk.clear()
                admin.execute(f"DROP SCHEMA IF EXISTS {fleet.schema} CASCADE")
                admin.execute("DROP TABLESPACE small")


async def _fill_and_clear(tmp_path, disk, worker):
    engine = make_engine(tmp_path)
    await engine.bare_store.make_queue()
    await until(lambda: "Working on" in worker.text())
    await enqueue(engine, *range(1, BATCHES + 1))
    disk.fill()
    await until(lambda: "No space left on device" in worker.text())
    disk.clear()
    await to_rest(engine, BATCHES, MOST_SECONDS)
    await engine.aclose()
