"""The schemas that one process of a test run uses, in a database that it may share with others.

Each schema is named after a number that the process has drawn, and the process holds an advisory lock of that number
as long as it lives. So what a killed run has left behind is found and removed by the next one.
"""

from __future__ import annotations

import contextlib
import itertools
import secrets
from typing import Final

import psycopg

from pytest_workflow.postgres.storage import PostgresStorage
from workflow_core.database.postgres.address import Address
from workflow_core.database.postgres.diagnosis import storage_error

__all__ = ["PostgresDatabases"]

_LOCKS: Final = 0x74657374  # "test"
_PREFIX: Final = "workflow_test_"


class PostgresDatabases:
    """Gives schemas and takes them back.

    Args:
        url: A database in which schemas may be made.

    Raises:
        ValidationError: It is no URL of PostgreSQL.
        StorageError: It cannot be used.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._number = secrets.randbits(31)
        self._counter = itertools.count(1)
        self._all: list[PostgresStorage] = []
        self._spare: list[PostgresStorage] = []
        address = Address(url, f"{_PREFIX}0")
        try:
            self._holder = psycopg.connect(address.conninfo, autocommit=True)
        except psycopg.Error as error:
            failure = storage_error(error, str(address), connecting=True)
        else:
            self._holder.execute("SELECT pg_advisory_lock(%s::int, %s::int)", (_LOCKS, self._number))
            self._remove_left_behind()
            return
        raise failure  # without its cause, which keeps the password

    def take(self) -> PostgresStorage:
        """Return a schema without rows; closing it gives it back."""
        if self._spare:
            storage = self._spare.pop()
        else:
            schema = f"{_PREFIX}{self._number:08x}_{next(self._counter)}"
            storage = PostgresStorage(self._url, schema, self.take, self._give_back)
            self._all.append(storage)
        storage.empty()
        return storage

    def _give_back(self, storage: PostgresStorage) -> None:
        if storage not in self._spare:
            self._spare.append(storage)

    def close(self) -> None:
        """Remove the schemas, and end the connections."""
        with contextlib.ExitStack() as stack:
            stack.callback(self._holder.close)
            for storage in self._all:
                stack.callback(storage.disconnect)
                with contextlib.suppress(psycopg.Error):  # a server that is gone keeps nothing that anybody can remove
                    storage.drop()

    def _remove_left_behind(self) -> None:
        """Remove the schemas of processes that ended without doing so."""
        found = self._holder.execute(
            "SELECT nspname FROM pg_namespace WHERE nspname ~ %s", (f"^{_PREFIX}[0-9a-f]{{8}}_[0-9]+$",)
        ).fetchall()
        for number, group in itertools.groupby(sorted(row[0] for row in found), lambda name: name.split("_")[2]):
            values = (_LOCKS, int(number, 16))
            row = self._holder.execute("SELECT pg_try_advisory_lock(%s::int, %s::int)", values).fetchone()
            if row is not None and row[0]:
                for name in group:
                    self._holder.execute(f'DROP SCHEMA IF EXISTS "{name}" CASCADE'.encode())
                self._holder.execute("SELECT pg_advisory_unlock(%s::int, %s::int)", values)
