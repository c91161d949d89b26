"""Executions on PostgreSQL whose connections break all the time, in the middle of anything, and what is left."""

import asyncio
import os
import random
import threading

import pytest

from tests.reliability.postgres_copy import copy
from tests.reliability.storm_checks import Counted, check
from tests.reliability.storm_workflows import KINDS, make_engine, work

SEED = int(os.environ.get("WORKFLOW_STORM_SEED", "7"))
LEAST_REQUESTS = 8
BATCHES = 3


@pytest.mark.timeout(180)
def test_connections_that_break_all_the_time_lose_nothing_and_repeat_nothing(
    tmp_path, monkeypatch, proxy, postgres_url, postgres_schema
):
    monkeypatch.setenv("WORKFLOW_DATABASE_URL", proxy.url)
    monkeypatch.setenv("WORKFLOW_DATABASE_SCHEMA", postgres_schema)
    moments, over = random.Random(SEED), threading.Event()

    def strike():
        struck_at = 0
        while not over.wait(moments.uniform(0, 0.05)):
            if proxy.requests < struck_at + LEAST_REQUESTS:
                continue  # on a slow machine, too, somebody gets on between two strikes
            struck_at = proxy.requests
            if moments.random() < 0.3:
                proxy.cut()
            else:
                proxy.lose_answer(moments.randrange(3))

    striking = threading.Thread(target=strike)
    counts = Counted()

    async def run():
        engine = make_engine(tmp_path, storage_patience_ms=60_000)
        await engine.bare_store.open()
        striking.start()
        try:
            await work(engine, BATCHES, last=True)
        finally:
            over.set()
            striking.join()
            proxy.stop_losing()
        await engine.aclose()

    asyncio.run(run())
    copy(postgres_url, postgres_schema, tmp_path / "state", KINDS)
    check(tmp_path, BATCHES, counts)
    assert counts.violations == []
    assert counts.executions == BATCHES * len(KINDS)
    assert counts.recoveries == 0
    assert proxy.struck > 10
