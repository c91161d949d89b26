"""A schema that tests use one after the other is as new for each of them, or is another one."""

import asyncio

import psycopg
import pytest

from tests.postgres_schemas import UsedSchema
from tests.unit.store_calls import NOW
from workflow_core.database.dispatch import Dispatch
from workflow_core.database.postgres.schema import TABLES
from workflow_core.database.postgres.store import PostgresStore
from workflow_core.database.store import NewExecution


@pytest.fixture
def used(postgres_url):
    schema = UsedSchema(postgres_url, has_queue=True)
    yield schema
    schema.close()


def rows(url, schema):
    with psycopg.connect(url) as connection:
        counts = [
            connection.execute(f"SELECT count(*) FROM {schema}.{table}").fetchone()
            for table in (*TABLES, "procrastinate_jobs", "procrastinate_events")
        ]
        return sum(count for (count,) in counts)


def test_rows_are_removed_and_numbers_begin_again(used, postgres_url):
    numbers = []
    for _ in range(2):
        name = used.as_new()
        assert rows(postgres_url, name) == 0
        store = PostgresStore(postgres_url, schema=name)

        async def enqueue(store=store):
            await store.execution_enqueued(NewExecution("w", "e", None, "{}", "{}", None), Dispatch(), NOW)
            return await store.fetch("SELECT job_id, position FROM {s}.dispatches")

        numbers.append((name, asyncio.run(enqueue())))
        store.close()
        assert rows(postgres_url, name) > 0
    assert numbers[0] == numbers[1]


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE {s}.steps RENAME COLUMN kind TO sort",
        "ALTER TABLE {s}.steps ALTER COLUMN kind DROP NOT NULL",
        "ALTER TABLE {s}.steps DISABLE TRIGGER ALL",
        "DROP INDEX {s}.idx_execution_step",
        "CREATE TABLE {s}.another ()",
        "GRANT SELECT ON {s}.steps TO PUBLIC",
        "GRANT USAGE ON SCHEMA {s} TO PUBLIC",
        "ANALYZE {s}.steps",
        "DROP SCHEMA {s} CASCADE",
    ],
)
def test_a_schema_that_was_changed_is_not_used_again(used, postgres_url, change):
    name = used.as_new()
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(change.format(s=name))
    assert used.as_new() != name
