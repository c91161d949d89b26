"""Real worker processes behind a network that is slow, that loses answers and announcements, and that breaks."""

import asyncio
import contextlib
import os
import random
import threading

import pytest

pytest.importorskip("procrastinate")

from tests.postgres_proxy import Proxy
from tests.reliability.storm_checks import read_witness
from tests.reliability.storm_workflows import make_engine
from tests.reliability.worker_storm import enqueue, to_rest, until

SEED = int(os.environ.get("WORKFLOW_STORM_SEED", "3"))
BATCHES = int(os.environ.get("WORKFLOW_STORM_BATCHES", "3"))
STRIKES = int(os.environ.get("WORKFLOW_WORKER_STRIKES", "24"))
MOST_SECONDS = 20 * BATCHES
HOUR_MS = 3_600_000
PATIENT_MS = 5_000
"""A heartbeat with which a worker on a slow machine is not taken for dead."""

CLAIMS = (".claim(", "claimed AS (UPDATE")
"""What the statements say that claim one execution, and several together: a run may need but one of them."""

KINDS_OF_ANSWERS = (
    "fetch_job",
    "finish_job",
    *CLAIMS,
    ".park(",
    ".wake_due(",
    ".steps",
    "'completed'",
)
"""What the statements say whose answers are lost: of the queue, of dispatches, of steps, and of ends."""


@pytest.fixture
def make_proxy(tmp_path, postgres_server):
    """Give a function that makes a proxy in front of the server."""
    with contextlib.ExitStack() as stack:

        def make(name):
            directory = tmp_path / name
            directory.mkdir()
            proxy = Proxy(directory, postgres_server.socket)
            stack.callback(proxy.close)
            return proxy

        yield make


def run_storm(tmp_path, fleet, when_ready=lambda: None):
    """Enqueue the storm's workflows when the workers are ready, and wait until all of them are at rest."""

    async def scenario():
        engine = make_engine(tmp_path)
        await until(lambda: all("Working on" in worker.text() for worker in fleet.workers))
        when_ready()
        await enqueue(engine, *range(1, BATCHES + 1))
        await to_rest(engine, BATCHES, MOST_SECONDS)
        await engine.aclose()

    asyncio.run(scenario())


@pytest.mark.timeout(240)
def test_a_worker_far_away_and_one_nearby_share_the_work_and_neither_is_taken_for_dead(
    tmp_path, fleet, make_proxy, postgres_server
):
    far = make_proxy("far")
    far.delay = (0.005, 0.03)
    distant = fleet.begin(far.url, heartbeat=PATIENT_MS)
    near = fleet.begin(postgres_server.url, heartbeat=PATIENT_MS, concurrency=2)
    run_storm(tmp_path, fleet)
    assert fleet.end() == [0, 0]
    counts = fleet.checked(postgres_server.url, BATCHES)
    assert (counts.violations, counts.interruptions, fleet.deaths(postgres_server.url)) == ([], 0, [])
    calls, _ = read_witness(tmp_path / "witness.txt")
    assert {pid for attempts in calls.values() for _, _, pid in attempts} == {distant.pid, near.pid}


# Announcements -------------------------------------------------------------------------------------------------------

LISTENERS = "FROM pg_stat_activity WHERE query LIKE 'LISTEN %'"


async def listeners(engine):
    return {pid for (pid,) in await engine.bare_store.fetch(f"SELECT pid {LISTENERS}")}


@pytest.mark.timeout(240)
def test_who_listened_and_was_cut_off_listens_again(tmp_path, fleet, postgres_server):
    """With an hour between two looks, work that is not heard of would not be done in the time of this test."""

    async def scenario():
        engine = make_engine(tmp_path)
        await engine.bare_store.make_queue()
        fleet.begin(postgres_server.url, poll=HOUR_MS, heartbeat=PATIENT_MS)
        for batch in range(1, BATCHES + 1):
            await until(lambda: listeners(engine))
            before = await listeners(engine)
            await engine.bare_store.fetch(f"SELECT pg_terminate_backend(pid) {LISTENERS}")

            async def listens_again(before=before):
                return await listeners(engine) - before

            await until(listens_again)
            await enqueue(engine, batch)
        await to_rest(engine, BATCHES, MOST_SECONDS)
        await engine.aclose()

    asyncio.run(scenario())
    assert fleet.end() == [0]
    counts = fleet.checked(postgres_server.url, BATCHES)
    assert (counts.violations, counts.interruptions, fleet.deaths(postgres_server.url)) == ([], 0, [])


@pytest.mark.timeout(240)
def test_work_of_which_nobody_hears_is_found_by_looking(tmp_path, fleet, make_proxy, postgres_server):
    proxy = make_proxy("proxy")
    proxy.swallowing = True
    fleet.begin(proxy.url, poll=200, heartbeat=PATIENT_MS)
    run_storm(tmp_path, fleet)
    assert fleet.end() == [0]
    counts = fleet.checked(postgres_server.url, BATCHES)
    assert (counts.violations, counts.interruptions, fleet.deaths(postgres_server.url)) == ([], 0, [])
    assert proxy.swallowed > 0


@pytest.mark.timeout(240)
def test_who_cannot_listen_works_and_listens_when_it_can(tmp_path, fleet, make_proxy, postgres_server):
    proxy = make_proxy("proxy")
    proxy.deaf = True
    fleet.begin(proxy.url, poll=200)

    async def scenario():
        engine = make_engine(tmp_path)
        await enqueue(engine, *range(1, BATCHES + 1))
        await to_rest(engine, BATCHES, MOST_SECONDS)
        assert await listeners(engine) == set()
        proxy.deaf = False
        await until(lambda: listeners(engine))
        await engine.aclose()

    asyncio.run(scenario())
    assert fleet.end() == [0]
    assert fleet.checked(postgres_server.url, BATCHES).violations == []
    assert proxy.listens > 1


# Answers -------------------------------------------------------------------------------------------------------------


@pytest.mark.timeout(240)
def test_workers_that_are_not_answered_lose_nothing_and_repeat_nothing(tmp_path, fleet, make_proxy, postgres_server):
    proxy = make_proxy("proxy")
    for _ in range(2):
        fleet.begin(proxy.url)
    run_storm(tmp_path, fleet, lambda: proxy.lose_answers_of(*KINDS_OF_ANSWERS, every=12))
    proxy.stop_losing()
    assert fleet.end() == [0, 0]
    counts = fleet.checked(postgres_server.url, BATCHES)
    assert counts.violations == []
    lost = dict(proxy.lost_of)
    assert sum(lost.pop(claim) for claim in CLAIMS) > 0
    assert min(lost.values()) > 0, lost


@pytest.mark.timeout(240)
def test_connections_of_workers_that_break_all_the_time_lose_nothing_and_repeat_nothing(
    tmp_path, fleet, make_proxy, postgres_server
):
    proxy = make_proxy("proxy")
    moments, over = random.Random(SEED), threading.Event()

    def strike():
        for _ in range(STRIKES):
            if over.wait(moments.uniform(0, 0.3)):
                return
            if moments.random() < 0.3:
                proxy.cut()
            else:
                proxy.lose_answer(moments.randrange(3))

    async def scenario():
        engine = make_engine(tmp_path)
        await enqueue(engine, *range(1, BATCHES + 1))
        await until(lambda: listeners(engine))
        striking = threading.Thread(target=strike)
        striking.start()
        try:
            await to_rest(engine, BATCHES, MOST_SECONDS)
        finally:
            over.set()
            striking.join()
            proxy.stop_losing()
        await engine.aclose()

    for _ in range(3):
        fleet.begin(proxy.url)
    asyncio.run(scenario())
    assert fleet.end() == [0, 0, 0]
    counts = fleet.checked(postgres_server.url, BATCHES)
    assert counts.violations == []
    assert proxy.struck > 10
