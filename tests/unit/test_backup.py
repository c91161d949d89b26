"""A backup is complete or is not there, and is a runtime directory."""

import asyncio
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from workflow_core import InvalidStateError, Settings, StorageError, ValidationError, Workflow, WorkflowEngine
from workflow_core.database import backup
from workflow_core.database.sqlite import SQLiteStore


@pytest.fixture
def root(tmp_path):
    return tmp_path / "state"


@pytest.fixture
def boot():
    engines = []

    def make(root, clock=None):
        engine = WorkflowEngine(clock=clock, settings=Settings(directory=root, sync_handlers="inline"))
        engines.append(engine)

        @engine.define("orders")
        async def orders(ctx):
            await ctx.step("one", lambda: ctx.input)
            await ctx.sleep("pause", (ctx.input or 0))
            return await ctx.step("two", lambda: ctx.input)

        @engine.define("returns")
        async def returns(ctx):
            return None

        return engine

    yield make
    for engine in engines:
        engine.close()


def files(directory):
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file())


def test_a_backup_is_a_runtime_directory(boot, root, tmp_path):
    engine = boot(root)
    engine.run("orders", "o-1", 1)
    engine.run("returns", "r-1")
    seen = []
    copy = asyncio.run(engine.backup(tmp_path / "deep" / "copy", lambda done, total: seen.append((done, total))))
    assert copy == tmp_path / "deep" / "copy"
    assert seen == [(0, 2), (1, 2), (2, 2)]
    assert files(copy) == [each for each in files(root) if not each.endswith(("-wal", "-shm"))]
    for path in root.rglob("*.*"):
        if path.suffix in {".json", ".log"}:
            assert (copy / path.relative_to(root)).read_bytes() == path.read_bytes()
    if os.name != "nt":
        assert {stat.S_IMODE(path.stat().st_mode) for path in [copy, *copy.rglob("*")] if path.is_dir()} == {0o700}
        assert {stat.S_IMODE(path.stat().st_mode) for path in copy.rglob("*") if path.is_file()} == {0o600}
    assert list(copy.parent.iterdir()) == [copy]
    again = boot(copy)
    assert again.run("orders", "o-1", 1) == engine.run("orders", "o-1", 1)
    assert asyncio.run(again.history("r-1")) == asyncio.run(engine.history("r-1"))


def test_a_log_whose_name_begins_like_the_database_is_copied(boot, root, tmp_path):
    boot(root).run("orders", "orders.db-1", 1)
    copy = asyncio.run(boot(root).backup(tmp_path / "copy"))
    log = "workflows/orders/logs/executions/orders.db-1.log"
    assert (copy / log).read_bytes() == (root / log).read_bytes()


def test_a_log_that_is_removed_meanwhile_is_left_out(boot, root, tmp_path, monkeypatch):
    """As a cleanup does that runs at the same time."""
    boot(root).run("orders", "o-1", 1)
    copied = backup._copy_file

    def remove_first(source, target):
        if source.name == "o-1.log":
            source.unlink()
        copied(source, target)

    monkeypatch.setattr(backup, "_copy_file", remove_first)
    copy = asyncio.run(boot(root).backup(tmp_path / "copy"))
    assert [each for each in files(copy) if each.endswith("o-1.log")] == []
    assert boot(copy).run("orders", "o-1", 1).status == "completed"


def test_what_was_under_way_goes_on_in_the_copy_at_once(boot, root, tmp_path, clock):
    async def main():
        engine = boot(root, clock)
        await engine.start("orders", "o-1", 10_000, detach=True)
        await clock.settle()
        copy = boot(await engine.backup(tmp_path / "copy"), clock)
        assert await copy.recover() == ["o-1"]
        assert (await clock.finish(copy.wait("o-1"))).output == 10_000
        assert (await clock.finish(engine.wait("o-1"))).output == 10_000
        events = [type(event).__name__ for event in await engine.history("o-1")]
        assert "ExecutionRecovered" not in events
        await copy.aclose()
        await engine.aclose()

    asyncio.run(main())
    connection = sqlite3.connect(tmp_path / "copy" / "workflows" / "orders" / "orders.db")
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


WRITER = """
import sys
from pathlib import Path
from workflow_core import Settings, WorkflowEngine
engine = WorkflowEngine(settings=Settings(directory=Path(sys.argv[1]), sync_handlers="inline"))
@engine.define("orders")
async def orders(ctx):
    for number in range(5):
        await ctx.step(f"s-{number}", lambda: number)
for number in range(100_000):
    engine.run("orders", f"{sys.argv[2]}-{number}")
    if number == 3:
        print("ready", flush=True)
"""


def test_backups_beside_writing_processes_are_consistent(boot, root, tmp_path, nursery):
    children = [nursery.popen([sys.executable, "-c", WRITER, str(root), name], stdout=subprocess.PIPE) for name in "ab"]
    try:
        assert [child.stdout.readline() for child in children] == ["ready\n", "ready\n"]
        engine = boot(root)
        copies = [asyncio.run(engine.backup(tmp_path / f"copy-{number}")) for number in range(3)]
        assert [child.poll() for child in children] == [None, None]
    finally:
        for child in children:
            child.kill()
            child.communicate()
    sizes = []
    for copy in copies:
        connection = sqlite3.connect(copy / "registry.db")
        connection.execute("ATTACH ? AS w", (str(copy / "workflows" / "orders" / "orders.db"),))
        assert connection.execute("PRAGMA w.integrity_check").fetchone() == ("ok",)
        assert connection.execute("SELECT count(*) FROM w.executions WHERE owner_id IS NOT NULL").fetchone() == (0,)
        (missing,) = connection.execute(
            "SELECT count(*) FROM w.executions WHERE id NOT IN (SELECT execution_id FROM execution_index)"
        ).fetchone()
        assert missing == 0
        (count,) = connection.execute("SELECT count(*) FROM w.executions").fetchone()
        assert connection.execute("SELECT execution_count FROM workflow_registry").fetchone() == (count,)
        sizes.append(count)
        connection.close()
    assert 8 <= sizes[0] < sizes[-1]


@pytest.mark.parametrize("how", ["a file", "not empty", "inside", "the directory itself"])
def test_a_place_that_is_taken_is_refused(boot, root, tmp_path, how):
    engine = boot(root)
    engine.run("returns", "r-1")
    to = tmp_path / "copy"
    if how == "a file":
        to.write_text("mine")
    elif how == "not empty":
        to.mkdir()
        (to / "mine").write_text("mine")
    else:
        to = root / "workflows" / "copy" if how == "inside" else root
    before = files(tmp_path)
    with pytest.raises(ValidationError, match="Cannot back up"):
        asyncio.run(engine.backup(to))
    assert files(tmp_path) == before


def test_a_backup_may_have_a_long_name(boot, root, tmp_path):
    engine = boot(root)
    engine.run("returns", "r-1")
    assert (asyncio.run(engine.backup(tmp_path / ("\u65e5" * 82))) / "registry.db").is_file()


def test_an_empty_directory_is_filled(boot, root, tmp_path):
    engine = boot(root)
    engine.run("returns", "r-1")
    (tmp_path / "copy").mkdir()
    assert (asyncio.run(engine.backup(str(tmp_path / "copy"))) / "registry.db").is_file()


@pytest.mark.parametrize("how", ["damaged", "cancelled", "a failing callback"])
def test_a_backup_that_fails_leaves_nothing(boot, root, tmp_path, how):
    engine = boot(root)
    engine.run("returns", "r-1")
    engine.run("orders", "o-1", 1)
    reached, go_on = threading.Event(), threading.Event()

    def progress(done, total):
        if how == "a failing callback" and done == 1:
            raise ZeroDivisionError
        if how == "cancelled" and done == 0:
            reached.set()
            go_on.wait(30)

    async def main():
        task = asyncio.ensure_future(engine.backup(tmp_path / "copy", progress))
        if how == "cancelled":
            await asyncio.to_thread(reached.wait, 30)
            task.cancel()
            await asyncio.sleep(0)
            go_on.set()
        await task

    if how == "damaged":
        engine.close()
        path = root / "workflows" / "returns" / "returns.db"
        content = path.read_bytes()
        path.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))
        engine = boot(root)
    error = {"damaged": StorageError, "cancelled": asyncio.CancelledError, "a failing callback": ZeroDivisionError}[how]
    with pytest.raises(error):
        asyncio.run(main())
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


def test_a_place_that_cannot_be_written_is_a_clear_error(boot, root, tmp_path):
    engine = boot(root)
    engine.run("returns", "r-1")
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be backed up"):
        asyncio.run(engine.backup(tmp_path / "file" / "copy"))


def test_nothing_to_back_up_is_a_clear_error(boot, root, tmp_path):
    with pytest.raises(StorageError, match="nothing to back up"):
        asyncio.run(boot(root).backup(tmp_path / "copy"))
    assert list(tmp_path.iterdir()) == []


def test_one_database_is_not_a_directory(workflow, tmp_path):
    engine = WorkflowEngine(SQLiteStore(tmp_path / "one.db"))
    with pytest.raises(InvalidStateError, match=r"one\.db"):
        asyncio.run(engine.backup(tmp_path / "copy"))
    engine.close()
    with pytest.raises(InvalidStateError, match=":memory:"):
        asyncio.run(workflow.engine.backup(tmp_path / "copy"))


def test_a_lost_registry_is_made_before_it_is_copied(boot, root, tmp_path):
    engine = boot(root)
    engine.run("orders", "o-1", 1)
    engine.close()
    for path in root.glob("registry.db*"):
        path.unlink()
    copy = asyncio.run(boot(root).backup(tmp_path / "copy"))
    assert asyncio.run(boot(copy).get_status("o-1")).output == 1


def test_links_are_not_followed(boot, root, tmp_path):
    engine = boot(root)
    engine.run("orders", "o-1", 1)
    (tmp_path / "outside").write_text("not ours")
    (root / "workflows" / "orders" / "link").symlink_to(tmp_path / "outside")
    copy = asyncio.run(engine.backup(tmp_path / "copy"))
    assert not (copy / "workflows" / "orders" / "link").exists()


def test_a_copied_directory_goes_on_elsewhere(boot, root, tmp_path):
    engine = boot(root)
    first = engine.run("orders", "o-1", 1)
    engine.close()
    shutil.copytree(root, tmp_path / "copied")
    shutil.rmtree(root)
    assert boot(tmp_path / "copied").run("orders", "o-1", 1) == first


def test_the_facade_backs_up(boot, root, tmp_path):
    engine = boot(root)
    engine.run("returns", "r-1")
    with engine.activate():
        assert asyncio.run(Workflow.backup(Path(tmp_path / "copy"))).is_dir()
