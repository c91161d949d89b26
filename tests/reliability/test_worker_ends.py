"""Real worker processes that are told to end: in a burst with next to no time for it, and twice at once."""

import asyncio
import itertools
import os
import random
import signal

import pytest

pytest.importorskip("procrastinate")

from tests.reliability import held_app
from tests.reliability.storm_workflows import make_engine
from tests.reliability.worker_storm import enqueue, to_rest, until

SEED = int(os.environ.get("WORKFLOW_STORM_SEED", "9"))
ENDS = int(os.environ.get("WORKFLOW_WORKER_STRIKES", "16"))
BATCHES = int(os.environ.get("WORKFLOW_STORM_BATCHES", "4"))
MOST_SECONDS = 30 * BATCHES
CUT_OFF = "SELECT count(*) FROM {s}.step_events WHERE type = 'StepInterrupted'"
KNOWN = ("was cut off without a recovery", "follows attempt", "was called more than once")
"""What the storm's checks say of attempts that were given back, and so have the same number again."""


@pytest.mark.timeout(240)
def test_workers_that_are_told_to_end_all_the_time_lose_nothing_and_use_up_no_attempt(tmp_path, fleet, postgres_server):
    moments, url, codes = random.Random(SEED), postgres_server.url, []
    bursts = itertools.count(1)

    def begin():
        fleet.begin(url, heartbeat=5_000, grace=moments.choice((0, 0, 10, 50)))

    async def end_one():
        worker = fleet.workers.pop(0)
        if moments.random() < 0.7:  # the others may be told before they have begun to work
            await until(lambda: "Working on" in worker.text())
        await asyncio.sleep(moments.uniform(0.02, 0.3))
        worker.signal(signal.SIGTERM)
        begin()
        codes.append((await asyncio.to_thread(worker.wait), worker.text()))

    async def scenario():
        engine = make_engine(tmp_path)
        await engine.bare_store.make_queue()
        for _ in range(3):
            begin()
        async with asyncio.timeout(MOST_SECONDS):
            for number in range(ENDS):
                if number % max(1, ENDS // BATCHES) == 0 and number < BATCHES * (ENDS // BATCHES):
                    await enqueue(engine, batch := next(bursts))
                await end_one()
            while await engine.bare_store.fetch(CUT_OFF) == [(0,)]:  # as long as nobody was in the middle of a step
                await enqueue(engine, batch := next(bursts))
                await end_one()
        await to_rest(engine, batch, MOST_SECONDS)
        await engine.aclose()
        return batch

    batches = asyncio.run(scenario())
    assert fleet.end() == [0, 0, 0]
    assert [text for code, text in codes if code not in {0, -signal.SIGTERM}] == []
    assert [text for _, text in codes if "Traceback" in text or " ERROR " in text] == []
    counts = fleet.checked(url, batches)
    assert [sentence for sentence in counts.violations if not any(known in sentence for known in KNOWN)] == []
    assert counts.statuses == {"completed": counts.executions}
    assert fleet.deaths(url) == []
    assert counts.interruptions > 0


@pytest.fixture
def begin_held(tmp_path, fleet):
    """Give a function that lets a worker begin steps that do not end, and returns it."""
    fleet.app = "tests.reliability.held_app:engine"

    async def begin(engine, url):
        worker = fleet.begin(url, grace=600_000, heartbeat=60_000)
        for kind in held_app.KINDS:
            await engine.enqueue(kind, kind)
        async with asyncio.timeout(MOST_SECONDS):
            while not all([(await engine.get_status(kind)).steps for kind in held_app.KINDS]):
                await asyncio.sleep(0.02)  # another process is waited for
        return worker

    return begin


async def stop_twice(worker, number):
    """Send a worker a signal, and another one when it has told that it stops; return its exit code."""
    worker.signal(number)
    await until(lambda: "Stopping" in worker.text())
    worker.signal(number)
    return await asyncio.to_thread(worker.wait)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_second_signal_stops_a_worker_at_once_and_hands_back_what_runs(
    tmp_path, fleet, begin_held, postgres_server, number, code
):
    async def scenario():
        async with held_app.make_engine(tmp_path) as engine:
            first = await begin_held(engine, postgres_server.url)
            assert await stop_twice(first, number) == code
            places = [await engine.bare_store.dispatch_state(kind) for kind in held_app.KINDS]
            assert [(state.place, state.workers) for state in places] == [("ready", 0)] * 3
            (tmp_path / "go").touch()
            second = fleet.begin(postgres_server.url, heartbeat=60_000)
            for kind in held_app.KINDS:
                result = await engine.wait(kind)
                assert (result.status, result.steps["held"].attempt) == ("completed", 1)
            fleet.workers[:] = [second]
            assert fleet.end() == [0]

    asyncio.run(scenario())


def test_a_second_signal_stops_a_worker_whose_database_is_away(tmp_path, fleet, begin_held, postgres_server, proxy):
    async def scenario():
        async with held_app.make_engine(tmp_path) as engine:
            worker = await begin_held(engine, proxy.url)
            proxy.close()
            await until(lambda: "The database is away" in worker.text())
            assert await stop_twice(worker, signal.SIGTERM) == 143
            assert " ERROR " not in worker.text()
            fleet.workers.clear()
            assert [(await engine.bare_store.dispatch_state(kind)).place for kind in held_app.KINDS] == ["running"] * 3

    asyncio.run(scenario())
