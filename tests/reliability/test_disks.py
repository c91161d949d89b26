"""Disks that are full, read-only, failing or locked: executions wait for them, others go on, and nothing is lost."""

import asyncio
import contextlib
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.reliability.disks import lacking, small_disk
from workflow_core import Settings, StorageError, WorkflowEngine

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX file systems")

PATIENCE_MS = 150
BUSY_MS = 20
BIG = "x" * 400_000


class Shop:
    """A runtime directory with two workflows in it, ``victim`` and ``other``, and what their steps did.

    Args:
        root: The runtime directory.
    """

    def __init__(self, root):
        self.root = root
        self.ran = []
        self.strike = None
        self.engines = []
        self.engine = self.open()

    def open(self):
        """Return a new engine on the directory."""
        settings = Settings(
            directory=self.root, storage_patience_ms=PATIENCE_MS, busy_timeout_ms=BUSY_MS, sync_handlers="inline"
        )
        engine = WorkflowEngine(settings=settings)
        self.engines.append(engine)

        @engine.define("victim")
        async def victim(ctx):
            def big():
                self.ran.append(f"{ctx.execution_id} big")
                if self.strike is not None:
                    self.strike()
                return BIG

            size = len(await ctx.step("big", big))
            await ctx.step("last", lambda: self.ran.append(f"{ctx.execution_id} last"))
            return size

        @engine.define("other")
        async def other(ctx):
            await ctx.sleep("pause", 5)
            return await ctx.step("step", lambda: ctx.execution_id)

        return engine

    @property
    def database(self):
        """The victim's database."""
        return self.root / "workflows" / "victim" / "victim.db"

    async def others_run(self, prefix):
        """Run the other workflow a few times, beginning with an execution in it for each."""
        ids = [f"{prefix}-{number}" for number in range(3)]
        results = await asyncio.gather(*(self.engine.start("other", each) for each in ids))
        assert [result.output for result in results] == ids

    def close(self):
        """Close the engines."""
        for engine in self.engines:
            engine.close()


@pytest.fixture
def shop(tmp_path):
    shop = Shop(tmp_path / "state")
    yield shop
    shop.close()


def run(scenario):
    asyncio.run(asyncio.wait_for(scenario, 30))


def incidents(caplog):
    return [record.levelname for record in caplog.records if record.module == "patience"]


# Full ----------------------------------------------------------------------------------------------------------------


def test_an_execution_on_a_full_disk_goes_on_by_itself(shop, caplog):
    caplog.set_level(logging.INFO, "workflow_core")

    async def scenario():
        with small_disk(shop.database.parent) as disk:
            await shop.engine.start("victim", "before")
            shop.strike = disk.fill
            for _ in range(2):  # it is told to all who wait, as long as it lasts
                with pytest.raises(StorageError, match="goes on by itself") as caught:
                    await shop.engine.start("victim", "v")
                assert caught.value.reason == "full"
                assert caught.value.location == str(shop.database)
                assert "make room on the disk" in str(caught.value)
            assert incidents(caplog) == ["WARNING"]
            await shop.others_run("during")
            assert (await shop.engine.get_status("v")).status == "running"
            disk.clear()
            result = await shop.engine.wait("v")
            assert (result.status, result.output) == ("completed", len(BIG))
            assert shop.ran == ["before big", "before last", "v big", "v last"]
            assert incidents(caplog) == ["WARNING", "INFO"]
            assert [event.seq for event in await shop.engine.history("v")] == [1, 2, 3, 4, 5, 6]
            assert (await shop.engine.get_status("before")).output == len(BIG)
            await shop.engine.aclose()

    run(scenario())


def test_nothing_is_begun_on_a_full_disk(shop):
    async def scenario():
        with small_disk(shop.root) as disk:
            await shop.others_run("before")
            disk.fill()
            with pytest.raises(StorageError, match=r"gave up after 150 ms") as caught:
                await shop.engine.start("victim", "v", BIG)
            assert caught.value.reason == "full"
            disk.clear()
            assert (await shop.engine.start("victim", "v", BIG)).output == len(BIG)
            assert shop.ran == ["v big", "v last"]
            await shop.engine.aclose()

    run(scenario())


def test_an_engine_closes_while_an_execution_waits_for_room(shop):
    async def scenario():
        with small_disk(shop.database.parent) as disk:
            await shop.engine.start("victim", "before")
            shop.strike = disk.fill
            with pytest.raises(StorageError):
                await shop.engine.start("victim", "v")
            await asyncio.wait_for(shop.engine.aclose(), 5)
            disk.clear()
            shop.strike, again = None, shop.open()
            again._probe.has_ended = lambda owner: True  # its process
            assert await again.recover() == ["v"]
            assert (await again.wait("v")).output == len(BIG)
            assert shop.ran[2:] == ["v big", "v big", "v last"]  # the result that was never stored is lost, no other
            await again.aclose()

    run(scenario())


def test_a_cancellation_on_a_full_disk_is_refused_and_can_be_repeated(shop):
    async def scenario():
        with small_disk(shop.database.parent) as disk:
            await shop.engine.start("victim", "before")
            shop.strike = disk.fill
            with pytest.raises(StorageError):
                await shop.engine.start("victim", "v")
            with pytest.raises(StorageError, match="gave up"):
                await shop.engine.cancel("v")
            waiting = asyncio.ensure_future(shop.engine.wait("v"))
            await asyncio.sleep(0)
            disk.clear()
            assert (await shop.engine.cancel("v")).status == "cancelled"
            assert (await waiting).status == "cancelled"
            await shop.engine.aclose()

    run(scenario())


# Locked --------------------------------------------------------------------------------------------------------------

HOLDER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.readline()
connection.execute("ROLLBACK")
print("free", flush=True)
sys.stdin.readline()
"""


class Holder:
    """A process that holds the write lock of a database."""

    def __init__(self, path):
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout.readline() == "locked\n"

    def release(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "free\n"

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.process.communicate()


def test_a_database_that_another_process_locks_stalls_nobody_else(shop):
    async def scenario():
        await shop.engine.start("victim", "before")
        await shop.others_run("before")
        with Holder(shop.database) as holder:
            waiting = [asyncio.ensure_future(shop.engine.start("victim", f"v-{number}")) for number in range(20)]
            for told in await asyncio.gather(*waiting, return_exceptions=True):
                assert isinstance(told, StorageError)
                assert (told.reason, told.location) == ("locked", str(shop.database))
                assert "another program holds a lock" in str(told)
            await shop.others_run("during")
            holder.release()
            result = await shop.engine.start("victim", "v-1")
            assert result.output == len(BIG)
        await shop.engine.aclose()

    run(scenario())


def test_running_executions_wait_for_a_lock_without_blocking_the_loop(shop):
    async def scenario():
        gate = asyncio.Event()

        @shop.engine.define("gated")
        async def gated(ctx):
            await ctx.step("wait", gate.wait)
            shop.ran.append(ctx.execution_id)

        def sqlite_waits(name):
            return shop.engine.store.workflow(name).select("PRAGMA busy_timeout")[0][0]

        ids = [f"g-{number}" for number in range(30)]
        for each in ids:
            await shop.engine.start("gated", each, detach=True)
        await shop.others_run("before")
        for each in ids:
            while (await shop.engine.get_status(each)).steps == {}:
                await asyncio.sleep(0)
        with Holder(shop.root / "workflows" / "gated" / "gated.db") as holder:
            gate.set()
            waiting = [asyncio.ensure_future(shop.engine.wait(each)) for each in ids]
            await shop.others_run("during")
            told = await asyncio.gather(*waiting, return_exceptions=True)
            assert {type(each) for each in told} == {StorageError}
            # the first to meet the lock waits in SQLite, and the event loop with it; from then on nobody does
            assert sqlite_waits("gated") == 0
            assert sqlite_waits("other") == BUSY_MS
            holder.release()
            results = await asyncio.gather(*(shop.engine.wait(each) for each in ids))
            assert sqlite_waits("gated") == BUSY_MS
        assert {result.status for result in results} == {"completed"}
        assert sorted(shop.ran) == sorted(ids)
        await shop.engine.aclose()

    run(scenario())


def test_a_locked_registry_hinders_only_new_executions(shop):
    async def scenario():
        await shop.others_run("before")
        began = await shop.engine.start("other", "began", detach=True)
        with Holder(shop.root / "registry.db") as holder:
            assert (await shop.engine.wait("began")).output == "began"
            assert (await shop.engine.start("other", "before-1")).output == "before-1"
            with pytest.raises(StorageError) as caught:
                await shop.engine.start("other", "new")
            assert (caught.value.reason, caught.value.location) == ("locked", str(shop.root / "registry.db"))
            holder.release()
            assert (await shop.engine.start("other", "new")).output == "new"
        assert began.status == "running"
        await shop.engine.aclose()

    run(scenario())


# Read-only -----------------------------------------------------------------------------------------------------------


def test_a_disk_that_is_mounted_read_only(shop):
    async def scenario():
        with small_disk(shop.database.parent) as disk:
            await shop.engine.start("victim", "before")
            await shop.engine.aclose()
            disk.remount("ro")
            shop.engine = shop.open()
            with pytest.raises(StorageError, match="this user may write the file and its directory") as caught:
                await shop.engine.start("victim", "v")
            assert (caught.value.reason, caught.value.location) == ("read_only", str(shop.database))
            await shop.others_run("during")
            disk.remount("rw")
            assert (await shop.engine.start("victim", "v")).output == len(BIG)
            assert (await shop.engine.get_status("before")).output == len(BIG)
            await shop.engine.aclose()

    run(scenario())


CLIENT = """
import asyncio, sys
from pathlib import Path
from workflow_core import Settings, StorageError, WorkflowEngine

engine = WorkflowEngine(settings=Settings(directory=Path(sys.argv[1]), storage_patience_ms=50))
engine.define("victim", lambda ctx: "done")
try:
    print(asyncio.run(engine.start("victim", "v")).output)
except StorageError as error:
    print(error.reason, error)
"""


def without_privileges():
    """Return the command that takes root's power over permissions away."""
    if os.geteuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        lacking("root needs setpriv(1) to run a program that permissions apply to")
    return ["setpriv", "--inh-caps=-all", "--bounding-set=-all"]


@pytest.mark.parametrize("what", ["new", "existing"])
def test_a_directory_in_which_this_user_may_not_write(what):
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "state"
        root.mkdir(mode=0o755)
        Path(name).chmod(0o755)
        if what == "existing":
            engine = WorkflowEngine(settings=Settings(directory=root))
            engine.define("victim", lambda ctx: "done")
            engine.run("victim", "before")
            engine.close()
            for path in root.rglob("*"):
                path.chmod(0o755 if path.is_dir() else 0o666)
        for path in [root, *(path for path in root.rglob("*") if path.is_dir())]:
            path.chmod(0o555)
        command = [*without_privileges(), sys.executable, "-c", CLIENT, str(root)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        for path in [root, *(path for path in root.rglob("*") if path.is_dir())]:
            path.chmod(0o755)
        assert "Traceback" not in done.stderr
        assert done.stdout.startswith("read_only "), done.stdout
        assert str(root) in done.stdout
        assert "this user may write" in done.stdout


# Failing -------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def files_limited_to(size):
    """Let every write beyond a size fail, as the system does for its own limit of a file's size."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_an_execution_goes_on_after_the_disk_reported_errors(shop):
    async def scenario():
        for number in range(5):
            await shop.engine.start("victim", f"earlier-{number}")
        await shop.others_run("before")
        log = shop.database.with_name("victim.db-wal")
        with contextlib.ExitStack() as stack:
            shop.strike = lambda: stack.enter_context(files_limited_to(log.stat().st_size))
            with pytest.raises(StorageError, match="goes on by itself") as caught:
                await shop.engine.start("victim", "v")
            assert (caught.value.reason, caught.value.location) == ("io", str(shop.database))
            await shop.others_run("during")
        assert (await shop.engine.wait("v")).output == len(BIG)
        assert shop.ran[-2:] == ["v big", "v last"]
        assert shop.ran.count("v big") == 1
        await shop.engine.aclose()

    run(scenario())
