"""The write-ahead log of a database under FULL, which is given its length when it was written for a while."""

import asyncio
import shutil
import sqlite3

import pytest

from workflow_core import WorkflowEngine
from workflow_core.database.directory import DirectoryStore
from workflow_core.database.log_length import lengthen_log
from workflow_core.database.sqlite import SQLiteStore

FOUR_MEGABYTES = 2_000 * 2_048
MANY = 150
"""Steps whose log is worth lengthening."""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "w.db"


def size_of_log(path):
    return path.with_name(f"{path.name}-wal").stat().st_size


async def run(store, execution_id="1", steps=1, at_once=1):
    """Run executions of a number of steps; return the output of the first."""
    engine = WorkflowEngine(store)

    async def work():
        await asyncio.sleep(0)
        return 1

    @engine.define("w")
    async def w(ctx):
        return sum([await ctx.step(str(number), work) for number in range(steps)])

    ids = [execution_id, *(f"{execution_id}-{number}" for number in range(1, at_once))]
    results = await asyncio.gather(*(engine.start("w", one) for one in ids))
    return results[0].output


@pytest.mark.parametrize(("steps", "at_once"), [(MANY, 1), (10, MANY // 10)], ids=["one", "many at once"])
@pytest.mark.parametrize("kind", ["file", "directory"])
def test_a_log_that_is_flushed_at_each_commit_is_given_its_length(tmp_path, kind, steps, at_once):
    if kind == "file":
        path = tmp_path / "w.db"
        store = SQLiteStore(path, synchronous="FULL")
    else:
        store = DirectoryStore(tmp_path, synchronous="FULL")
        path = store.layout.database("w")
    assert asyncio.run(run(store, steps=steps, at_once=at_once)) == steps
    assert size_of_log(path) >= FOUR_MEGABYTES
    store.close()


@pytest.mark.parametrize(("synchronous", "steps"), [("NORMAL", MANY), ("FULL", 10)])
def test_one_that_is_not_flushed_or_hardly_written_is_not(path, synchronous, steps):
    store = SQLiteStore(path, synchronous=synchronous)
    assert asyncio.run(run(store, steps=steps)) == steps
    assert size_of_log(path) < FOUR_MEGABYTES / 2
    store.close()


def test_from_then_on_it_does_not_grow_up_to_its_first_checkpoint(path):
    store = SQLiteStore(path, synchronous="FULL")
    asyncio.run(run(store, steps=MANY))
    before = size_of_log(path)
    connection = store.connection
    connection.execute("PRAGMA wal_checkpoint(RESTART)")
    pages = connection.execute("PRAGMA wal_autocheckpoint").fetchone()[0]
    for number in range(pages - 1):  # a commit of a page each
        connection.execute(f"PRAGMA user_version = {number}")
    assert size_of_log(path) == before
    store.close()


def test_a_log_is_lengthened_once(path):
    store = SQLiteStore(path, synchronous="FULL")
    asyncio.run(run(store, steps=MANY))
    statements = []
    store.connection.set_trace_callback(statements.append)
    assert lengthen_log(store.connection, path)
    store.connection.set_trace_callback(None)
    assert statements
    assert all(statement.startswith("PRAGMA") for statement in statements)
    store.close()


def test_what_was_committed_before_and_after_survives_a_crash(path, tmp_path):
    store = SQLiteStore(path)
    asyncio.run(run(store, "before", steps=MANY))
    assert lengthen_log(store.connection, path)
    assert size_of_log(path) >= FOUR_MEGABYTES
    for moment in ("lengthened", "written again"):
        crashed = tmp_path / moment
        crashed.mkdir()
        for file in tmp_path.glob("w.db*"):
            if not file.name.endswith("-shm"):  # it is made again, of the log
                shutil.copy(file, crashed)
        survivor = sqlite3.connect(crashed / "w.db")
        assert survivor.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert survivor.execute("SELECT count(*) FROM sqlite_master WHERE name = 'room'").fetchone() == (0,)
        found = [row[0] for row in survivor.execute("SELECT id FROM executions WHERE status = 'completed' ORDER BY id")]
        assert found == (["before"] if moment == "lengthened" else ["after", "before"])
        survivor.close()
        asyncio.run(run(store, "after"))
    store.close()


def test_a_disk_without_room_and_another_writer_are_no_errors(path):
    store = SQLiteStore(path, busy_timeout_ms=0)
    asyncio.run(run(store, steps=MANY))
    connection, before = store.connection, size_of_log(path)
    cached = connection.execute("PRAGMA cache_size").fetchone()
    connection.execute(f"PRAGMA max_page_count = {connection.execute('PRAGMA page_count').fetchone()[0] + 100}")
    assert lengthen_log(connection, path)
    assert not connection.in_transaction
    connection.execute("PRAGMA max_page_count = 1000000")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    assert lengthen_log(connection, path)
    other.execute("ROLLBACK")
    other.close()
    assert before <= size_of_log(path) < FOUR_MEGABYTES
    assert connection.execute("PRAGMA cache_size").fetchone() == cached
    assert asyncio.run(run(store, "2")) == 1
    store.close()
