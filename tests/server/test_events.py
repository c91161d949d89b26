"""Live changes as server-sent events: nothing is missed, and many listeners cost one poller."""

import asyncio
import json

import pytest

from workflow_core import Settings, StorageError, WorkflowEngine
from workflow_core.server.api.events import _Sending
from workflow_core.server.live import Changes

from .conftest import define, run


class Stream:
    """One listener: reads what the application sends, as it sends it."""

    def __init__(self, served, path, headers=()):
        path, _, query = path.partition("?")
        self._scope = {
            "type": "http",
            "method": "GET",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "headers": [(b"host", b"localhost"), *((name.encode(), value.encode()) for name, value in headers)],
        }
        self._app, self._gone, self._parts = served.app, asyncio.Event(), asyncio.Queue()
        self.status = None
        self.ids = []

    async def __aenter__(self):
        self._task = asyncio.create_task(self._app(self._scope, self._receive, self._send))
        return self

    async def __aexit__(self, *_):
        self._gone.set()
        await asyncio.wait_for(self._task, 10)

    async def _receive(self):
        if not hasattr(self, "_asked"):
            self._asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message):
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = dict(message["headers"])
            return
        self._parts.put_nowait(message["body"])
        if not message.get("more_body"):
            self._parts.put_nowait(None)

    async def next(self):
        """The name and the data of the next event, heartbeats left out; nothing at the end."""
        while True:
            part = await asyncio.wait_for(self._parts.get(), 10)
            if part is None:
                return None
            fields = dict(line.split(": ", 1) for line in part.decode().splitlines() if ": " in line)
            if "event" in fields:
                if "id" in fields:
                    self.ids.append(int(fields["id"]))
                return fields["event"], json.loads(fields["data"])
            if part.startswith(b":"):
                self.heartbeats = getattr(self, "heartbeats", 0) + 1

    async def rest(self):
        found = []
        while (event := await self.next()) is not None:
            found.append(event)
        return found


def seqs(found):
    return [data["seq"] for name, data in found if name == "history"]


def test_the_history_of_an_execution_comes_as_it_is_written(directory):
    async def test(served):
        await served.start("e-1", "waits")
        await served.until("e-1", "running")
        async with Stream(served, "/api/executions/e-1/events") as stream:
            before = [await stream.next() for _ in range(4)]
            assert stream.status == 200
            assert stream.headers[b"content-type"].startswith(b"text/event-stream")
            assert stream.headers[b"cache-control"] == b"no-store" or b"no-cache" in stream.headers[b"cache-control"]
            assert [data["event"] for name, data in before if name == "history"][:1] == ["ExecutionStarted"]
            await served.post("/api/executions/e-1/cancel")
            found = list(before)
            while found[-1] != ("status", {"status": "cancelled", "restart_attempt": 1, "at_rest": True}):
                found.append(await stream.next())
            assert seqs(found) == [
                event["seq"] for event in (await served.get("/api/executions/e-1/history"))["events"]
            ]

    run(directory, test)


def test_a_stream_can_end_with_the_execution_and_go_on_after_a_reconnect(directory):
    async def test(served):
        await served.start("e-1", "fails", wait_ms=20_000)
        async with Stream(served, "/api/executions/e-1/events?until_rest=true") as stream:
            found = await stream.rest()
        everything = (await served.get("/api/executions/e-1/history"))["events"]
        assert [data for name, data in found if name == "history"] == everything
        assert found[-1][0] == "status"
        assert stream.ids == [*range(1, len(everything) + 1), len(everything)]
        for headers, query, first in (
            ([("last-event-id", "3")], "", 4),
            ([], "&after=2", 3),
            ([("last-event-id", "3")], "&after=1", 4),
            ([("last-event-id", "nonsense")], "", 1),
            ([("last-event-id", "9" * 50)], "", 1),
        ):
            async with Stream(served, f"/api/executions/e-1/events?until_rest=true{query}", headers) as stream:
                assert seqs(await stream.rest()) == list(range(first, len(everything) + 1))

    run(directory, test)


def test_a_stream_of_an_execution_that_there_is_not_or_not_any_more(directory):
    async def test(served):
        async with Stream(served, "/api/executions/absent/events") as stream:
            assert await stream._parts.get()
            assert stream.status == 404
            assert stream.headers[b"content-type"] == b"application/problem+json"
        await served.start("e-1", wait_ms=20_000)
        async with Stream(served, "/api/executions/e-1/events") as stream:
            while (await stream.next())[0] != "status":
                pass
            await served.post("/api/cleanup", json={"older_than_days": 0, "dry_run": False})
            assert (await stream.next())[0] == "removed"
            assert await stream.next() is None

    run(directory, test)


def test_a_database_that_cannot_be_read_for_a_while_makes_a_stream_miss_nothing(directory, monkeypatch):
    monkeypatch.setattr("workflow_core.server.api.events._TRY_AGAIN_MS", 1)

    async def test(served):
        await served.start("e-1", wait_ms=20_000)
        original, failures = _Sending.read, [StorageError("locked", None, "locked")] * 3

        async def read(self, engine):
            if failures:
                raise failures.pop()
            return await original(self, engine)

        monkeypatch.setattr(_Sending, "read", read)
        async with Stream(served, "/api/executions/e-1/events?until_rest=true") as stream:
            found = await stream.rest()
        assert [name for name, _ in found] == ["problem", "history", "history", "history", "history", "status"]

    run(directory, test)


def test_changes_of_all_workflows_and_of_other_processes(directory):
    async def test(served):
        await served.start("e-1", wait_ms=20_000)
        async with Stream(served, "/api/events") as stream:
            assert await stream.next() == ("connected", {"poll_interval_ms": 1})
            await served.start("f-1", workflow="fragile", wait_ms=20_000)
            assert await stream.next() == ("changed", {"workflows": ["fragile"]})
            other = WorkflowEngine(settings=Settings(directory=directory, sync_handlers="inline"))
            define(other)
            await other.start("order", "e-2")
            while (await stream.next()) != ("changed", {"workflows": ["order"]}):
                pass
            await other.aclose()

    run(directory, test)


def test_many_listeners_cost_one_poller_and_the_last_one_stops_it(directory):
    async def test(served):
        changes = served.app.state.changes
        async with Stream(served, "/api/events") as first, Stream(served, "/api/events") as second:
            await first.next()
            await second.next()
            assert len([task for task in asyncio.all_tasks() if task.get_name() == "workflow server changes"]) == 1
            await served.start("e-1")
            assert (await first.next())[0] == (await second.next())[0] == "changed"
            assert len(changes._listeners) == 2
        assert changes._listeners == set()
        assert changes._poller is None

    run(directory, test)


def test_heartbeats_keep_a_stream_open(directory):
    async def test(served):
        async with Stream(served, "/api/events") as stream:
            await stream.next()
            while getattr(stream, "heartbeats", 0) < 3:
                part = await asyncio.wait_for(stream._parts.get(), 10)
                stream.heartbeats = getattr(stream, "heartbeats", 0) + part.startswith(b":")

    run(directory, test, heartbeat_ms=1)


@pytest.mark.parametrize("path", ["/api/events", "/api/executions/e-1/events"])
def test_streams_end_when_the_server_stops(directory, path):
    async def test(served):
        await served.start("e-1", wait_ms=20_000)
        async with Stream(served, path) as stream:
            await stream.next()
            served.app.state.changes.end()
            await stream.rest()
        async with Stream(served, path) as late:
            await late.rest()

    run(directory, test)


def test_a_listener_that_is_slow_is_told_once_of_many_changes():
    async def main():
        class Store:
            number = 0

            async def change_markers(self):
                self.number += 1
                return {"a": self.number, "b": self.number // 5}

        class Engine:
            store = Store()

        changes = Changes(Engine(), 1)
        async with changes.listening() as listener:
            assert Engine.store.number == 1  # whatever is read from here on is compared with what changes after it
            while Engine.store.number < 20:
                await asyncio.sleep(0.001)
            assert await listener.next() == {"a", "b"}
            assert await listener.next(10_000) >= {"a"}
        assert await changes.close() is None

    asyncio.run(main())


def test_a_store_that_fails_ends_no_listening(caplog):
    async def main():
        class Store:
            number = 0

            async def change_markers(self):
                self.number += 1
                if self.number in {2, 3}:
                    raise StorageError("locked") if self.number == 2 else RuntimeError("broken")
                return {"a": self.number // 10}

        class Engine:
            store = Store()

        async with Changes(Engine(), 1).listening() as listener:
            while Engine.store.number < 12:
                assert await listener.next(10_000) == {"a"}
        assert "broken" in caplog.text

    asyncio.run(main())


def test_an_event_that_is_committed_late_is_sent_and_one_that_never_comes_holds_nothing_up(directory):
    """Two steps take positions in an order, and may be written in another one when a database was locked meanwhile."""

    async def test(served):
        await served.start("e-1", wait_ms=20_000)
        engine = served.engine
        events = await engine.history("e-1")
        sending = _Sending("e-1", "order", 0)
        original = engine.bare_store.workflow("order").load_events
        shown = []

        async def load(name, execution_id, after=0):
            return [event for event in await original(name, execution_id, after) if event.seq in shown]

        engine.bare_store.workflow("order").load_events = load

        async def sent():
            return [(item.event, json.loads(item.raw_data).get("seq"), item.id) for item in await sending.read(engine)]

        shown[:] = [1, 3, 4]
        assert await sent() == [("history", 1, "1"), ("history", 3, "1"), ("history", 4, "1"), ("status", None, "1")]
        assert await sent() == []
        shown[:] = [1, 2, 3, 4]
        assert await sent() == [("history", 2, "4")]
        assert len(events) == 4
        sending._beyond = set(range(6, 200))
        sending._settle()
        assert (sending._floor, min(sending._beyond)) == (99, 100)

    run(directory, test)
