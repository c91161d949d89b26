"""Removing old executions: which ones go, with what, in which order, and what a crash in the middle leaves."""

import asyncio
import contextlib
import shutil
from datetime import timedelta
from pathlib import Path

import pytest

from tests.unit.conftest import sql
from workflow_core import (
    ExecutionNotFoundError,
    NonRetryableError,
    Settings,
    StorageError,
    ValidationError,
    WorkflowCoreError,
    WorkflowEngine,
)
from workflow_core.database.directory import DirectoryStore
from workflow_core.database.registry import Registry
from workflow_core.database.sqlite import SQLiteStore

DAY_MS = 86_400_000
RESTING = {"completed", "failed", "cancelled", "panicked"}


def define(engine):
    @engine.define("work", retry_config={"max_attempts": 2, "backoff_ms": 10})
    async def work(ctx):
        if ctx.input == "failed":
            await ctx.step("refuse", refuse)
        elif ctx.input in {"panicked", "panicked-due"}:
            raise MemoryError
        elif ctx.input in {"sleeping", "cancelled"}:
            await ctx.sleep("nap", 60_000)
        return await ctx.step("s", lambda: ctx.input)

    @engine.define("other")
    async def other(ctx):
        return await ctx.step("s", lambda: "x" * 50_000)


def finish(clock, awaitable):
    return clock.finish(awaitable, limit_ms=float("inf"))


def refuse():
    raise NonRetryableError("no")


@contextlib.contextmanager
def an_engine(request, tmp_path, clock):
    if request.param == "postgres":
        store = request.getfixturevalue("make_postgres_store")()
    else:
        store = SQLiteStore(tmp_path / "w.db") if request.param == "file" else DirectoryStore(tmp_path / "state")
    engine = WorkflowEngine(store, clock, settings=Settings(sync_handlers="inline", lease_ms=None, max_sleep_ms=DAY_MS))
    define(engine)
    yield engine
    engine.close()


@pytest.fixture(params=["file", "directory", "postgres"])
def engine(request, tmp_path, clock):
    with an_engine(request, tmp_path, clock) as engine:
        yield engine


@pytest.fixture(params=["file", "directory"])
def sqlite_engine(request, tmp_path, clock):
    with an_engine(request, tmp_path, clock) as engine:
        yield engine


@pytest.fixture
def directory(tmp_path, clock):
    engine = WorkflowEngine(DirectoryStore(tmp_path / "d"), clock, settings=Settings(sync_handlers="inline"))
    define(engine)
    yield engine
    engine.close()


async def begin_all(engine):
    for kind in ("completed", "failed", "sleeping", "cancelled", "panicked", "panicked-due"):
        panic = {"enable_auto_restart": kind == "panicked-due", "restart_delay_ms": 100 * DAY_MS}
        with contextlib.suppress(WorkflowCoreError):
            await engine.start("work", kind, kind, panic_config=panic, detach=True)
        await engine.clock.settle()
    await engine.cancel("cancelled")


def test_who_was_stopped_past_all_of_it_writes_nothing_to_the_successor_of_its_execution(tmp_path):
    """Stopped in a step, taken over, ended and removed by others; then the id is used again."""

    async def scenario():
        at_work, go_on = asyncio.Event(), asyncio.Event()
        stopped, others = (
            WorkflowEngine(DirectoryStore(tmp_path / "d"), settings=Settings(sync_handlers="inline")) for _ in range(2)
        )

        async def hold():
            at_work.set()
            await go_on.wait()
            return "of the stopped one"

        @stopped.define("w")
        async def old(ctx):
            return await ctx.step("s", hold)

        @others.define("w")
        async def new(ctx):
            await ctx.step("s", second_hold)
            return "of the successor"

        second_at_work, second_go_on = asyncio.Event(), asyncio.Event()

        async def second_hold():
            second_at_work.set()
            await second_go_on.wait()

        await stopped.start("w", "e", detach=True)
        await at_work.wait()
        with others.store.workflow("w").transaction() as database:
            database.execute(
                "UPDATE executions SET status = 'completed', owner_id = NULL, fencing_token = fencing_token + 1,"
                " completed_at = started_at, revision = revision + 1"
            )
        await asyncio.sleep(0.005)
        assert (await others.cleanup(0)).total == 1
        await others.start("w", "e", detach=True)
        await second_at_work.wait()
        go_on.set()
        for _ in range(20):
            await asyncio.sleep(0)
        database = others.store.workflow("w").connection
        assert database.execute("SELECT status FROM executions").fetchall() == [("running",)]
        assert database.execute("SELECT status, result_data FROM steps").fetchall() == [("running", None)]
        second_go_on.set()
        result = await others.wait("e")
        assert (result.output, result.steps["s"].result) == ("of the successor", None)
        await stopped.aclose()
        await others.aclose()

    asyncio.run(scenario())


def test_an_id_that_is_removed_while_it_is_started_again_begins_anew(engine):
    asyncio.run(engine.start("work", "e", "first"))
    found, removed = engine._joining.found, []

    async def remove_first(record, **options):
        if not removed:
            await engine.clock.sleep(5)
            removed.append((await engine.cleanup(0)).total)
        return await found(record, **options)

    engine._joining.found = remove_first
    again = asyncio.run(finish(engine.clock, engine.start("work", "e", "first")))
    assert (removed, again.status, again.output) == ([1], "completed", "first")
    assert again.started_at > engine.clock.now() - timedelta(seconds=1)
    assert [summary.execution_id for summary in asyncio.run(engine.list_executions())] == ["e"]


def kept(engine):
    return {summary.execution_id for summary in asyncio.run(engine.list_executions())}


def test_only_what_rests_is_removed(engine, clock):
    async def main():
        await begin_all(engine)
        clock.time += timedelta(milliseconds=1_000)
        report = await finish(clock, engine.cleanup(0))
        assert report.removed == {"work": 4}
        assert report.total == 4
        for name in RESTING:
            with pytest.raises(ExecutionNotFoundError):
                await engine.get_status(name)
        assert (await engine.get_status("sleeping")).status == "sleeping"
        assert (await finish(clock, engine.wait("sleeping"))).status == "completed"

    asyncio.run(main())
    assert kept(engine) == {"sleeping", "panicked-due"}


def test_how_long_ago(engine, clock):
    async def main():
        for number in range(3):
            await engine.start("work", f"e{number}", "x")
            clock.time += timedelta(days=1)
        assert (await finish(clock, engine.cleanup(timedelta(days=3)))).total == 0
        assert (await finish(clock, engine.cleanup(DAY_MS * 2.5))).removed == {"work": 1}

    asyncio.run(main())
    assert kept(engine) == {"e1", "e2"}


def test_age_counts_from_the_end(engine, clock):
    """One that began long ago and has just ended stays."""

    async def main():
        await engine.start("work", "long", "sleeping", detach=True)
        await engine.start("work", "short", "x")
        await finish(clock, engine.wait("long"))
        clock.time += timedelta(milliseconds=1)
        assert (await finish(clock, engine.cleanup(1_000, batch=1))).total == 1

    asyncio.run(main())
    assert kept(engine) == {"long"}


@pytest.mark.parametrize(
    ("status", "removed"), [("failed", 1), (["failed", "panicked"], 2), (("completed", "completed"), 1), ([], 0)]
)
def test_by_status(engine, clock, status, removed):
    async def main():
        await begin_all(engine)
        clock.time += timedelta(milliseconds=1_000)
        return await finish(clock, engine.cleanup(0, status))

    assert asyncio.run(main()).total == removed


def test_by_workflow(engine, clock):
    async def main():
        await engine.start("work", "w", "x")
        await engine.start("other", "o")
        clock.time += timedelta(milliseconds=1_000)
        assert (await finish(clock, engine.cleanup(0, workflow_name="absent"))).removed == {}
        return await finish(clock, engine.cleanup(0, workflow_name="other"))

    assert asyncio.run(main()).removed == {"other": 1}
    assert kept(engine) == {"w"}


def test_a_dry_run_removes_nothing(engine, clock):
    async def main():
        for number in range(5):
            await engine.start("work", f"e{number}", "x")
        clock.time += timedelta(milliseconds=1_000)
        report = await finish(clock, engine.cleanup(0, dry_run=True, batch=2))
        assert report.dry_run and report.removed == {"work": 5}
        assert len(kept_here := await engine.list_executions()) == 5, kept_here
        real = await finish(clock, engine.cleanup(0, batch=2))
        assert real.removed == report.removed

    asyncio.run(main())
    assert kept(engine) == set()


@pytest.mark.parametrize(
    "arguments",
    [
        {"older_than": -1},
        {"older_than": timedelta(-1)},
        {"older_than": True},
        {"older_than": "1 day"},
        {"older_than": float("nan")},
        {"older_than": 0, "status": "running"},
        {"older_than": 0, "status": ["failed", "sleeping"]},
        {"older_than": 0, "status": "done"},
        {"older_than": 0, "workflow_name": "../x"},
        {"older_than": 0, "batch": 0},
        {"older_than": 0, "batch": True},
    ],
)
def test_what_is_not_acceptable(engine, arguments):
    with pytest.raises(ValidationError):
        asyncio.run(engine.cleanup(**arguments))


def test_an_age_before_all_time_removes_nothing(engine):
    asyncio.run(engine.cleanup(timedelta.max))


def test_nothing_is_left_of_a_removed_execution(engine, clock):
    async def main():
        await begin_all(engine)
        clock.time += timedelta(milliseconds=1_000)
        await finish(clock, engine.cleanup(0))

    asyncio.run(main())
    store = engine.bare_store.workflow("work")
    for table, column in (("executions", "id"), ("steps", "execution_id"), ("step_errors", "execution_id")):
        assert set(asyncio.run(sql(store, f"SELECT {column} FROM {{s}}.{table}"))) <= {("sleeping",), ("panicked-due",)}
    told = set(asyncio.run(sql(store, "SELECT execution_id FROM {s}.step_events")))
    assert told == {("sleeping",), ("panicked-due",)}
    if isinstance(store, SQLiteStore):
        assert store.select("SELECT count(*) FROM removed_executions") == [(0,)]
    if isinstance(engine.store, DirectoryStore):
        index = engine.store._registry._rows("SELECT execution_id FROM execution_index")
        assert {row[0] for row in index} == {"sleeping", "panicked-due"}


def test_an_id_can_be_used_again_for_another_workflow(engine, clock):
    async def main():
        await engine.start("work", "e", "x")
        clock.time += timedelta(milliseconds=1_000)
        await finish(clock, engine.cleanup(0))
        return await engine.start("other", "e")

    assert asyncio.run(main()).workflow_name == "other"


def test_a_reused_id_is_not_the_probe_of_its_predecessor(engine, clock):
    async def main():
        await engine.start("work", "e", "x")
        store = engine.bare_store.workflow("work")
        await sql(
            store,
            "INSERT INTO {s}.circuit_breaker_state (workflow_name, step_id, status, probe_execution_id,"
            " probe_expires_at) VALUES ('work', 's', 'half_open', 'e', 1), ('work', 't', 'half_open', 'f', 1)",
        )
        clock.time += timedelta(milliseconds=1_000)
        await finish(clock, engine.cleanup(0))
        return await store.load_circuits()

    circuits = asyncio.run(main())
    assert circuits["work", "s"].probe_execution_id is None
    assert circuits["work", "s"].probe_expires_at is None
    assert circuits["work", "t"].probe_execution_id == "f"


def test_room_is_given_back(sqlite_engine, clock):
    engine = sqlite_engine

    async def main():
        for number in range(20):
            await engine.start("other", f"e{number}")
        clock.time += timedelta(milliseconds=1_000)
        store = engine.store.workflow("other")
        store.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        before = store._path.stat().st_size
        report = await finish(clock, engine.cleanup(0))
        assert report.bytes_freed > 800_000
        assert report.bytes_reusable == 0
        assert before - store._path.stat().st_size == report.bytes_freed

    asyncio.run(main())


def test_a_file_without_auto_vacuum_keeps_its_pages_for_new_rows(tmp_path, clock):
    path = tmp_path / "w.db"
    shutil.copy(Path(__file__).parents[1] / "fixtures" / "schema" / "v1" / "single.db", path)
    engine = WorkflowEngine(SQLiteStore(path), clock, settings=Settings(sync_handlers="inline", lease_ms=None))
    define(engine)

    async def main():
        for number in range(20):
            await engine.start("other", f"e{number}")
        clock.time += timedelta(milliseconds=1_000)
        report = await finish(clock, engine.cleanup(0))
        assert report.bytes_freed == 0
        assert report.bytes_reusable > 800_000
        engine.store.connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        engine.store.connection.execute("VACUUM")  # with which the pragma takes effect
        assert engine.store.select("PRAGMA auto_vacuum") == [(2,)]

    asyncio.run(main())
    engine.close()


def test_a_transaction_ends_when_it_has_taken_long_enough(sqlite_engine, clock):
    engine = sqlite_engine

    async def main():
        for number in range(3):
            await engine.start("work", f"e{number}", "x")
        clock.time += timedelta(milliseconds=1_000)
        expired = await engine.store.executions_to_remove("work", _expiry(clock), None, 10)
        assert len(expired) == 3
        gone, place = await engine.store.executions_removed("work", _expiry(clock), None, 10, lambda: True)
        assert [candidate.execution_id for candidate in gone] == ["e0"]
        gone, place = await engine.store.executions_removed("work", _expiry(clock), place, 10, lambda: False)
        assert [candidate.execution_id for candidate in gone] == ["e1", "e2"]
        assert await engine.store.executions_removed("work", _expiry(clock), place, 10, lambda: False) == ([], None)

    asyncio.run(main())


def _expiry(clock):
    from workflow_core.retention import expiry

    return expiry(clock.now(), 0, None)


def test_executions_go_on_between_the_transactions(engine, clock):
    async def main():
        for number in range(6):
            await engine.start("work", f"e{number}", "x")
        clock.time += timedelta(milliseconds=1_000)
        cleaning = asyncio.ensure_future(engine.cleanup(0, batch=2))
        await clock.settle()
        assert not cleaning.done()
        assert len(await engine.list_executions()) == 4
        await engine.start("work", "meanwhile", "x")
        assert (await finish(clock, cleaning)).total == 6

    asyncio.run(main())
    assert kept(engine) == {"meanwhile"}


def test_one_that_is_restarted_meanwhile_stays(sqlite_engine, clock, monkeypatch):
    """Between the look and the transaction somebody begins it again."""
    engine = sqlite_engine

    async def main():
        with contextlib.suppress(WorkflowCoreError):
            await engine.start("work", "e", "failed")
        clock.time += timedelta(milliseconds=1_000)
        store = engine.store.workflow("work")
        original = SQLiteStore.read

        def read(self, function, *arguments):
            found = original(self, function, *arguments)
            if function.__name__ == "candidates" and found:
                store.connection.execute("UPDATE executions SET status = 'restarting', revision = revision + 1")
            return found

        monkeypatch.setattr(SQLiteStore, "read", read)
        assert (await finish(clock, engine.cleanup(0))).total == 0

    asyncio.run(main())
    assert kept(engine) == {"e"}


# The runtime directory: no crash between database, registry and logs leaves anything behind --------------------------


def test_logs_go_with_their_executions(directory, clock):
    layout = directory.store.layout

    async def main():
        await directory.start("work", "old", "x")
        clock.time += timedelta(days=2)
        await directory.start("work", "new", "x")
        for name in ("executions/old", "executions/new", "2025-12-31", "2026-01-01", "2026-01-02", "notes", "2026-1-1"):
            (layout.log_dir("work") / f"{name}.log").write_text("x")
        report = await finish(clock, directory.cleanup(timedelta(days=1), dry_run=True))
        assert report.log_files == 2 and (layout.log_dir("work") / "2025-12-31.log").exists()
        by_status = await finish(clock, directory.cleanup(timedelta(days=1), "failed"))
        assert by_status.log_files == 0
        return await finish(clock, directory.cleanup(timedelta(days=1)))

    report = asyncio.run(main())
    assert (report.removed, report.log_files) == ({"work": 1}, 2)
    left = sorted(path.relative_to(layout.log_dir("work")).as_posix() for path in layout.log_dir("work").rglob("*.log"))
    assert left == ["2026-01-02.log", "2026-01-03.log", "2026-1-1.log", "executions/new.log", "notes.log"]


def test_a_log_that_cannot_be_removed_is_a_warning(directory, clock, monkeypatch, caplog):
    layout = directory.store.layout

    async def main():
        await directory.start("work", "old", "x")
        clock.time += timedelta(days=2)
        (layout.log_dir("work") / "2025-12-31.log").mkdir()
        return await finish(clock, directory.cleanup(timedelta(days=1)))

    asyncio.run(main())
    assert "cannot remove" in caplog.text


def states(directory):
    store = directory.store
    rows = {row[0] for row in store.workflow("work").select("SELECT id FROM executions")}
    index = {str(row[0]) for row in store._registry._rows("SELECT execution_id FROM execution_index")}
    return rows, index


@pytest.mark.parametrize("place", ["transaction", "forget_removed"])
@pytest.mark.parametrize("reused", [False, True])
def test_a_crash_in_the_middle(directory, clock, monkeypatch, tmp_path, place, reused):
    async def main():
        await directory.start("work", "e", "x")
        clock.time += timedelta(milliseconds=1_000)
        with monkeypatch.context() as patched:
            owner = Registry if place == "transaction" else SQLiteStore
            patched.setattr(owner, place, lambda *args: (_ for _ in ()).throw(StorageError("died")))
            with pytest.raises(StorageError, match="died"):
                await finish(clock, directory.cleanup(0, workflow_name="work"))
        rows, index = states(directory)
        assert rows == set()
        assert index == ({"e"} if place == "transaction" else set())
        with pytest.raises(ExecutionNotFoundError):
            await directory.get_status("e")
        assert await directory.list_executions() == []
        again = WorkflowEngine(DirectoryStore(tmp_path / "d"), clock, settings=Settings(sync_handlers="inline"))
        define(again)
        if reused:
            assert (await again.start("work", "e", "y")).output == "y"
        assert (await finish(clock, again.cleanup(1_000_000))).total == 0
        assert states(again) == (({"e"}, {"e"}) if reused else (set(), set()))
        if reused:
            assert (await again.get_status("e")).output == "y"
        assert again.store.workflow("work").names_removed(9) == []
        again.close()

    asyncio.run(main())
