"""The write-ahead log of a database under FULL, which is given its length when it was written for a while."""

import asyncio
import shutil
import sqlite3
from types import SimpleNamespace

import pytest

from tests.unit.faulty_connection import Faulty, Interrupted
from workflow_core import WorkflowEngine
from workflow_core.database import connection, log_length
from workflow_core.database.directory import DirectoryStore
from workflow_core.database.log_length import lengthen_log
from workflow_core.database.sqlite import SQLiteStore

FOUR_MEGABYTES = 2_000 * 2_048
MANY = 150
"""Steps whose log is worth lengthening."""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "w.db"


@pytest.fixture(autouse=True)
def room(monkeypatch):
    """Let the disk have room enough, whatever there is; a test can set how much."""
    found = SimpleNamespace(free=1_000 * FOUR_MEGABYTES)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: found)
    return found


@pytest.fixture
def at_once(monkeypatch):
    """Let logs be lengthened that are short yet, at the first commit."""
    monkeypatch.setattr(log_length, "_WORTH_IT", 0)
    monkeypatch.setattr(connection, "_LOOK_AFTER", 1)


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


@pytest.mark.usefixtures("at_once")
def test_a_log_does_not_grow_up_to_its_first_checkpoint(path):
    store = SQLiteStore(path, synchronous="FULL")
    asyncio.run(run(store))
    before = size_of_log(path)
    connection = store.connection
    connection.execute("PRAGMA wal_checkpoint(RESTART)")
    pages = connection.execute("PRAGMA wal_autocheckpoint").fetchone()[0]
    for number in range(pages - 1):  # a commit of a page each
        connection.execute(f"PRAGMA user_version = {number}")
    assert size_of_log(path) == before
    store.close()


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("page_bytes", [512, 1_024, 2_048, 4_096, 65_536])
def test_a_log_of_any_page_size_is_lengthened_once(path, page_bytes):
    made = sqlite3.connect(path)
    made.execute(f"PRAGMA page_size = {page_bytes}")
    made.execute("VACUUM")
    made.close()
    SQLiteStore(path).close()  # so that the log, which is deleted, begins with what it is lengthened by
    store = SQLiteStore(path, synchronous="FULL")
    connection = store.connection
    assert connection.execute("PRAGMA page_size").fetchone() == (page_bytes,)
    lengthen_log(connection)
    size = connection.execute("PRAGMA wal_autocheckpoint").fetchone()[0] * page_bytes
    assert size <= size_of_log(path) < size * 1.4
    statements = []
    connection.set_trace_callback(statements.append)
    lengthen_log(connection)
    connection.set_trace_callback(None)
    assert all(statement.startswith("PRAGMA") for statement in statements)
    store.close()


@pytest.mark.usefixtures("at_once")
def test_a_log_of_a_database_behind_a_link_is_lengthened_once(path, tmp_path):
    link = tmp_path / "link.db"
    link.symlink_to(path)
    store = SQLiteStore(link, synchronous="FULL")
    lengthen_log(store.connection)
    assert size_of_log(path) >= FOUR_MEGABYTES
    statements = []
    store.connection.set_trace_callback(statements.append)
    lengthen_log(store.connection)
    store.connection.set_trace_callback(None)
    assert all(statement.startswith("PRAGMA") for statement in statements)
    store.close()


@pytest.mark.usefixtures("at_once")
def test_who_only_reads_leaves_the_log_as_it_is(path):
    writer = SQLiteStore(path)
    asyncio.run(run(writer))
    before = size_of_log(path)
    reader = SQLiteStore(path, synchronous="FULL")
    assert asyncio.run(reader.load_execution("1")).status == "completed"
    assert size_of_log(path) == before
    reader.close()
    writer.close()


@pytest.mark.usefixtures("at_once")
def test_a_log_is_lengthened_once(path):
    store = SQLiteStore(path, synchronous="FULL")
    asyncio.run(run(store))
    statements = []
    store.connection.set_trace_callback(statements.append)
    lengthen_log(store.connection)
    store.connection.set_trace_callback(None)
    assert statements
    assert all(statement.startswith("PRAGMA") for statement in statements)
    store.close()


@pytest.mark.usefixtures("at_once")
def test_what_was_committed_before_and_after_survives_a_crash(path, tmp_path):
    store = SQLiteStore(path)
    asyncio.run(run(store, "before"))
    lengthen_log(store.connection)
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


SETTINGS = ("cache_size", "busy_timeout")


def settings(connection):
    return [connection.execute(f"PRAGMA {name}").fetchone() for name in SETTINGS]


@pytest.mark.usefixtures("at_once")
def test_what_a_disk_has_no_room_for_is_given_back(path):
    store = SQLiteStore(path)
    asyncio.run(run(store))
    connection = store.connection
    before = settings(connection)
    connection.execute(f"PRAGMA max_page_count = {connection.execute('PRAGMA page_count').fetchone()[0] + 100}")
    lengthen_log(connection)
    assert not connection.in_transaction
    assert size_of_log(path) == 0
    assert settings(connection) == before
    connection.execute("PRAGMA max_page_count = 1000000")
    assert asyncio.run(run(store, "2")) == 1
    store.close()


@pytest.mark.usefixtures("at_once")
def test_a_disk_with_little_room_is_left_to_who_needs_it(path, room):
    room.free = 99 * FOUR_MEGABYTES
    store = SQLiteStore(path, synchronous="FULL")
    assert asyncio.run(run(store)) == 1
    assert size_of_log(path) < FOUR_MEGABYTES
    store.close()


@pytest.mark.usefixtures("at_once")
@pytest.mark.timeout(20)
def test_another_writer_is_no_error_and_is_not_waited_for(path):
    store = SQLiteStore(path, busy_timeout_ms=60_000)
    asyncio.run(run(store))
    connection, size = store.connection, size_of_log(path)
    before = settings(connection)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    lengthen_log(connection)
    other.execute("ROLLBACK")
    other.close()
    assert size_of_log(path) == size
    assert settings(connection) == before
    assert asyncio.run(run(store, "2")) == 1
    store.close()


@pytest.mark.usefixtures("at_once")
def test_a_log_that_another_process_has_lengthened_meanwhile_is_left(path):
    store, other = SQLiteStore(path), SQLiteStore(path)
    asyncio.run(run(store))
    said = []

    def trace(sql):
        said.append(sql)
        if sql == "PRAGMA busy_timeout = 0":
            lengthen_log(other.connection)

    store.connection.set_trace_callback(trace)
    lengthen_log(store.connection)
    store.connection.set_trace_callback(None)
    assert size_of_log(path) >= FOUR_MEGABYTES
    assert not any(sql.startswith("INSERT") for sql in said)
    other.close()
    store.close()


@pytest.mark.usefixtures("at_once")
def test_a_database_without_such_a_log_is_left_as_it_is(path):
    store = SQLiteStore(path, synchronous="FULL")
    store.connection.execute("PRAGMA journal_mode = DELETE")
    statements = []
    store.connection.set_trace_callback(statements.append)
    assert asyncio.run(run(store)) == 1
    assert not any("room" in statement for statement in statements)
    store.close()


@pytest.mark.usefixtures("at_once")
def test_a_transaction_that_cannot_be_rolled_back_harms_nobody(path):
    class Stuck:
        def __init__(self, connection):
            self.connection = connection

        def execute(self, sql, *parameters):
            if sql.startswith(("INSERT INTO room", "ROLLBACK")):
                raise sqlite3.OperationalError("disk I/O error")
            return self.connection.execute(sql, *parameters)

        def __getattr__(self, name):
            return getattr(self.connection, name)

    store = SQLiteStore(path, synchronous="FULL")
    store._connection = Stuck(store.connection)
    assert asyncio.run(run(store)) == 1
    store.close()


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("is_over", [False, True])
@pytest.mark.parametrize("statement", ["CREATE TABLE room", "INSERT INTO room", "ROLLBACK"])
def test_an_interrupt_leaves_no_transaction_and_the_settings_as_they_were(path, statement, is_over):
    store = SQLiteStore(path, synchronous="FULL")
    before = settings(store.connection)
    store._connection = (Interrupted if is_over else Faulty)(store.connection, statement, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        store.committed()
    assert store._connection.error is None
    assert not store.connection.in_transaction
    assert settings(store.connection) == before
    assert asyncio.run(run(store)) == 1
    store.close()
