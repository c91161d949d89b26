"""The threads that read: none keeps the event loop or another one waiting, and long counts are shared."""

import asyncio
import threading
import time

from workflow_core.database.sqlite import SQLiteStore
from workflow_core.server.counting import CountingStore, Counts
from workflow_core.server.reading import Reader

from .conftest import serving


def test_a_read_that_lasts_holds_up_neither_the_loop_nor_other_reads(directory):
    async def main():
        async with serving(directory) as served:
            reader, release = served.app.state.reader, threading.Event()

            async def lasts(engine):
                assert threading.current_thread().name.startswith("workflow server reads")
                assert engine is not served.engine
                release.wait(20)
                return "at last"

            lasting = asyncio.create_task(reader(lasts))
            await served.start("e-1", wait_ms=20_000)
            assert (await served.get("/api/executions/e-1"))["status"] == "completed"
            assert not lasting.done()
            release.set()
            assert await lasting == "at last"

    asyncio.run(main())


def test_a_database_in_memory_is_read_here():
    from workflow_core import WorkflowEngine

    async def main():
        engine = WorkflowEngine(SQLiteStore())
        reader = Reader(engine)
        for _ in range(2):
            reader.open()

            async def find(given):
                return given, threading.current_thread()

            assert await reader(find) == (engine, threading.main_thread())
            assert await reader.in_thread(threading.current_thread) is not threading.main_thread()
            await reader.close()
        engine.close()

    asyncio.run(main())


def test_what_takes_long_to_count_is_counted_seldom(monkeypatch):
    async def main():
        moments, calls = [0.0], []
        monkeypatch.setattr(time, "monotonic", lambda: moments[0])

        class Store:
            takes = 0.001

            async def count_executions(self, name):
                calls.append(name)
                moments[0] += self.takes
                return {"w": {"completed": len(calls)}}

            def location(self):
                return "here"

        inner, counts = Store(), Counts()
        stores = [CountingStore(inner, counts), CountingStore(inner, counts)]
        assert stores[0].location() == "here"
        for number in (1, 2, 3):
            assert await stores[number % 2].count_executions("w") == {"w": {"completed": number}}
        inner.takes = 0.1
        for _ in range(5):
            assert (await stores[0].count_executions("w"))["w"]["completed"] == 4
            assert (await stores[1].count_executions("w"))["w"]["completed"] == 4
            moments[0] += 0.1
        assert (await stores[1].count_executions(None))["w"]["completed"] == 5
        moments[0] += 1.0
        assert (await stores[0].count_executions("w"))["w"]["completed"] == 6

    asyncio.run(main())
