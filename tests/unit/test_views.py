"""What programs and pages see of a store: pages, statistics, circuits, logs, and that something has changed."""

import asyncio
import sqlite3
from datetime import timedelta

import pytest

from workflow_core import NonRetryableError, Settings, ValidationError, WorkflowEngine, WorkflowError
from workflow_core.database.directory import DirectoryStore
from workflow_core.database.sqlite import SQLiteStore
from workflow_core.models import CircuitBreakerConfig
from workflow_core.views.circuits import read_circuits
from workflow_core.views.execution_pages import read_page
from workflow_core.views.execution_view import read_view
from workflow_core.views.log_reading import GrowingFiles, LogFilter, latest_lines
from workflow_core.views.statistics import read_statistics


def define(engine):
    def refuse():
        raise NonRetryableError("no")

    @engine.define("work")
    async def work(ctx):
        await ctx.step("s", refuse if ctx.input == "failed" else lambda: 1)
        await ctx.sleep("nap", ctx.input or 0)

    return engine


@pytest.fixture(params=["memory", "file", "directory", "postgres"])
def store(request, tmp_path):
    if request.param == "postgres":
        return request.getfixturevalue("make_postgres_store")()
    if request.param == "memory":
        return SQLiteStore()
    return SQLiteStore(tmp_path / "w.db") if request.param == "file" else DirectoryStore(tmp_path / "state")


@pytest.fixture
def engine(store, clock):
    engine = define(WorkflowEngine(store, clock, settings=Settings(sync_handlers="inline", lease_ms=None)))
    yield engine
    engine.close()


def test_pages_lead_to_each_other_by_text_that_needs_no_escapes(engine):
    async def main():
        for number in range(5):
            await engine.start("work", f"e-{number}")
        found, cursor = [], None
        for _ in range(3):
            page = await read_page(engine, limit=2, cursor=cursor)
            found += page.executions
            cursor = page.next
            assert cursor is None or cursor.replace("-", "").replace("_", "").isalnum()
        assert cursor is None
        assert found == await engine.list_executions()
        for wrong in ("", "x", "é", "????", "YWJj", "x" * 10_000):
            with pytest.raises(ValidationError):
                await read_page(engine, cursor=wrong)

    asyncio.run(main())


def test_a_search_that_takes_too_long_leaves_the_rest_to_the_next_page(engine, monkeypatch):
    async def main():
        for number in range(6):
            await engine.start("work", f"e-{number}")
        original = type(engine.bare_store).search_executions

        async def little_by_little(self, text, name, status, limit, **filters):
            return await original(self, text, name, status, limit, 2, **filters)

        monkeypatch.setattr(type(engine.bare_store), "search_executions", little_by_little)
        monkeypatch.setattr("workflow_core.database.directory._LEAST_LOOKED_AT", 2)
        found, cursor, pages = [], None, 0
        while True:
            page = await read_page(engine, search="E-", cursor=cursor, search_ms=0)
            found += page.executions
            pages += 1
            cursor = page.next
            if cursor is None:
                break
        assert found == await engine.list_executions()
        assert pages >= 3

    asyncio.run(main())


def test_statistics_are_those_of_the_window(engine, clock):
    async def main():
        await engine.start("work", "before")
        clock.time += timedelta(hours=2)
        for number in range(1, 21):
            await clock.finish(engine.start("work", f"e-{number}", number * 100))
        await engine.start("work", "f", "failed", detach=True)
        await clock.settle()
        await engine.start("work", "c", 60_000, detach=True)
        await engine.cancel("c")
        await engine.start("work", "runs", 60_000, detach=True)
        found = await read_statistics(engine, "work", timedelta(hours=1))
        assert (found.completed, found.failed, found.cancelled, found.partial) == (20, 1, 1, False)
        assert found.success_rate == 20 / 21
        assert found.until == clock.time
        assert (found.p50_ms, found.p95_ms, found.longest_ms) == (1_000, 1_900, 2_000)
        assert found.per_hour == 22
        assert sum(interval.completed for interval in found.intervals) == 20
        assert found.until - found.since == timedelta(hours=1)
        nothing = await read_statistics(engine, "absent", timedelta(hours=2))
        assert (nothing.success_rate, nothing.p95_ms, nothing.per_hour) == (None, None, 0)
        for window in (timedelta(0), timedelta(hours=-1), timedelta.max):
            with pytest.raises(ValidationError):
                await read_statistics(engine, "work", window)

    asyncio.run(main())


def test_statistics_of_very_many_executions_are_those_of_the_latest(engine, clock, monkeypatch):
    async def main():
        monkeypatch.setattr("workflow_core.views.statistics._SAMPLE", 5)
        for number in range(8):
            clock.time += timedelta(hours=1)
            await engine.start("work", f"e-{number}")
        found = await read_statistics(engine, "work")
        assert found.partial
        assert (found.completed, found.until - found.since) == (5, timedelta(hours=4))

    asyncio.run(main())


def test_circuits_of_all_workflows(engine, clock):
    async def main():
        await engine.start("work", "e")
        await engine.set_circuit("work", "s", "open", CircuitBreakerConfig(failure_threshold=3))
        (circuit,), problems = await read_circuits(engine)
        assert (circuit.workflow_name, circuit.step_id, circuit.status, circuit.failures) == ("work", "s", "open", 3)
        assert circuit.probe_at == clock.time + timedelta(minutes=1)
        assert problems == {}
        assert await read_circuits(engine, "work") == ([circuit], {})
        assert await read_circuits(engine, "absent") == ([], {})

    asyncio.run(main())


@pytest.mark.parametrize(
    ("change", "mistake"),
    [
        ({"workflow_name": "../../elsewhere"}, "name of a workflow"),
        ({"workflow_name": None}, "name a workflow"),
        ({"step_id": 3}, "step id"),
        ({"status": "opened"}, "closed, open, half_open"),
        ({"config": None}, "CircuitBreakerConfig"),
    ],
)
def test_a_circuit_that_cannot_be_is_not_set(tmp_path, change, mistake):
    async def main():
        right = {
            "workflow_name": "work",
            "step_id": "s",
            "status": "open",
            "config": CircuitBreakerConfig(failure_threshold=1),
        }
        async with WorkflowEngine(DirectoryStore(tmp_path / "a" / "b" / "state")) as engine:
            with pytest.raises(ValidationError, match=mistake):
                await engine.set_circuit(**{**right, **change})

    asyncio.run(main())
    assert not list(tmp_path.rglob("*.db"))


def test_a_damaged_database_hides_no_circuits_of_others(tmp_path, clock):
    async def main():
        engine = define(WorkflowEngine(DirectoryStore(tmp_path / "state"), clock))
        engine.define("other", lambda ctx: 1)
        await engine.start("work", "e")
        await engine.start("other", "o")
        await engine.set_circuit("work", "s", "open", CircuitBreakerConfig(failure_threshold=3))
        await engine.aclose()
        DirectoryStore(tmp_path / "state").layout.database("other").write_bytes(b"no database" * 1_000)
        engine = WorkflowEngine(DirectoryStore(tmp_path / "state"), clock)
        circuits, problems = await read_circuits(engine)
        assert [circuit.step_id for circuit in circuits] == ["s"]
        assert list(problems) == ["other"]
        engine.close()

    asyncio.run(main())


# One execution -------------------------------------------------------------------------------------------------------


def test_an_id_may_be_given_in_capitals_where_ids_are_uuids(store):
    async def main():
        async with define(WorkflowEngine(store, settings=Settings(execution_id_format="uuid"))) as engine:
            execution_id = "7f0c2d4e-7a54-4a53-9d0c-0d6f1b6f2a11"
            with pytest.raises(WorkflowError):
                await engine.start("work", execution_id, "failed")
            view = await read_view(engine, execution_id.upper())
            assert (list(view.steps), len(view.errors)) == (["s"], 1)

    asyncio.run(main())


# Changes -------------------------------------------------------------------------------------------------------------


def test_a_marker_is_another_one_after_each_commit_and_only_then(engine):
    async def main():
        assert await engine.store.change_markers() == {}
        await engine.start("work", "e-1")
        seen = await engine.store.change_markers()
        assert list(seen) == ["work"]
        assert await engine.store.change_markers() == seen
        await engine.get_status("e-1")
        assert await engine.store.change_markers() == seen
        await engine.start("work", "e-2")
        assert await engine.store.change_markers() != seen

    asyncio.run(main())


@pytest.mark.parametrize("kind", ["file", "directory", "postgres"])
def test_a_marker_tells_of_what_another_process_commits(request, tmp_path, kind, clock):
    makers = {"file": lambda: SQLiteStore(tmp_path / "w.db"), "directory": lambda: DirectoryStore(tmp_path / "state")}
    make_store = makers.get(kind) or request.getfixturevalue("make_postgres_store")

    def make():
        return define(WorkflowEngine(make_store(), clock))

    async def main():
        writing, reading = make(), make()
        assert await reading.store.change_markers() == {}
        await writing.start("work", "e-1")
        first = await reading.store.change_markers()
        assert list(first) == ["work"]
        await writing.start("work", "e-2")
        second = await reading.store.change_markers()
        assert second != first
        writing.define("new", lambda ctx: 1)
        await writing.start("new", "n-1")
        assert sorted(await reading.store.change_markers()) == ["new", "work"]
        await writing.aclose()
        reading.close()

    asyncio.run(main())


def test_asking_for_a_marker_waits_for_no_writer_and_keeps_none_waiting(tmp_path, clock):
    async def main():
        engine = define(WorkflowEngine(SQLiteStore(tmp_path / "w.db"), clock))
        await engine.start("work", "e-1")
        before = await engine.store.change_markers()
        other = sqlite3.connect(tmp_path / "w.db", isolation_level=None, timeout=0)
        other.execute("BEGIN IMMEDIATE")
        other.execute("UPDATE executions SET restart_attempt = 7, revision = revision + 1")
        assert await engine.store.change_markers() == before
        other.execute("COMMIT")
        assert await engine.store.change_markers() != before
        other.close()
        engine.close()

    asyncio.run(main())


def test_a_store_for_reading_sees_the_same_data(store, engine):
    async def main():
        await engine.start("work", "e-1")
        reading = store.for_reading()
        if reading is not None:
            assert await reading.load_execution("e-1") == await engine.store.load_execution("e-1")
            reading.close()
        else:
            assert store.location() == ":memory:"

    asyncio.run(main())


def test_the_history_behind_a_position(store, engine):
    async def main():
        await engine.start("work", "e-1")
        workflow = store.workflow("work")
        everything = await workflow.load_events("work", "e-1")
        for after in range(len(everything) + 1):
            assert await workflow.load_events("work", "e-1", after) == everything[after:]

    asyncio.run(main())


# Logs ----------------------------------------------------------------------------------------------------------------


def log_text(first, end):
    return "".join(
        f"2026-01-01T00:00:{number // 1000:02}.{number % 1000:06}Z INFO execution=e-{number % 3} message=m{number}\n"
        for number in range(first, end)
    )


@pytest.mark.parametrize("part", [1, 7, 64, 100_000])
def test_the_ends_of_logs_are_read_as_the_whole_is(tmp_path, monkeypatch, part):
    monkeypatch.setattr("workflow_core.views.log_reading._PART", part)
    paths = [tmp_path / "a.log", tmp_path / "b.log", tmp_path / "empty.log", tmp_path / "absent.log"]
    paths[0].write_text(log_text(0, 30))
    paths[1].write_text("no line of a log\n" + log_text(20, 50) + "2026-01-01T00:00:09.000000Z INFO execution=unfin")
    paths[2].write_text("")
    wanted = LogFilter(None, "debug", "e-1")
    for most in (0, 1, 5, 1_000):
        assert latest_lines(paths, wanted, most) == GrowingFiles(wanted).lines_so_far(paths, most)
    assert len(latest_lines(paths[:1], LogFilter(None, "debug"), 1_000, 200)) in (
        {30} if part == 100_000 else range(2, 29)
    )
