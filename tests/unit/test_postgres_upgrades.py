"""Schemas of PostgreSQL of every version that there was: they are brought up to date, and their executions go on."""

import asyncio
import contextlib
import sys
import threading

import pytest

pytest.importorskip("procrastinate")

import psycopg

from tests.fixtures.schema import recorded
from tests.fixtures.schema.loading import VERSIONS, load
from workflow_core import SchemaVersionError, Settings, WorkflowEngine
from workflow_core.cluster.settings import WorkerSettings
from workflow_core.cluster.worker import Worker
from workflow_core.database.postgres.schema import SCHEMA_VERSION
from workflow_core.ownership import SystemProcessProbe

AT_REST = {"completed", "failed", "panicked", "cancelled", "circuit", "skipped"}
GOES_ON = set(recorded.STATUSES) - AT_REST


IN_AN_HOUR = """
UPDATE {schema}.dispatches SET first_start_at = first_start_at + late, queued_at = queued_at + late
    FROM (SELECT now() + interval '1 hour' - first_start_at AS late FROM {schema}.dispatches
        WHERE execution_id = 'begins-later') AS later
    WHERE workflow_name = 'one-an-hour'"""
"""Lets what one an hour began, and what waits for that, be of the moment of the test, rather than of the record."""


class Probe(SystemProcessProbe):
    """The recorder has ended."""

    def has_ended(self, owner):
        return True if owner.host == "recorder" else super().has_ended(owner)


@pytest.fixture(params=VERSIONS)
def version(request, postgres_url, postgres_schema):
    """Make the schema of a version; give the version."""
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        load(connection, request.param, postgres_schema)
        if request.param != "v1":
            connection.execute(IN_AN_HOUR.format(schema=postgres_schema))
    return request.param


@pytest.fixture
def make_engine(make_postgres_store):
    engines = []

    def make():
        settings = Settings(sync_handlers="inline", poll_interval_ms=10)
        engine = WorkflowEngine(make_postgres_store(), settings=settings, process_probe=Probe())
        recorded.define(engine, recording=False)
        recorded.define_limited(engine)
        engines.append(engine)
        return engine

    yield make
    for engine in engines:
        engine.close()


def shape(connection, schema):
    """What a schema consists of, by whatever way it came to be."""
    columns = "table_name, column_name, data_type, is_nullable"
    queries = (
        f"SELECT {columns} FROM information_schema.columns WHERE table_schema = %s",
        "SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = %s",
        "SELECT p.proname, pg_get_functiondef(p.oid) FROM pg_proc p WHERE p.pronamespace = to_regnamespace(%s)",
        "SELECT trigger_name, event_object_table FROM information_schema.triggers WHERE trigger_schema = %s",
    )
    return {
        tuple(" ".join(str(part).replace(schema, "s").split()) for part in row)
        for query in queries
        for row in connection.execute(query, (schema,))
    }


def test_there_is_one_of_each_older_version():
    assert len(VERSIONS) >= SCHEMA_VERSION - 1


def test_an_upgraded_schema_is_as_a_new_one(version, make_postgres_store, make_schema, postgres_url, postgres_schema):
    new = make_schema()

    async def scenario():
        for schema in (postgres_schema, new):
            store = make_postgres_store(schema=schema)
            await store.make_queue()
            assert await store.fetch("SELECT version FROM {s}.schema_version") == [(SCHEMA_VERSION,)]

    asyncio.run(scenario())
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        assert shape(connection, postgres_schema) == shape(connection, new)


def test_everything_is_there(version, make_engine, monkeypatch):
    monkeypatch.setitem(sys.modules, "recorded", recorded)  # the module as the recorder imported it

    async def scenario():
        engine = make_engine()
        found = {summary.execution_id: summary.status for summary in await engine.list_executions()}
        assert {**recorded.STATUSES, "values": "completed"}.items() <= found.items()
        for execution_id in found:
            assert (await engine.history(execution_id))[0].seq == 1
        result = await engine.get_status("values")
        assert (result.output, set(result.steps)) == (recorded.PLAIN, set(recorded.VALUES))
        circuit = (await engine.store.load_circuits())["orders", "remote"]
        assert (circuit.status, circuit.failures) == ("open", 1)

    asyncio.run(scenario())


def test_what_was_not_at_rest_goes_on(version, make_engine):
    async def scenario():
        engine = make_engine()
        assert set(await engine.recover()) == GOES_ON
        outputs = {execution_id: (await engine.wait(execution_id)).output for execution_id in sorted(GOES_ON)}
        assert outputs == {
            "interrupted": "interrupted done and last: end",
            "panicked-due": "panicked-due calm and last: end",
            "retrying": "retrying late and last: end",
            "sleeping": "sleeping and last: end",
        }
        assert (await engine.restart("panicked")).output == "panicked calm and last: end"
        await engine.aclose()

    asyncio.run(scenario())


def test_workers_go_on_with_what_was_enqueued_and_take_what_is_enqueued_now(version, make_engine):
    async def scenario():
        client, engine = make_engine(), make_engine()
        stop = asyncio.Event()
        worker = Worker(engine, WorkerSettings(heartbeat_ms=100, poll_ms=50))
        working = asyncio.create_task(worker.run(stop))
        await client.enqueue("orders", "new", {"kind": "completed"})
        assert (await client.wait("new")).output == "completed and last: end"
        if version != "v1":
            await client.bare_store.queue_orphans(0)
            for name, execution_id in recorded.DISPATCHED:
                if execution_id in {"ended", "begins-later"}:
                    continue
                output = "completed" if name != "orders" else "completed and last: end"
                assert (await client.wait(execution_id)).output == output, execution_id
            assert (await client.bare_store.dispatch_state("begins-later")).place == "scheduled"
        stop.set()
        await working
        await engine.aclose()
        await client.aclose()

    asyncio.run(scenario())


def test_several_processes_upgrade_at_the_same_moment(version, make_postgres_store):
    """Each in a thread and an event loop of its own, as processes are."""
    errors, together = [], threading.Barrier(6)

    def upgrade(store):
        async def scenario():
            together.wait()
            await store.make_queue()
            assert await store.fetch("SELECT version FROM {s}.schema_version") == [(SCHEMA_VERSION,)]

        try:
            asyncio.run(scenario())
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=upgrade, args=(make_postgres_store(),)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_a_process_of_the_old_version_goes_on_while_a_new_one_upgrades(version, make_postgres_store, postgres_url):
    """What it sends is what it has always sent: statements that name their columns, prepared before the upgrade."""
    store = make_postgres_store()
    insert = (
        f"INSERT INTO {store.schema}.executions (id, workflow_name, status, started_at, input_data, retry_config,"
        " panic_config, owner_id, created_at, updated_at) VALUES (%s, 'orders', 'running', now(), '{}', '{}', '{}',"
        " 'old', now(), now())"
    )
    complete = (
        f"UPDATE {store.schema}.executions SET status = 'completed', completed_at = now(), completed_seq = 2,"
        " revision = revision + 1, updated_at = now() WHERE id = %s RETURNING status"
    )
    with psycopg.connect(postgres_url, autocommit=True, prepare_threshold=0) as old:
        for number in range(4):
            if number == 2:
                asyncio.run(store.open())
            old.execute(insert, (f"old-{number}",))
            assert old.execute(complete, (f"old-{number}",)).fetchone() == ("completed",)


def test_a_schema_of_a_newer_version_is_refused(version, make_postgres_store, make_engine):
    async def scenario():
        store = make_postgres_store()
        await store.open()
        newer = SCHEMA_VERSION + 1
        await store.fetch("UPDATE {s}.schema_version SET version = %(newer)s RETURNING 1", {"newer": newer})
        engine = make_engine()
        sentence = f"has schema version {newer}, and this version .* knows up to {SCHEMA_VERSION}: install"
        for act in (
            engine.recover(),
            engine.enqueue("orders", "e", {"kind": "completed"}),
            engine.get_status("values"),
        ):
            with pytest.raises(SchemaVersionError, match=sentence):
                await act
        with pytest.raises(SchemaVersionError, match=sentence):
            await Worker(engine).run(asyncio.Event())
        with contextlib.suppress(SchemaVersionError):
            await engine.aclose()

    asyncio.run(scenario())
