"""The runtime directory as a store: a registry, and one database per workflow."""

from __future__ import annotations

import contextlib
import functools
import logging
import sqlite3
import threading
from typing import TYPE_CHECKING

from workflow_core.database.connection import (
    after_fork,
    closed_error,
    leave_to_parent,
    open_database,
    roll_back,
)
from workflow_core.database.diagnosis import storage_error
from workflow_core.database.layout import RuntimeLayout
from workflow_core.database.schema import REGISTRY_SCHEMA, REGISTRY_SCHEMA_VERSION
from workflow_core.database.sqlite import SQLiteStore
from workflow_core.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime
    from pathlib import Path

    from workflow_core.circuit_breaker import CircuitState
    from workflow_core.database.store import ExecutionRecord, NewExecution
    from workflow_core.models import ExecutionStatus
    from workflow_core.ownership import Owner

__all__ = ["DirectoryStore"]

logger = logging.getLogger("workflow_core")


class DirectoryStore:
    """A store in a runtime directory; nothing is made on disk before the first use.

    Args:
        root: The runtime directory.
        synchronous: ``NORMAL``, or ``FULL`` to survive power cuts.
        busy_timeout_ms: How long a write waits for another process's lock, in milliseconds.
    """

    def __init__(self, root: Path, *, synchronous: str = "NORMAL", busy_timeout_ms: int = 5_000) -> None:
        self.layout = RuntimeLayout(root.absolute())
        self._synchronous = synchronous
        self._busy_timeout_ms = busy_timeout_ms
        self._lock = threading.RLock()
        self._registry: sqlite3.Connection | None = None
        self._stores: dict[str, SQLiteStore] = {}
        self._closed = False
        after_fork(self)

    def forked(self) -> None:
        """Begin again in a child process, which may not use a connection of its parent's."""
        self._lock = threading.RLock()
        if self._registry is not None:
            leave_to_parent(self._registry)
            self._registry = None

    def location(self, workflow_name: str | None = None) -> str:
        """Tell where the data of a workflow lies, or the directory of all."""
        return str(self.layout.root if workflow_name is None else self.layout.database(workflow_name))

    def close(self) -> None:
        """Let go of all databases."""
        with self._lock:
            self._closed = True
            for store in self._stores.values():
                store.close()
            self._stores.clear()
            if self._registry is not None:
                self._registry.close()
                self._registry = None

    # The registry ----------------------------------------------------------------------------------------------------

    def _open_registry(self) -> sqlite3.Connection:
        if self._closed:
            raise closed_error(str(self.layout.root))
        if self._registry is None:
            self.layout.make_root()
            self._registry = open_database(
                self.layout.registry, REGISTRY_SCHEMA, REGISTRY_SCHEMA_VERSION, self._synchronous, self._busy_timeout_ms
            )
        return self._registry

    def _registry_rows(self, sql: str, parameters: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
        with self._lock:
            try:
                return self._open_registry().execute(sql, parameters).fetchall()
            except sqlite3.Error as error:
                raise storage_error(error, str(self.layout.registry)) from error

    @contextlib.contextmanager
    def _registry_transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            registry = self._open_registry()
            try:
                registry.execute("BEGIN IMMEDIATE")
                yield registry
                if registry.in_transaction:
                    registry.execute("COMMIT")
            except sqlite3.Error as error:
                raise storage_error(error, str(self.layout.registry)) from error
            finally:
                roll_back(registry)

    def workflow_names(self) -> list[str]:
        """Return the names of the workflows in the registry."""
        if not self.layout.registry.exists():
            return []
        return [str(row[0]) for row in self._registry_rows("SELECT name FROM workflow_registry ORDER BY name")]

    def _workflow_of(self, execution_id: str) -> str | None:
        if not self.layout.registry.exists():
            return None
        rows = self._registry_rows("SELECT workflow_name FROM execution_index WHERE execution_id = ?", (execution_id,))
        return str(rows[0][0]) if rows else None

    def workflow(self, workflow_name: str) -> SQLiteStore:
        """Return the store of one workflow; its directories and database are made at the first use, if need be."""
        with self._lock:
            store = self._stores.get(workflow_name)
            if store is None:
                if self._closed:
                    raise closed_error(str(self.layout.root))
                store = self._stores[workflow_name] = SQLiteStore(
                    self.layout.database(workflow_name),
                    synchronous=self._synchronous,
                    busy_timeout_ms=self._busy_timeout_ms,
                    before_opening=functools.partial(self._make_directories, workflow_name),
                )
            return store

    def _make_directories(self, workflow_name: str) -> None:
        self.layout.make_root()
        self.layout.make_workflow(workflow_name)

    def wait_for_locks(self, location: str, *, wait: bool) -> None:
        """Tell whether writes to a database wait for another process's lock, or report it at once.

        Args:
            location: The database, as a `StorageError` names it.
            wait: ``False`` while whoever calls tries again by itself, and lets others run in between.
        """
        for store in list(self._stores.values()):
            store.wait_for_locks(location, wait=wait)
        if location == str(self.layout.registry):
            with self._lock, contextlib.suppress(sqlite3.Error):
                if self._registry is not None:
                    self._registry.execute(f"PRAGMA busy_timeout = {self._busy_timeout_ms if wait else 0}")

    def _existing_stores(self, workflow_name: str | None = None) -> list[SQLiteStore]:
        names = self.workflow_names() if workflow_name is None else [workflow_name]
        return [self.workflow(name) for name in names if self.layout.database(name).exists()]

    # Writing ---------------------------------------------------------------------------------------------------------

    async def workflow_defined(self, workflow_name: str, definition: Mapping[str, object], at: datetime) -> None:
        """Make a workflow's directory, ``definition.json``, database and registry entry, unless they are there."""
        store = self.workflow(workflow_name)
        store.open()
        self.layout.write_definition(workflow_name, definition)
        self._registry_rows(
            "INSERT INTO workflow_registry (name, db_path, workflow_dir, log_dir, created_at) VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT (name) DO NOTHING",
            (
                workflow_name,
                self.layout.relative(self.layout.database(workflow_name)),
                self.layout.relative(self.layout.workflow_dir(workflow_name)) + "/",
                self.layout.relative(self.layout.log_dir(workflow_name)) + "/",
                at.isoformat(timespec="microseconds"),
            ),
        )

    async def execution_started(
        self, execution: NewExecution, owner: Owner, lease_expires_at: int | None, at: datetime
    ) -> ExecutionRecord | None:
        """Record a new execution; return ``None``, or the record of that id which was there already."""
        name, execution_id = execution.workflow_name, execution.execution_id
        store = self.workflow(name)
        self._registry_rows(
            "INSERT INTO execution_index (execution_id, workflow_name) VALUES (?, ?) ON CONFLICT DO NOTHING",
            (execution_id, name),
        )
        while True:
            # While the registry is locked nobody else can move the id to another workflow. The index is committed
            # before the execution is: a crash in between leaves an id without an execution, never the reverse.
            with self._registry_transaction() as registry:
                holder = self._workflow_of(execution_id)
                if holder == name:
                    found = await store.execution_started(execution, owner, lease_expires_at, at)
                    if found is None:
                        self._count_execution(registry, name, at)
                    return found
                existing = None if holder is None else await self.workflow(holder).load_execution(execution_id)
                if existing is not None:
                    return existing
                registry.execute(
                    "INSERT INTO execution_index (execution_id, workflow_name) VALUES (?, ?)"
                    " ON CONFLICT (execution_id) DO UPDATE SET workflow_name = excluded.workflow_name",
                    (execution_id, name),
                )

    def _count_execution(self, registry: sqlite3.Connection, workflow_name: str, at: datetime) -> None:
        """Count a new execution, which is committed already: what goes wrong here must not make it look as if not."""
        try:
            registry.execute(
                "UPDATE workflow_registry SET last_execution_at = ?, execution_count = execution_count + 1"
                " WHERE name = ?",
                (at.isoformat(timespec="microseconds"), workflow_name),
            )
            registry.execute("COMMIT")
        except sqlite3.Error as error:
            logger.warning(
                "An execution was started, but not counted: %s", storage_error(error, str(self.layout.registry))
            )
            roll_back(registry)

    async def owner_retired(self, owner: Owner) -> None:
        """Forget an owner that ended in an orderly way."""
        failures = []
        for store in list(self._stores.values()):
            try:
                await store.owner_retired(owner)
            except StorageError as error:  # the others can be told all the same
                failures.append(error)
        if failures:
            raise failures[0]

    # Reading ---------------------------------------------------------------------------------------------------------

    async def load_execution(self, execution_id: str) -> ExecutionRecord | None:
        """Read an execution."""
        name = self._workflow_of(execution_id)
        return None if name is None else await self.workflow(name).load_execution(execution_id)

    async def load_circuits(self, workflow_name: str | None = None) -> dict[tuple[str, str], CircuitState]:
        """Read the circuits by workflow name and step id."""
        circuits: dict[tuple[str, str], CircuitState] = {}
        for store in self._existing_stores(workflow_name):
            circuits |= await store.load_circuits(workflow_name)
        return circuits

    async def unfinished_executions(self) -> list[tuple[ExecutionRecord, Owner | None, int | None]]:
        """Read all executions that are not at rest, of all workflows."""
        found: list[tuple[ExecutionRecord, Owner | None, int | None]] = []
        for name in self.workflow_names():
            if self.layout.database(name).exists():
                try:
                    found += await self.workflow(name).unfinished_executions()
                except StorageError:  # one damaged database must not keep the others from being recovered
                    logger.exception('The executions of workflow "%s" cannot be read', name)
        return found

    async def list_executions(
        self, workflow_name: str | None = None, status: ExecutionStatus | None = None, limit: int = 100, offset: int = 0
    ) -> list[ExecutionRecord]:
        """Read executions, the latest started first."""
        found: list[ExecutionRecord] = []
        for store in self._existing_stores(workflow_name):
            found += await store.list_executions(workflow_name, status, limit + offset)
        found.sort(key=lambda record: (-record.started_at.timestamp(), record.execution_id))
        return found[offset : offset + limit]
