"""Database files that are damaged, foreign or from the future: a clear error, and the other workflows run."""

import asyncio
import os
import random
import shutil
import sqlite3
import sys

import pytest

from workflow_core import SchemaVersionError, Settings, StorageError, WorkflowEngine
from workflow_core.database.sqlite import SQLiteStore

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows does not let an open file be replaced")


def make_engine(root):
    engine = WorkflowEngine(settings=Settings(directory=root, storage_patience_ms=50, sync_handlers="inline"))
    for name in ("victim", "other"):

        @engine.define(name)
        async def flow(ctx):
            numbers = [await ctx.step(f"s{number}", lambda number=number: number) for number in range(20)]
            return [sum(numbers), ctx.input]

    return engine


OUTPUT = [190, None]


@pytest.fixture
def root(tmp_path):
    """A runtime directory in which ``victim`` has completed an execution ``v``, as a dead process leaves it."""
    live, dead = tmp_path / "live", tmp_path / "state"
    engine = make_engine(live)
    assert engine.run("victim", "v").output == OUTPUT
    assert engine.run("other", "o").output == OUTPUT
    shutil.copytree(live, dead)  # with its write-ahead log, which closing would empty
    engine.close()
    assert database(dead, "-wal").stat().st_size > 0
    return dead


def database(root, suffix=""):
    return root / "workflows" / "victim" / f"victim.db{suffix}"


def without_log(root):
    """Let the database be one whose last user closed it."""
    SQLiteStore(database(root)).close()
    assert not database(root, "-wal").exists()


def garbage(size, seed=1):
    return random.Random(seed).randbytes(size)


def truncated(root):
    without_log(root)
    os.truncate(database(root), database(root).stat().st_size // 2 // 4_096 * 4_096)


def torn(root):
    without_log(root)
    os.truncate(database(root), 4_096 * 3 + 77)


def overwritten(root):
    without_log(root)
    with database(root).open("r+b") as file:
        file.seek(4_096)
        file.write(garbage(100_000))


def all_garbage(root):
    without_log(root)
    database(root).write_bytes(garbage(50_000))


def text(root):
    without_log(root)
    database(root).write_text("dear diary\n" * 1_000)


def directory(root):
    without_log(root)
    database(root).unlink()
    database(root).mkdir()


def future(root):
    connection = sqlite3.connect(database(root))
    connection.execute("PRAGMA user_version = 999")
    connection.close()


def foreign(root, version=0):
    without_log(root)
    database(root).unlink()
    connection = sqlite3.connect(database(root))
    connection.execute("CREATE TABLE bookmarks (url TEXT)")
    connection.execute(f"PRAGMA user_version = {version}")
    connection.close()


def foreign_with_a_version(root):
    foreign(root, 75)


def foreign_with_our_version(root):
    foreign(root, 1)


def registry_in_its_place(root):
    without_log(root)
    connection = sqlite3.connect(root / "registry.db")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    shutil.copy(root / "registry.db", database(root))


def foreign_log(root):
    without_log(root)
    path = root / "foreign.db"
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("CREATE TABLE bookmarks (url TEXT)")
    shutil.copy(f"{path}-wal", database(root, "-wal"))
    connection.close()


def without_tables(root):
    without_log(root)
    connection = sqlite3.connect(database(root))
    connection.execute("DROP VIEW step_events")
    connection.execute("DROP TABLE step_errors")
    connection.close()


DAMAGES = {
    truncated: ("damaged", "restore it from a backup"),
    torn: ("damaged", "restore it from a backup"),
    overwritten: ("damaged", "restore it from a backup"),
    all_garbage: ("damaged", "restore it from a backup"),
    text: ("damaged", "restore it from a backup"),
    directory: ("other", "there is a directory where the file should be"),
    future: ("schema", "install the version that wrote it"),
    foreign: ("schema", "another program .it holds bookmarks.; move it away"),
    foreign_with_a_version: ("schema", "another program"),
    foreign_with_our_version: ("schema", "another program"),
    registry_in_its_place: ("schema", "another program"),
    foreign_log: ("schema", "another program"),
    without_tables: ("damaged", "these tables are missing: step_errors"),
}


def content(path):
    return path.read_bytes() if path.is_file() else None


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_database_that_cannot_be_used(root, damage):
    damage(root)
    before = content(database(root))
    reason, advice = DAMAGES[damage]

    async def scenario():
        engine = make_engine(root)
        for _ in range(2):
            with pytest.raises(StorageError, match=advice) as caught:
                await engine.start("victim", "v")
            assert caught.value.reason == reason
            assert isinstance(caught.value, SchemaVersionError) == (reason == "schema")
            assert str(database(root)) in str(caught.value)
        assert (await engine.start("other", "o")).output == OUTPUT
        assert (await engine.start("other", "o2", 2)).output == [190, 2]
        assert await engine.recover() == []
        await engine.aclose()

    asyncio.run(scenario())
    assert content(database(root)) == before


def empty(root):
    without_log(root)
    database(root).write_bytes(b"")


def absent(root):
    without_log(root)
    database(root).unlink()


@pytest.mark.parametrize("damage", [empty, absent], ids=lambda damage: damage.__name__)
def test_a_database_without_anything_in_it_begins_anew(root, damage):
    damage(root)
    engine = make_engine(root)
    assert engine.run("victim", "v").output == OUTPUT
    engine.close()


def shared_memory_of_garbage(root):
    database(root, "-shm").write_bytes(garbage(32_768))


def shared_memory_truncated(root):
    os.truncate(database(root, "-shm"), 1_000)


def shared_memory_absent(root):
    database(root, "-shm").unlink()


def log_with_garbage_behind_it(root):
    with database(root, "-wal").open("ab") as file:
        file.write(garbage(20_000))


def log_with_a_torn_frame_behind_it(root):
    log = database(root, "-wal").read_bytes()
    with database(root, "-wal").open("ab") as file:
        file.write(log[32 : 32 + 2_000])


@pytest.mark.parametrize(
    "damage",
    [
        shared_memory_of_garbage,
        shared_memory_truncated,
        shared_memory_absent,
        log_with_garbage_behind_it,
        log_with_a_torn_frame_behind_it,
    ],
    ids=lambda damage: damage.__name__,
)
def test_what_a_dying_process_leaves_loses_nothing(root, damage):
    damage(root)
    engine = make_engine(root)
    result = engine.run("victim", "v")
    assert (result.output, result.steps["s19"].result) == (OUTPUT, 19)
    assert engine.run("victim", "v2", 2).output == [190, 2]
    assert engine.store.workflow("victim").select("PRAGMA integrity_check") == [("ok",)]
    engine.close()


@pytest.mark.parametrize("size", [0, 20, 5_000])
def test_a_log_of_garbage_leaves_what_is_in_the_database(root, size):
    without_log(root)
    database(root, "-wal").write_bytes(garbage(size))
    engine = make_engine(root)
    assert engine.run("victim", "v").steps["s19"].result == 19
    assert engine.run("victim", "v2", 2).output == [190, 2]
    engine.close()
