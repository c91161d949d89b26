"""How a worker's connections fetch jobs ahead, hand them back, and end several at once, on a real PostgreSQL."""

import asyncio
from datetime import UTC, datetime

import pytest

pytest.importorskip("procrastinate")
import psycopg
from procrastinate import exceptions, sql

from workflow_core.cluster import connector as connector_module
from workflow_core.database.dispatch import Dispatch
from workflow_core.database.store import NewExecution

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
QUEUES = ["default", "mail"]


class Line:
    """A queue, and the connections of a worker that serves it."""

    def __init__(self, store, connector):
        self.store = store
        self.connector = connector
        self.sent = []
        self.worker_id = None

    async def enqueue(self, *ids, queue="default", priority=0):
        for execution_id in ids:
            new = NewExecution("w", execution_id, None, "{}", "{}", None)
            await self.store.execution_enqueued(new, Dispatch(queue=queue, priority=priority), NOW)

    async def fetch(self):
        """Return the number and the execution of the next job, or ``None``."""
        row = await self.connector.execute_query_one_async(
            sql.queries["fetch_job"], queues=QUEUES, worker_id=self.worker_id
        )
        return None if row["id"] is None else (row["id"], row["args"]["execution_id"])

    async def finish(self, job_id):
        await self.connector.execute_query_async(
            sql.queries["finish_job"], job_id=job_id, status="succeeded", delete_job=True
        )

    async def jobs(self):
        rows = await self.store.fetch(
            "SELECT args ->> 'execution_id', status::text FROM {s}.procrastinate_jobs ORDER BY id"
        )
        return dict(rows)

    def count(self, statement):
        return sum(query == statement for query in self.sent)


@pytest.fixture
def run_line(make_postgres_store, postgres_queue, monkeypatch):
    def run(scenario, concurrency=100):
        async def all_of_it():
            store = make_postgres_store()
            await store.make_queue()
            connector = connector_module.PatientConnector(*store.connection_string(), 2, concurrency)
            line = Line(store, connector)
            original = psycopg.AsyncCursor.execute

            async def execute(self, query, *arguments, **options):
                line.sent.append(query)
                return await original(self, query, *arguments, **options)

            monkeypatch.setattr(psycopg.AsyncCursor, "execute", execute)
            await connector.open_async()
            try:
                row = await connector.execute_query_one_async(sql.queries["register_worker"])
                line.worker_id = row["worker_id"]
                await scenario(line)
            finally:
                await connector.close_async()

        asyncio.run(all_of_it())

    return run


def test_jobs_are_fetched_in_the_order_of_the_queue_by_few_statements(run_line):
    async def scenario(line):
        await line.enqueue("late", priority=-1)
        await line.enqueue(*(f"e{number}" for number in range(24)))
        await line.enqueue("foreign", queue="elsewhere", priority=9)
        await line.enqueue("urgent", queue="mail", priority=5)
        fetched = [(await line.fetch())[1] for _ in range(26)]
        assert fetched == ["urgent", *(f"e{number}" for number in range(24)), "late"]
        assert line.count(connector_module._FETCH_TOGETHER) == 2
        assert await line.fetch() is None
        assert (await line.jobs())["foreign"] == "todo"

    run_line(scenario)


def test_what_is_announced_after_jobs_were_fetched_ahead_comes_behind_them(run_line):
    async def scenario(line):
        await line.enqueue("a", "b")
        assert (await line.fetch())[1] == "a"
        await line.enqueue("urgent", priority=5)
        assert [(await line.fetch())[1] for _ in range(2)] == ["b", "urgent"]

    run_line(scenario)


def test_no_more_jobs_are_fetched_than_the_worker_has_room_for(run_line):
    async def scenario(line):
        await line.enqueue("a", "b", "c", "d", "e")
        first, _ = await line.fetch()
        assert list((await line.jobs()).values()) == ["doing"] * 3 + ["todo"] * 2
        await line.fetch()
        await line.fetch()
        await line.finish(first)
        assert len(line.connector.held) == 2
        assert (await line.fetch())[1] == "d"
        assert (await line.jobs())["e"] == "todo"

    run_line(scenario, concurrency=3)


def test_a_worker_that_stops_hands_back_what_it_has_fetched_ahead(run_line):
    async def scenario(line):
        await line.enqueue("a", "b", "c")
        job_id, _ = await line.fetch()
        others = await line.connector.execute_query_one_async(sql.queries["register_worker"])
        await line.store.fetch(
            "UPDATE {s}.procrastinate_jobs SET worker_id = %(id)s WHERE args ->> 'execution_id' = 'c' RETURNING 1",
            {"id": others["worker_id"]},
        )
        await line.connector.hand_back(line.worker_id)
        assert await line.jobs() == {"a": "doing", "b": "todo", "c": "doing"}
        assert line.connector.held == {job_id}
        assert await line.fetch() is None
        assert await line.jobs() == {"a": "doing", "b": "todo", "c": "doing"}

    run_line(scenario)


def test_jobs_that_arrive_while_a_worker_stops_are_handed_back(run_line):
    async def scenario(line):
        await line.enqueue("a", "b")
        fetch = asyncio.create_task(line.fetch())
        await asyncio.sleep(0)  # it has been sent, or is about to be
        await line.connector.hand_back(line.worker_id)
        assert await fetch is None
        assert await line.jobs() == {"a": "todo", "b": "todo"}
        assert line.connector.held == set()

    run_line(scenario)


def test_jobs_that_end_at_the_same_time_are_ended_together(run_line):
    async def scenario(line):
        await line.enqueue(*(f"e{number}" for number in range(12)))
        ids = [(await line.fetch())[0] for _ in range(12)]
        await asyncio.gather(*(line.finish(job_id) for job_id in ids))
        assert await line.jobs() == {}
        assert line.connector.held == set()
        assert line.count(connector_module._FINISH_TOGETHER) <= 2

    run_line(scenario)


def test_a_job_that_has_ended_already_does_not_keep_others_from_ending(run_line):
    async def scenario(line):
        await line.enqueue("a", "b", "c", "d")
        ids = [(await line.fetch())[0] for _ in range(4)]
        await line.connector.execute_query_async("DELETE FROM procrastinate_jobs WHERE id = %(id)s", id=ids[2])
        await asyncio.gather(*(line.finish(job_id) for job_id in ids))
        assert await line.jobs() == {}

    run_line(scenario)


def test_a_job_that_is_left_alone_is_not_ended(run_line):
    async def scenario(line):
        await line.enqueue("a", "b")
        ids = [(await line.fetch())[0] for _ in range(2)]
        line.connector.forsake(ids[0])
        await asyncio.gather(*(line.finish(job_id) for job_id in ids))
        assert await line.jobs() == {"a": "doing"}
        assert line.connector.held == set()

    run_line(scenario)


def test_the_next_job_is_found_by_an_index_whatever_the_statistics_say(run_line):
    async def scenario(line):
        await line.store.fetch("SELECT 1")
        async with line.connector.pool.connection() as connection:
            await connection.execute("ANALYZE procrastinate_jobs")  # the queue is empty
            await connection.execute(
                "INSERT INTO procrastinate_jobs (queue_name, task_name)"
                " SELECT 'default', 't' FROM generate_series(1, 3000)"
            )
            source = "SELECT prosrc FROM pg_proc WHERE oid = 'procrastinate_fetch_job_v2'::regproc"
            (body,) = await (await connection.execute(source)).fetchone()
            query = body[body.index("WITH") : body.index("INTO found_jobs")]
            query = query.replace("target_queue_names", "'{default}'::varchar[]").replace("p_worker_id", "NULL::bigint")
            plan = await (await connection.execute(f"EXPLAIN {query}")).fetchall()
        text = "\n".join(row[0] for row in plan)
        assert "Index Scan using procrastinate_jobs_priority_idx_v1" in text
        assert "Sort" not in text

    run_line(scenario)


def test_a_connection_that_is_found_broken_when_the_database_is_back_is_no_second_outage(run_line, monkeypatch, caplog):
    monkeypatch.setattr(connector_module, "_FIRST_PAUSE_SECONDS", 0)

    async def scenario(line):
        tries = []

        async def answered():
            pass

        async def late():
            tries.append(None)
            if len(tries) == 3:
                await line.connector._until_it_works(answered, {})
            if len(tries) < 4:
                raise exceptions.ConnectorException from psycopg.OperationalError("server closed the connection")

        await line.connector._until_it_works(late, {})
        assert len(tries) == 4
        said = [record.getMessage().partition(",")[0] for record in caplog.records]
        assert said == ["The database is away", "The database is back"]

    run_line(scenario)


@pytest.mark.parametrize("state", ["25P03", "25P04"])
def test_a_session_that_the_server_ends_because_its_transaction_took_too_long_is_no_refusal(run_line, state):
    async def scenario(line):
        assert await line.connector._passes(psycopg.errors.lookup(state)())

    run_line(scenario)
