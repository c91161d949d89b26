"""Schemas of PostgreSQL that the tests of a process use one after the other, each of them as if it was new.

To make the tables takes ten times as long as to empty them. A schema in which a test has changed anything but rows is
left to be removed, and another one takes its place.
"""

import asyncio
import contextlib
import itertools
import os

import psycopg

from workflow_core.database.postgres.store import PostgresStore

_numbers = itertools.count(1)

# `xmin` is the transaction that wrote a row of a catalogue: it tells of every change there, and of those alone.
SHAPE = """
WITH mine AS (SELECT oid, xmin, reltuples FROM pg_class WHERE relnamespace = to_regnamespace(%(s)s))
SELECT md5(string_agg(part, ' ' ORDER BY part)) FROM (
    SELECT concat('n', xmin) FROM pg_namespace WHERE oid = to_regnamespace(%(s)s)
    UNION ALL SELECT concat('r', oid, '.', xmin, '.', reltuples) FROM mine
    UNION ALL SELECT concat('a', mine.oid, '.', attnum, '.', a.xmin) FROM pg_attribute a JOIN mine ON attrelid = oid
    UNION ALL SELECT concat('c', oid, '.', xmin) FROM pg_constraint WHERE connamespace = to_regnamespace(%(s)s)
    UNION ALL SELECT concat('t', t.oid, '.', t.xmin) FROM pg_trigger t JOIN mine ON tgrelid = mine.oid
    UNION ALL SELECT concat('p', oid, '.', xmin) FROM pg_proc WHERE pronamespace = to_regnamespace(%(s)s)
) AS parts (part)"""
TABLES = "SELECT oid::regclass::text FROM pg_class WHERE relnamespace = %(s)s::regnamespace AND relkind = 'r'"
RESTARTED = """
SELECT setval(seqrelid::regclass, seqstart, false) FROM pg_sequence JOIN pg_class ON pg_class.oid = seqrelid
WHERE relnamespace = %(s)s::regnamespace"""


class UsedSchema:
    """A schema that has been used, and can be used again.

    Args:
        url: The database.
        has_queue: Whether the tables of the queue are there, as after the first execution that was enqueued.
    """

    def __init__(self, url: str, *, has_queue: bool) -> None:
        self._url, self._has_queue = url, has_queue
        self._name = self._shape = self._emptied = ""

    def as_new(self) -> str:
        """Return its name, when nothing but what was made with its tables is there."""
        with self._connected() as connection:
            if self._name and self._shape_now(connection) == self._shape:
                connection.execute(self._emptied)
                connection.execute(RESTARTED, {"s": self._name})
            else:
                self._remove(connection)
                self._make(connection)
        return self._name

    def close(self) -> None:
        """Remove it."""
        if self._name:
            with self._connected() as connection:
                self._remove(connection)

    @contextlib.contextmanager
    def _connected(self):
        with psycopg.connect(self._url, autocommit=True) as connection:
            connection.execute("SET client_min_messages = warning")
            yield connection

    def _make(self, connection: psycopg.Connection) -> None:
        self._name = f"t_{os.getpid()}_used_{next(_numbers)}"
        store = PostgresStore(self._url, schema=self._name)
        asyncio.run(store.make_queue() if self._has_queue else store.fetch("SELECT 1"))
        store.close()
        tables = [table for (table,) in connection.execute(TABLES, {"s": self._name})]
        emptied = [table for table in tables if not connection.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchone()]
        # One statement, at the end of which what refers to each other is gone, in whatever order. The lock waits for
        # what the server is still doing for clients that are gone; the triggers of the queue need the path.
        deleted = ", ".join(f"d{number} AS (DELETE FROM {table})" for number, table in enumerate(emptied))
        self._emptied = (
            f"BEGIN; SET LOCAL search_path = {self._name}; LOCK {', '.join(emptied)} IN EXCLUSIVE MODE;"
            f" WITH {deleted} SELECT 1; COMMIT"
        )
        self._shape = self._shape_now(connection)

    def _remove(self, connection: psycopg.Connection) -> None:
        if self._name:
            connection.execute(f"DROP SCHEMA IF EXISTS {self._name} CASCADE")
            self._name = ""

    def _shape_now(self, connection: psycopg.Connection) -> str:
        return connection.execute(SHAPE, {"s": self._name}).fetchone()[0]
