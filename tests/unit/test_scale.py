"""What a long-lived engine keeps, and what a large result costs: figures that do not depend on the machine."""

import asyncio
import gc

import pytest

from workflow_core import Settings, UnstorableResultError, WorkflowEngine, hookimpl
from workflow_core.database.sqlite import SQLiteStore


class Observer:
    @hookimpl
    def on_event(self, event):
        pass


def test_nothing_is_kept_of_executions_that_have_ended():
    engine = WorkflowEngine(SQLiteStore(), plugins=[Observer()], settings=Settings(sync_handlers="inline"))

    @engine.define("work", retry_config={"max_attempts": 2, "backoff_ms": 0})
    async def work(ctx):
        def flaky():
            if ctx.attempt == 1:
                raise ConnectionError("503")

        await ctx.step("flaky", flaky)
        if ctx.input["number"] % 10 == 0:
            await ctx.step("guarded", flaky).with_circuit_breaker(100)
        return ctx.input

    async def main():
        async def some(first, end):
            for number in range(first, end):
                await engine.start("work", input={"number": number})
            await asyncio.sleep(0)
            gc.collect()
            return len(gc.get_objects())

        await some(0, 50)
        before = await some(50, 60)
        return await some(60, 460) - before

    assert asyncio.run(main()) < 300  # not even one object for each of the 400 executions
    assert engine.running() == []
    engine.close()


@pytest.fixture
def store(tmp_path):
    return SQLiteStore(tmp_path / "w.db")


def test_a_result_of_ten_megabytes(store):
    engine = WorkflowEngine(store, settings=Settings(sync_handlers="inline"))
    text = "x" * 10_000_000

    @engine.define("large")
    async def large(ctx):
        return len(await ctx.step("read", lambda: text)) + len(ctx.input)

    assert engine.run("large", "e", "y" * 1_000_000).output == 11_000_000
    assert asyncio.run(engine.get_status("e")).steps["read"].result == text
    engine.close()


def test_a_result_that_is_too_large_says_so_and_is_not_stored(store):
    engine = WorkflowEngine(store, settings=Settings(sync_handlers="inline", max_result_bytes=1_000_000))

    @engine.define("large")
    async def large(ctx):
        return await ctx.step("read", lambda: "x" * 1_000_000)

    async def main():
        with pytest.raises(UnstorableResultError, match=r"read.*max_result_bytes"):
            await engine.start("large", "e")
        (step,) = (await engine.get_status("e")).steps.values()
        assert (step.status, step.result, step.error.type) == ("failed", None, "UnstorableResultError")

    asyncio.run(main())
    assert store.select("SELECT max(length(result_data)) FROM steps") == [(None,)]
    engine.close()
