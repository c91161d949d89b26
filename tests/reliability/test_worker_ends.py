"""Real worker processes that are told to end in the middle of a burst, with next to no time for it, again and again."""

import asyncio
import os
import random
import signal

import pytest

pytest.importorskip("procrastinate")

from tests.reliability.storm_workflows import ids_of, make_engine
from tests.reliability.worker_storm import to_rest

SEED = int(os.environ.get("WORKFLOW_STORM_SEED", "9"))
ENDS = int(os.environ.get("WORKFLOW_WORKER_STRIKES", "16"))
BATCHES = int(os.environ.get("WORKFLOW_STORM_BATCHES", "4"))
MOST_SECONDS = 30 * BATCHES
KNOWN = ("was cut off without a recovery", "follows attempt", "was called more than once")
"""What the storm's checks say of attempts that were given back, and so have the same number again."""


@pytest.mark.timeout(240)
def test_workers_that_are_told_to_end_all_the_time_lose_nothing_and_use_up_no_attempt(tmp_path, fleet, postgres_server):
    moments, url, codes = random.Random(SEED), postgres_server.url, []

    def begin():
        fleet.begin(url, heartbeat=5_000, grace=moments.choice((0, 0, 10, 50)))

    async def scenario():
        engine = make_engine(tmp_path)
        await engine.bare_store.make_queue()
        for _ in range(3):
            begin()
        for number in range(ENDS):
            if number % max(1, ENDS // BATCHES) == 0 and number < BATCHES * (ENDS // BATCHES):
                for name, execution_id in ids_of(1 + number // (ENDS // BATCHES)):
                    await engine.enqueue(name, execution_id)
            await asyncio.sleep(moments.uniform(0.02, 0.3))
            worker = fleet.workers.pop(0)
            worker.signal(signal.SIGTERM)
            begin()
            codes.append((await asyncio.to_thread(worker.wait), worker.text()))
        await to_rest(engine, BATCHES, MOST_SECONDS)
        await engine.aclose()

    asyncio.run(scenario())
    assert fleet.end() == [0, 0, 0]
    assert [text for code, text in codes if code not in {0, -signal.SIGTERM}] == []
    assert [text for _, text in codes if "Traceback" in text or " ERROR " in text] == []
    counts = fleet.checked(url, BATCHES)
    assert [sentence for sentence in counts.violations if not any(known in sentence for known in KNOWN)] == []
    assert counts.statuses == {"completed": counts.executions}
    assert fleet.deaths(url) == []
    assert counts.interruptions > 0
