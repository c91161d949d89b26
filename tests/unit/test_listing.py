"""Pages of executions, by filters and over all workflows, and the counts beside them."""

import asyncio
import itertools
from datetime import UTC, datetime, timedelta

import pytest

from workflow_core import ExecutionSummary, NonRetryableError, Settings, ValidationError, Workflow, WorkflowEngine
from workflow_core.database.directory import DirectoryStore
from workflow_core.database.sqlite import SQLiteStore
from workflow_core.summaries import EXECUTION_STATUSES


@pytest.fixture(params=["memory", "directory", "postgres"])
def engine(request, tmp_path, clock):
    if request.param == "postgres":
        store = request.getfixturevalue("make_postgres_store")()
    else:
        store = SQLiteStore() if request.param == "memory" else DirectoryStore(tmp_path / "state")
    engine = WorkflowEngine(store, clock, settings=Settings(sync_handlers="inline", lease_ms=None))

    def refuse():
        raise NonRetryableError("no")

    for name in ("a", "b", "c"):

        @engine.define(name)
        async def work(ctx):
            await ctx.step("s", refuse if ctx.input == "failed" else lambda: 1)
            if ctx.input == "sleeping":
                await ctx.sleep("nap", 60_000)

    yield engine
    engine.close()


KINDS = ("completed", "failed", "sleeping")


async def begin(engine, clock, rounds=3):
    """Start one of each kind of each workflow per round, some at the same moment."""
    for number in range(rounds):
        for name, kind in itertools.product("abc", KINDS):
            await engine.start(name, f"{name}-{kind}-{number}", kind, detach=True)
            await clock.settle()
        clock.time += timedelta(milliseconds=1)


async def every_page(engine, limit, **filters):
    pages, before = [], None
    while page := await engine.list_executions(limit=limit, before=before, **filters):
        assert len(page) <= limit
        pages += page
        before = page[-1].cursor if len(pages) % 2 else page[-1]
    return pages


def test_pages_are_the_list(engine, clock):
    async def main():
        await begin(engine, clock)
        statuses = (None, "failed", ["completed", "sleeping"], list(EXECUTION_STATUSES), [])
        for workflow_name, status, limit in itertools.product((None, "b"), statuses, (1, 4, 100)):
            chosen = EXECUTION_STATUSES if status is None else [status] if isinstance(status, str) else status
            expected = sorted(
                (
                    (clock.start + timedelta(milliseconds=number), f"{name}-{kind}-{number}")
                    for number, name, kind in itertools.product(range(3), "abc", KINDS)
                    if kind in chosen and workflow_name in {None, name}
                ),
                reverse=True,
            )
            found = await every_page(engine, limit, workflow_name=workflow_name, status=status)
            pages = [(summary.started_at, summary.execution_id) for summary in found]
            assert pages == expected, (workflow_name, status, limit)

    asyncio.run(main())


def test_between_two_moments(engine, clock):
    async def main():
        await begin(engine, clock)
        first, last = clock.start + timedelta(milliseconds=1), clock.start + timedelta(milliseconds=2)
        found = await every_page(engine, 2, status="failed", started_after=first, started_before=last)
        assert [summary.execution_id for summary in found] == ["c-failed-1", "b-failed-1", "a-failed-1"]
        elsewhere = first.astimezone(datetime.now().astimezone().tzinfo)
        assert len(await engine.list_executions(started_after=elsewhere)) == 18
        assert await engine.list_executions(started_before=clock.start) == []

    asyncio.run(main())


def test_executions_that_start_meanwhile_move_nothing(engine, clock):
    async def main():
        await begin(engine, clock, 2)
        first = await engine.list_executions(limit=5)
        clock.time += timedelta(seconds=1)
        await begin(engine, clock, 0)
        await engine.start("a", "later")
        rest = await engine.list_executions(before=first[-1])
        assert len({summary.execution_id for summary in first + rest}) == len(first + rest) == 18

    asyncio.run(main())


def test_what_a_summary_says(engine, clock):
    async def main():
        await begin(engine, clock, 1)
        (failed,) = await engine.list_executions("a", "failed")
        assert failed == ExecutionSummary(
            execution_id="a-failed-0",
            workflow_name="a",
            status="failed",
            started_at=clock.start,
            completed_at=clock.start,
            error=failed.error,
        )
        assert "NonRetryableError: no" in failed.error
        (completed,) = await engine.list_executions("a", "completed")
        assert completed.error is None
        (sleeping,) = await engine.list_executions("a", "sleeping")
        assert sleeping.completed_at is None

    asyncio.run(main())


def test_counts(engine, clock):
    async def main():
        assert await engine.stats() == []
        await begin(engine, clock, 2)
        stats = await engine.stats()
        assert [(entry.workflow_name, entry.total) for entry in stats] == [("a", 6), ("b", 6), ("c", 6)]
        assert stats[0].counts == {"completed": 2, "failed": 2, "sleeping": 2}
        assert await engine.stats("b") == [stats[1]]
        assert await engine.stats("absent") == []

    asyncio.run(main())


def test_the_facade_has_them(engine, clock):
    async def main():
        await begin(engine, clock, 1)
        with engine.activate():
            assert len(await Workflow.list_executions()) == 9
            assert len(await Workflow.stats()) == 3

    asyncio.run(main())


@pytest.mark.parametrize(
    "arguments",
    [
        {"limit": 0},
        {"limit": True},
        {"limit": 10_001},
        {"limit": "5"},
        {"status": "done"},
        {"status": ["failed", "done"]},
        {"workflow_name": "../../etc"},
        {"workflow_name": ""},
        {"workflow_name": 7},
        {"started_after": datetime(2026, 1, 1)},
        {"started_before": "2026-01-01"},
        {"before": "x"},
        {"before": "2026-01-01T00:00:00|e"},
        {"before": "2026-01-01T00:00:00+00:00|"},
        {"before": 7},
    ],
)
def test_what_is_not_acceptable(engine, arguments):
    with pytest.raises(ValidationError):
        asyncio.run(engine.list_executions(**arguments))


def test_a_queue_is_looked_for_page_by_page(make_postgres_store, monkeypatch):
    async def main():
        engine = WorkflowEngine(make_postgres_store(), settings=Settings(sync_handlers="inline"))
        engine.define("w", lambda ctx: None)
        async with engine:
            for number in range(12):
                await engine.enqueue("w", f"e-{number}", queue="mail" if number % 3 else "other")
            await engine.start("w", "here")
            wanted = [f"e-{number}" for number in range(11, -1, -1) if number % 3]
            for limit in (1, 3, 8, 50):
                pages = await every_page(engine, limit, queue="mail")
                assert [each.execution_id for each in pages] == wanted
            assert {each.queue for each in await engine.list_executions()} == {"mail", "other", None}

    monkeypatch.setattr("workflow_core.summaries._PORTION", 4)
    asyncio.run(main())


def test_a_queue_is_looked_for_where_there_are_none(tmp_path):
    engine = WorkflowEngine(SQLiteStore())
    with pytest.raises(ValidationError, match="Workers need PostgreSQL"):
        asyncio.run(engine.list_executions(queue="mail"))
    engine.close()


def test_a_cursor_is_text_that_leads_back(engine):
    summary = ExecutionSummary(
        execution_id="e|f", workflow_name="a", status="running", started_at=datetime(2026, 1, 1, 2, tzinfo=UTC)
    )
    assert summary.cursor == "2026-01-01T02:00:00.000000+00:00|e|f"
    assert asyncio.run(engine.list_executions(before=summary.cursor)) == []


@pytest.mark.parametrize("limit", [1, 2, 50])
def test_a_search_finds_parts_of_ids_and_of_errors_whatever_their_case(engine, clock, limit):
    async def main():
        await begin(engine, clock)
        expected = [each for each in await engine.list_executions() if "EEP" in each.execution_id.upper()]
        assert await every_page(engine, limit, search=" EEp ") == expected
        of_b = [each for each in expected if each.workflow_name == "b"]
        assert await every_page(engine, limit, search="eep", workflow_name="b", status="sleeping") == of_b
        failed = await engine.list_executions(status="failed")
        assert await every_page(engine, limit, search="nonretryableerror: NO") == failed
        assert await engine.list_executions(search="%") == await engine.list_executions(search="absent") == []
        assert await engine.list_executions(search=" ") == await engine.list_executions()

    asyncio.run(main())


def test_one_call_of_a_search_looks_at_few_executions_and_says_how_far_it_came(engine, clock):
    async def main():
        await begin(engine, clock, 20)
        everything = [each.execution_id for each in await engine.list_executions(search="a-", limit=1_000)]
        assert len(everything) == 60
        found, before, calls = [], None, 0
        while True:
            more, before = await engine.store.search_executions("a-", limit=7, looked_at=10, before=before)
            assert len(more) <= 7
            found += more
            calls += 1
            if before is None:
                break
        assert [each.execution_id for each in found] == everything
        assert calls > 3

    asyncio.run(main())


def test_a_search_that_is_not_acceptable(engine):
    for search in (7, "x" * 1_001):
        with pytest.raises(ValidationError):
            asyncio.run(engine.list_executions(search=search))
