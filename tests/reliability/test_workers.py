"""Real worker processes on a real PostgreSQL that are killed, stopped and continued, while the server is restarted."""

import asyncio
import os
import sys

import pytest

pytest.importorskip("procrastinate")

from tests.reliability.postgres_copy import copy
from tests.reliability.storm_checks import Counted, check
from tests.reliability.storm_workflows import KINDS, make_engine
from tests.reliability.worker_storm import Storm, enqueue, to_rest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals and fork")

SEED = int(os.environ.get("WORKFLOW_STORM_SEED", "11"))
STRIKES = int(os.environ.get("WORKFLOW_WORKER_STRIKES", "24"))
BATCHES = 3
WORKERS = 8
STOPPED = ("counted backwards", "was called more than once", "the last call was")
"""What a worker that was stopped between the record of an attempt and its call may seem to have done afterwards."""


@pytest.mark.timeout(240)
def test_eight_workers_that_are_killed_and_stopped_lose_nothing_and_repeat_nothing(
    tmp_path, monkeypatch, postgres_server, postgres_schema
):
    monkeypatch.setenv("WORKFLOW_DATABASE_URL", postgres_server.url)
    monkeypatch.setenv("WORKFLOW_DATABASE_SCHEMA", postgres_schema)
    storm, counts = Storm(tmp_path, SEED), Counted()

    def restart_the_server():
        postgres_server.stop()
        postgres_server.start()

    async def scenario():
        engine = make_engine(tmp_path)
        await enqueue(engine, *range(1, BATCHES + 1))
        await storm.strike(STRIKES, restart_the_server)
        await to_rest(engine, BATCHES, 90)
        ((left,),) = await engine.bare_store.fetch("SELECT count(*) FROM {s}.dispatches WHERE state <> 'ended'")
        assert left == 0
        await engine.aclose()

    try:
        for _ in range(WORKERS):
            storm.fork()
        asyncio.run(scenario())
        assert (set(storm.end()), storm.complaints()) == ({0}, "")
    finally:
        storm.destroy()
    copy(postgres_server.url, postgres_schema, tmp_path / "state", KINDS)
    check(tmp_path, BATCHES, counts)
    assert [sentence for sentence in counts.violations if not any(known in sentence for known in STOPPED)] == []
    assert counts.executions == BATCHES * len(KINDS)
    assert storm.kills > 0
    assert storm.stops > 0
