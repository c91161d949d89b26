"""The runtime directory as a store: a registry, and one database per workflow."""

from __future__ import annotations

import asyncio
import functools
import heapq
import logging
import sqlite3
import threading
from operator import attrgetter
from typing import TYPE_CHECKING

from workflow_core.database import removal
from workflow_core.database.backup import back_up
from workflow_core.database.changes import ChangeMarker
from workflow_core.database.diagnosis import closed_error, storage_error
from workflow_core.database.layout import RuntimeLayout
from workflow_core.database.registry import Registry
from workflow_core.database.sqlite import SQLiteStore
from workflow_core.errors import StorageError
from workflow_core.forking import after_fork

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from workflow_core.circuit_breaker import CircuitState
    from workflow_core.database.removal import Candidate, Expiry, Space
    from workflow_core.database.rows import UnfinishedExecution
    from workflow_core.database.store import ExecutionRecord, NewExecution, WorkflowRecord
    from workflow_core.models import ExecutionStatus
    from workflow_core.ownership import Owner
    from workflow_core.summaries import ExecutionSummary, Position

__all__ = ["DirectoryStore"]

logger = logging.getLogger("workflow_core")

_REMOVED_AT_A_TIME = 100
"""How many removed executions are taken out of the registry while it is locked."""
_LEAST_LOOKED_AT = 50
"""How many executions a search looks at in each database at least, however many databases there are."""
_NEW_CONFIG = {"environment": "development", "variables": {}, "secrets": {}}


class DirectoryStore:
    """A store in a runtime directory; nothing is made on disk before the first use.

    Args:
        root: The runtime directory.
        synchronous: ``NORMAL``, or ``FULL`` to survive power cuts.
        busy_timeout_ms: How long a write waits for another process's lock, in milliseconds.
    """

    concurrency = 1

    def __init__(self, root: Path, *, synchronous: str = "NORMAL", busy_timeout_ms: int = 5_000) -> None:
        self.layout = RuntimeLayout(root.absolute())
        self._synchronous = synchronous
        self._busy_timeout_ms = busy_timeout_ms
        self._registry = Registry(self.layout, synchronous, busy_timeout_ms)
        self._lock = self._registry.lock
        self._stores: dict[str, SQLiteStore] = {}
        self._closed = False
        self._registry_changes = ChangeMarker(self.layout.registry)
        self._watched: tuple[Hashable, list[str]] | None = None
        after_fork(self)

    def forked(self) -> None:
        """Begin again in a child process, which may not use a connection of its parent's."""
        self._registry.forked()
        self._lock = self._registry.lock

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
            self._registry_changes.close()
            self._registry.close()

    # The registry ----------------------------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._closed:
            raise closed_error(str(self.layout.root))

    def _open_registry(self) -> Registry:
        self._check_open()
        return self._registry

    def workflow_names(self) -> list[str]:
        """Return the names of the workflows in the registry."""
        return self._open_registry().workflow_names()

    def workflow(self, workflow_name: str) -> SQLiteStore:
        """Return the store of one workflow; its directories and database are made at the first use, if need be."""
        with self._lock:
            store = self._stores.get(workflow_name)
            if store is None:
                self._check_open()
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
            self._registry.wait_for_locks(wait=wait)

    def _existing_names(self, workflow_name: str | None = None) -> list[str]:
        names = self.workflow_names() if workflow_name is None else [workflow_name]
        return [name for name in names if self.layout.database(name).exists()]

    def _existing_stores(self, workflow_name: str | None = None) -> list[SQLiteStore]:
        return [self.workflow(name) for name in self._existing_names(workflow_name)]

    async def back_up(self, to: Path, progress: Callable[[int, int], object] | None = None) -> Path:
        """Copy the runtime directory while it is in use; see `workflow_core.database.backup.back_up`."""
        self._check_open()
        if self._registry.exists():
            self._registry.open()
        cancelled = threading.Event()
        copying = asyncio.get_running_loop().run_in_executor(
            None, back_up, self.layout, to, self._busy_timeout_ms, progress, cancelled
        )
        try:
            return await asyncio.shield(copying)
        except asyncio.CancelledError:
            cancelled.set()
            await asyncio.gather(copying, return_exceptions=True)
            raise

    # Writing ---------------------------------------------------------------------------------------------------------

    async def workflow_defined(self, workflow_name: str, definition: Mapping[str, object], at: datetime) -> None:
        """Make a workflow's directory, files, database and registry entry, and bring ``definition.json`` up to date."""
        store = self.workflow(workflow_name)
        store.open()
        self.layout.write_definition(workflow_name, definition)
        self.layout.make_config(workflow_name, _NEW_CONFIG)
        self._open_registry().add_workflow(workflow_name, at)

    async def execution_started(
        self, execution: NewExecution, owner: Owner, lease_expires_at: int | None, at: datetime
    ) -> ExecutionRecord | None:
        """Record a new execution; return ``None``, or the record of that id which was there already."""
        name, execution_id = execution.workflow_name, execution.execution_id
        store, registry = self.workflow(name), self._open_registry()
        if registry.workflow_of(execution_id) == name:  # who only asks again need not wait for the registry's lock
            existing = await store.load_execution(execution_id)
            if existing is not None:
                return existing
        registry.add_execution(execution_id, name)
        while True:
            # While the registry is locked nobody else can move the id to another workflow. The index is committed
            # before the execution is: a crash in between leaves an id without an execution, never the reverse.
            with registry.transaction() as connection:
                holder = registry.workflow_of(execution_id)
                if holder == name:
                    found = store.execution_started_at_once(execution, owner, lease_expires_at, at)
                    if found is None:
                        registry.count_execution(connection, name, at)
                    return found
                existing = None if holder is None else await self.workflow(holder).load_execution(execution_id)
                if existing is not None:
                    return existing
                registry.move_execution(connection, execution_id, name)

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
        name = self._open_registry().workflow_of(execution_id)
        return None if name is None else await self.workflow(name).load_execution(execution_id)

    async def find_execution_ids(self, prefix: str, limit: int) -> list[str]:
        """Read the ids that begin with a prefix, sorted."""
        return self._open_registry().find_execution_ids(prefix, limit)

    async def list_workflows(self) -> list[WorkflowRecord]:
        """Read the workflows, sorted by name."""
        return self._open_registry().workflows()

    async def load_circuits(self, workflow_name: str | None = None) -> dict[tuple[str, str], CircuitState]:
        """Read the circuits by workflow name and step id."""
        circuits: dict[tuple[str, str], CircuitState] = {}
        for store in self._existing_stores(workflow_name):
            circuits |= await store.load_circuits(workflow_name)
        return circuits

    async def unfinished_executions(
        self, after: Position | None = None, limit: int = 500, hindered: set[str] | None = None
    ) -> list[UnfinishedExecution]:
        """Read executions that are not at rest, of all workflows, the earliest started first."""
        found: list[UnfinishedExecution] = []
        hindered = set() if hindered is None else hindered
        for name in self._existing_names():
            if self.location(name) in hindered:
                continue
            try:
                found += await self.workflow(name).unfinished_executions(after, limit)
            except StorageError as error:  # one database must not keep the others from being recovered
                logger.exception('The executions of workflow "%s" cannot be read', name)
                if error.is_transient:
                    hindered.add(self.location(name))
        return heapq.nsmallest(limit, found, key=attrgetter("position"))

    async def list_executions(
        self,
        workflow_name: str | None = None,
        status: Sequence[ExecutionStatus] | None = None,
        limit: int = 100,
        *,
        started_after: datetime | None = None,
        started_before: datetime | None = None,
        before: Position | None = None,
    ) -> list[ExecutionSummary]:
        """Read executions in short, the latest started first."""
        found: list[ExecutionSummary] = []
        for store in self._existing_stores(workflow_name):
            found += await store.list_executions(
                None, status, limit, started_after=started_after, started_before=started_before, before=before
            )
        return heapq.nlargest(limit, found, key=attrgetter("position"))

    async def search_executions(
        self,
        text: str,
        workflow_name: str | None = None,
        status: Sequence[ExecutionStatus] | None = None,
        limit: int = 100,
        looked_at: int = 5_000,
        *,
        started_after: datetime | None = None,
        started_before: datetime | None = None,
        before: Position | None = None,
    ) -> tuple[list[ExecutionSummary], Position | None]:
        """Read executions whose id or error holds a text, the latest started first.

        Each database tells how far it came; what stands behind the one that came least far is left to the next call.
        """
        stores = self._existing_stores(workflow_name)
        found: list[ExecutionSummary] = []
        reached: Position | None = None
        for store in stores:
            matching, end = await store.search_executions(
                text,
                None,
                status,
                limit,
                max(_LEAST_LOOKED_AT, looked_at // len(stores)),
                started_after=started_after,
                started_before=started_before,
                before=before,
            )
            found += matching
            if end is not None:
                reached = end if reached is None else max(reached, end)
        found = heapq.nlargest(len(found), found, key=attrgetter("position"))
        if reached is not None:
            found = [summary for summary in found if summary.position >= reached]
        if len(found) > limit:
            found = found[:limit]
            reached = found[-1].position
        return found, reached

    async def count_executions(self, workflow_name: str | None = None) -> dict[str, dict[ExecutionStatus, int]]:
        """Count the executions by workflow and status."""
        counts: dict[str, dict[ExecutionStatus, int]] = {}
        for store in self._existing_stores(workflow_name):
            counts |= await store.count_executions(workflow_name)
        return counts

    # Seeing what others write ----------------------------------------------------------------------------------------

    async def change_markers(self) -> Mapping[str, Hashable]:
        """Return, for each workflow, a value that is another one after every commit in its database."""
        marker = self._registry_changes.read()
        if self._watched is None or self._watched[0] != marker:
            self._watched = marker, self.workflow_names()
        return {name: self.workflow(name).marker() for name in self._watched[1] if self.layout.database(name).exists()}

    def for_reading(self) -> DirectoryStore:
        """Return another store of this directory, for a thread that only reads."""
        return DirectoryStore(self.layout.root, synchronous=self._synchronous, busy_timeout_ms=self._busy_timeout_ms)

    # Removing --------------------------------------------------------------------------------------------------------

    async def workflows_with_executions(self, workflow_name: str | None = None) -> list[str]:
        """Return the names of the workflows that have a database, or of those the one that is named."""
        return self._existing_names(workflow_name)

    async def executions_to_remove(
        self, workflow_name: str, expiry: Expiry, after: Position | None, limit: int
    ) -> list[Candidate]:
        """Read which executions of a workflow have expired, the earliest started first."""
        return await self.workflow(workflow_name).executions_to_remove(workflow_name, expiry, after, limit)

    async def executions_removed(
        self, workflow_name: str, expiry: Expiry, after: Position | None, limit: int, enough: Callable[[], bool]
    ) -> tuple[list[Candidate], Position | None]:
        """Remove expired executions from their database; `removal_finished` does the rest."""
        return await self.workflow(workflow_name).executions_removed(
            workflow_name, expiry, after, limit, enough, known_elsewhere=True
        )

    async def removal_finished(self, workflow_name: str) -> None:
        """Take executions that are removed from their database out of the registry's index, and remove their logs.

        While the registry is locked no execution can start, so none can take an id between the look and the removal.
        """
        store = self.workflow(workflow_name)
        while store.names_removed(1):
            with self._registry.transaction() as connection:
                found = store.names_removed(_REMOVED_AT_A_TIME)
                gone = [execution_id for execution_id, in_use in found if not in_use]
                self._registry.remove_executions(connection, gone, workflow_name)
                for execution_id in gone:
                    self.layout.remove_execution_log(workflow_name, execution_id)
            store.forget_removed([execution_id for execution_id, _ in found])

    async def logs_removed(self, workflow_name: str, before: datetime, dry_run: bool) -> int:
        """Remove a workflow's daily logs of the days that were over at ``before``; return how many."""
        logs = self.layout.daily_logs(workflow_name, before)
        if not dry_run:
            for log in logs:
                self.layout.remove(log)
        return len(logs)

    async def space(self, workflow_name: str) -> Space:
        """Tell how much room a workflow's database takes."""
        return await self.workflow(workflow_name).space(workflow_name)

    async def shrunk(self, workflow_name: str, pages: int) -> bool:
        """Give free pages of a workflow's database, and of the registry, back to the file system."""
        more = await self.workflow(workflow_name).shrunk(workflow_name, pages)
        with self._lock:
            try:
                return removal.shrink(self._registry.open(), pages) or more
            except sqlite3.Error as error:
                raise storage_error(error, str(self.layout.registry)) from error
