"""The server on PostgreSQL: reads in threads, live changes of other processes, and errors when it is gone."""

import asyncio

from workflow_core import Settings, WorkflowEngine

from .conftest import define, serving
from .test_events import Stream


def test_the_api_on_postgresql(make_postgres_store, directory):
    async def main():
        async with serving(directory, store=make_postgres_store()) as served:
            assert (await served.start("e-1", wait_ms=20_000)).json()["status"] == "completed"
            await served.start("e-2", "fails", wait_ms=20_000)
            found = await served.get("/api/executions?search=SCRIPT")
            assert [each["execution_id"] for each in found["executions"]] == ["e-2"]
            assert (await served.get("/api/workflows/order"))["executions_by_status"] == {"completed": 1, "failed": 1}
            events = (await served.get("/api/executions/e-2/history"))["events"]
            assert (await served.get("/api/executions/e-2/history?after=2"))["events"] == events[2:]
            assert (await served.get("/api/health/ready"))["status"] == "ok"
            assert len((await served.get("/api/executions/e-1/logs"))["lines"]) == 4
            document = {"name": "greeting", "steps": [{"id": "hello", "type": "log", "config": {"message": "Hello"}}]}
            await served.post("/api/workflows", 201, json=document)
            answer = await served.post("/api/workflows/greeting/executions?wait_ms=20000", json={})
            assert answer["status"] == "completed"
            assert (
                'workflow_executions_started_total{workflow="order"} 2.0'
                in (await served.client.get("/api/metrics")).text
            )

    asyncio.run(main())


def test_what_other_processes_commit_is_told(make_postgres_store, directory):
    async def main():
        async with serving(directory, store=make_postgres_store()) as served:
            await served.start("e-1", wait_ms=20_000)
            other = WorkflowEngine(make_postgres_store(), settings=Settings(sync_handlers="inline"))
            define(other)
            async with Stream(served, "/api/events") as stream, Stream(served, "/api/executions/e-2/events") as absent:
                assert (await stream.next())[0] == "connected"
                await absent._parts.get()
                assert absent.status == 404
                await other.start("order", "e-2")
                while (await stream.next()) != ("changed", {"workflows": ["order"]}):
                    pass
            async with Stream(served, "/api/executions/e-2/events?until_rest=true") as stream:
                assert [data["event"] for name, data in await stream.rest() if name == "history"][-1] == (
                    "ExecutionCompleted"
                )
            await other.aclose()

    asyncio.run(main())


def test_a_server_that_is_gone_is_a_problem_at_once(proxy, directory):
    from workflow_core.database.postgres.store import PostgresStore

    async def main():
        async with serving(directory, store=PostgresStore(proxy.url)) as served:
            await served.start("e-1", wait_ms=20_000)
            assert (await served.get("/api/executions"))["executions"]
            proxy.refusing = True
            proxy.cut()
            answer = await served.client.get("/api/executions")
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
            assert answer.json()["type"] == "urn:workflow:problem:storage"
            assert (await served.client.get("/api/health/ready")).status_code == 503
            assert (await served.client.get("/api/health/live")).status_code == 200

    asyncio.run(main())
