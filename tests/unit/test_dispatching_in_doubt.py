"""Connections that break when what workers do to dispatches is committed, and its answer is not there yet."""

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.postgres_proxy import lose_each_answer
from tests.unit.dispatch_cluster import in_schema
from workflow_core.clock import to_epoch_ms
from workflow_core.database.dispatch import Dispatch
from workflow_core.database.store import Lease, NewExecution
from workflow_core.limits import Limits
from workflow_core.ownership import Owner

pytest.importorskip("procrastinate")

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
LATER = NOW + timedelta(seconds=1)
OWNER = Owner("host", 1, "0", "one")
LIMITS = Limits(concurrency=1)


async def enqueue(store, execution_id="e", limits=LIMITS):
    await store.limits_noted("w", LIMITS)
    new = NewExecution("w", execution_id, None, "{}", "{}", None, fencing_token=7)
    return await store.execution_enqueued(new, Dispatch(limits=limits), NOW)


async def claim(store, at=LATER):
    rows = await store.fetch("SELECT job_id FROM {s}.dispatches WHERE execution_id = 'e'")
    return await store.execution_claimed("e", rows[0][0], OWNER, None, at)


async def two(store):
    await enqueue(store)
    await enqueue(store, "next")


async def missed(store):
    await two(store)
    await in_schema(store, "UPDATE limits SET concurrency = 2")


async def begin(store):
    await two(store)
    assert (await claim(store, NOW)).kind == "begun"


async def park(store, due_at=NOW - timedelta(seconds=1)):
    await store.execution_parked(Lease("w", "e", 8), to_epoch_ms(due_at), NOW)


async def rest(store):
    await begin(store)
    await park(store)


async def wake(store):
    await rest(store)
    await store.wake_due()


async def lose_job(store):
    await begin(store)
    await in_schema(store, "DELETE FROM procrastinate_jobs WHERE args ->> 'execution_id' = 'e'")


@dataclass
class Act:
    """What a worker or a client does: what has to be there before, the call, and whether its answer stays the same."""

    name: str
    before: Any
    call: Any
    tells: bool = True


async def nothing(store):
    await store.make_queue()


ACTS = [
    Act("enqueued", nothing, enqueue),
    Act("enqueued without limits", nothing, lambda store: enqueue(store, limits=None)),
    Act("limits changed", two, lambda store: store.limits_noted("w", Limits(concurrency=2)), tells=False),
    Act("let in by the sweep", missed, lambda store: store.admit_missed(), tells=False),
    Act("claimed to begin", enqueue, claim),
    Act("claimed after a rest", wake, claim),
    Act("parked", begin, park),
    Act("woken", rest, lambda store: store.wake_due(), tells=False),
    Act("given another job", lose_job, lambda store: store.queue_orphans(0), tells=False),
]
TABLES = {
    "executions": "id, status, owner_id, fencing_token, revision, updated_at",
    "dispatches": "execution_id, state, job_id IS NULL, has_slot, has_key_slot, has_started, due_at",
    "procrastinate_jobs": "args ->> 'execution_id', status",
    "event_log": "execution_id, type",
    "owners": "owner_id",
}


async def everything(store):
    return {table: await store.fetch(f"SELECT {what} FROM {{s}}.{table} ORDER BY 1") for table, what in TABLES.items()}


@pytest.mark.parametrize("act", ACTS, ids=lambda act: act.name)
@pytest.mark.parametrize("was_used", [True, False], ids=["used before", "new"])
def test_what_is_not_answered_happens_once_and_is_told_as_success(
    make_postgres_store, postgres_queue, proxy, act, was_used
):
    async def prepare(store):
        await store.make_queue()
        await in_schema(store, *(f"DELETE FROM {table}" for table in ("executions", "owners", "procrastinate_jobs")))
        await act.before(store)

    async def look(result, store):
        return result if act.tells else None, await everything(store)

    asyncio.run(
        lose_each_answer(proxy, make_postgres_store, was_used=was_used, prepare=prepare, call=act.call, look=look)
    )
