"""What people do while workers run limited executions: restart, cancel, resume and clean up, by the command line."""

import asyncio
import contextlib
import os
import random
import signal

import pytest

pytest.importorskip("procrastinate")

import psycopg

from tests.reliability.limited_app import KEYS, LIMITS, make_engine
from workflow_core import InvalidStateError, StorageError, WorkflowCoreError
from workflow_core.errors import ExecutionNotFoundError

SEED = int(os.environ.get("WORKFLOW_STORM_SEED", "5"))
EXECUTIONS = int(os.environ.get("WORKFLOW_STORM_EXECUTIONS", "80"))
SECONDS = 3 * EXECUTIONS / 80
MOST_SECONDS = 90
AT_REST = {"completed", "failed", "cancelled"}

LEAKED = (
    "SELECT execution_id, state, has_slot, has_key_slot FROM {s}.dispatches"
    " WHERE state = 'ended' AND (has_slot OR has_key_slot OR job_id IS NOT NULL)"
    " OR state = 'waiting' AND has_slot OR is_limited AND job_id IS NOT NULL AND NOT has_slot"
)
"""Slots that nobody uses, or who runs without one; who restarts one by hand has it for a moment without a job."""

OVER = (
    "SELECT d.workflow_name, d.limit_key, count(*) FROM {s}.dispatches d JOIN {s}.limits l USING (workflow_name)"
    " WHERE d.has_slot GROUP BY GROUPING SETS ((d.workflow_name), (d.workflow_name, d.limit_key))"
    " HAVING GROUPING(d.limit_key) = 1 AND count(*) > max(l.concurrency)"
    " OR GROUPING(d.limit_key) = 0 AND d.limit_key IS NOT NULL AND count(*) > max(l.concurrency_per_key)"
)
"""Limits that do not hold."""


CHOICES = {
    "restart": "SELECT id FROM {s}.executions WHERE status IN ('failed', 'panicked') ORDER BY id",
    "cancel": "SELECT id FROM {s}.executions WHERE status NOT IN ('completed', 'failed', 'cancelled') ORDER BY id",
    "resume": "SELECT id FROM {s}.executions WHERE status IN ('sleeping', 'running') ORDER BY id",
}
"""Of which executions one is chosen."""


async def intervene(engine, moments, over):
    """Restart, cancel, and resume what happens to be there, as several people would."""
    done = dict.fromkeys(CHOICES, 0)
    while not over.is_set():
        act = moments.choice(("restart", "restart", "restart", "resume", "cancel"))
        found = [execution_id for (execution_id,) in await engine.bare_store.fetch(CHOICES[act])]
        if found:
            with contextlib.suppress(InvalidStateError, ExecutionNotFoundError, StorageError):
                chosen = moments.choice(found)
                await (engine.cancel(chosen) if act == "cancel" else getattr(engine, act)(chosen, detach=True))
                done[act] += 1
        await asyncio.sleep(moments.uniform(0, 0.1))
    return done


async def clean_up(fleet, url, over):
    """Remove what has ended, with the command line; return how often."""
    times = 0
    while not over.is_set():
        command = fleet.run(url, "cleanup", "--older-than", "0", "--status", "completed", "--quiet")
        code = await asyncio.to_thread(command.wait)
        assert code == 0, command.text()
        times += 1
        await asyncio.sleep(0.3)
    return times


async def kill_some(fleet, url, moments, over):
    """Kill workers, and begin others."""
    kills = 0
    while not over.is_set():
        await asyncio.sleep(moments.uniform(0.1, 0.5))
        victim = fleet.workers.pop(moments.randrange(len(fleet.workers)))
        victim.signal(signal.SIGKILL)
        await asyncio.to_thread(victim.wait)
        fleet.begin(url, heartbeat=300)
        kills += 1
    return kills


async def until_at_rest(engine, ids):
    """Wait until each execution has ended, or was removed; restart by hand what panicked too often."""
    left = set(ids)
    async with asyncio.timeout(MOST_SECONDS):
        while left:
            rows = await engine.bare_store.fetch(
                "SELECT wanted.id, e.status, e.restart_at FROM unnest(%(ids)s::text[]) AS wanted (id)"
                " LEFT JOIN {s}.executions e ON e.id = wanted.id",
                {"ids": sorted(left)},
            )
            left -= {
                execution_id
                for execution_id, status, restart_at in rows
                if status is None or status in AT_REST or (status == "panicked" and restart_at is None)
            }
            await asyncio.sleep(0.05)


@pytest.mark.timeout(240)
def test_interventions_and_cleanups_leak_no_slot_and_leave_nothing_behind(fleet, postgres_server):
    fleet.app, url, moments = "tests.reliability.limited_app:engine", postgres_server.url, random.Random(SEED)
    ids = [f"{name}-{number}" for number in range(EXECUTIONS // len(LIMITS)) for name in LIMITS]
    over = asyncio.Event()
    seen = []

    async def watch(engine):
        while not over.is_set():
            seen.append(await engine.bare_store.fetch(OVER) + await engine.bare_store.fetch(LEAKED))
            await asyncio.sleep(0.02)

    async def scenario():
        engine = make_engine(database_url=url)
        await engine.bare_store.make_queue()
        for execution_id in ids:
            name, _, number = execution_id.partition("-")
            await engine.enqueue(name, execution_id, {"customer": KEYS[int(number) % len(KEYS)]})
        for _ in range(3):
            fleet.begin(url, heartbeat=300)
        acts = [
            asyncio.create_task(act)
            for act in (
                watch(engine),
                intervene(engine, random.Random(SEED + 1), over),
                intervene(make_engine(database_url=url), random.Random(SEED + 2), over),
                clean_up(fleet, url, over),
                kill_some(fleet, url, moments, over),
            )
        ]
        await asyncio.sleep(SECONDS)
        over.set()
        _, one, two, *counts = await asyncio.gather(*acts)
        await until_at_rest(engine, ids)
        left = await engine.bare_store.fetch("SELECT * FROM {s}.dispatches WHERE state <> 'ended'")
        leaked = await engine.bare_store.fetch(LEAKED) + await engine.bare_store.fetch(OVER)
        # Each slot that is free is given to the next one: the same workflows run again, as many as there are.
        for execution_id in ids:
            name, _, number = execution_id.partition("-")
            await engine.enqueue(name, f"again-{execution_id}", {"customer": KEYS[int(number) % len(KEYS)]})
        await until_at_rest(engine, [f"again-{execution_id}" for execution_id in ids])
        await engine.aclose()
        return [*counts, sum(one.values()), sum(two.values())], left, leaked

    counts, left, leaked = asyncio.run(scenario())
    assert set(fleet.end()) == {0}
    assert [rows for rows in seen if rows] == []
    assert (left, leaked) == ([], [])
    assert all(counts)


@pytest.mark.timeout(120)
def test_engines_that_enqueue_the_same_id_at_the_same_moment_enqueue_it_once(fleet, postgres_server):
    async def scenario():
        engines = [make_engine(database_url=postgres_server.url) for _ in range(4)]
        for name in LIMITS:
            for number in range(10):
                value = {"customer": "ada"}
                found = await asyncio.gather(
                    *(engine.enqueue(name, f"{name}-{number}", value) for engine in engines),
                    engines[0].enqueue(name, f"{name}-{number}", {"customer": "bob"}),
                    return_exceptions=True,
                )
                refused = [error for error in found if isinstance(error, WorkflowCoreError)]
                assert len(refused) in {1, 4}, refused
                assert all("ExecutionConflictError" in repr(error) for error in refused)
        store = engines[0].bare_store
        count = 10 * len(LIMITS)
        assert await store.fetch("SELECT count(*), count(DISTINCT execution_id) FROM {s}.dispatches") == [(count,) * 2]
        jobs = "SELECT count(*), count(DISTINCT args) FROM {s}.procrastinate_jobs"
        ((all_jobs, different),) = await store.fetch(jobs)
        assert all_jobs == different > 0
        assert await store.fetch(LEAKED) == await store.fetch(OVER) == []
        for engine in engines:
            await engine.aclose()

    asyncio.run(scenario())


@pytest.mark.timeout(120)
def test_what_was_enqueued_by_a_process_that_dies_at_the_commit_is_run_once(
    fleet, postgres_server, proxy, postgres_schema
):
    """Its death comes between the commit and the answer; whoever tries again finds what is there."""
    fleet.app = "tests.reliability.limited_app:engine"
    line = ["start", "all", "--execution-id", "e", "--input", '{"customer": "ada"}', "--queue", "default"]
    dying = []
    asyncio.run(make_engine(database_url=postgres_server.url).bare_store.make_queue())
    proxy.lose_answers_of(".enqueue(", every=0, when_lost=lambda: dying[0].signal(signal.SIGKILL))
    dying.append(fleet.run(proxy.url, *line))
    assert dying[0].wait() == -signal.SIGKILL
    assert proxy.lost_of == {".enqueue(": 1}
    proxy.lose_answers_of(".enqueue(", every=0)
    again = fleet.run(proxy.url, *line)
    assert again.wait() == 0, again.text()
    assert proxy.lost_of == {".enqueue(": 1}, "the answer of the second one is lost, too, and it tries again"
    with psycopg.connect(postgres_server.url, options=f"-c search_path={postgres_schema}") as connection:
        assert connection.execute("SELECT count(*) FROM dispatches").fetchone() == (1,)
        assert connection.execute("SELECT count(*) FROM procrastinate_jobs").fetchone() == (1,)
    fleet.begin(postgres_server.url)
    follow = fleet.run(postgres_server.url, "status", "e", "--follow")
    assert follow.wait() in {0, 1}, follow.text()
    assert fleet.end() == [0]
